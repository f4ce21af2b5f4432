"""``manifest.json`` of a generation, and where things lie. Pure data: no vectors are touched here."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from sightline.errors import (
    CollectionCorrupt,
    CountMismatch,
    EncoderMismatch,
    GenerationUnknown,
    ManifestInvalid,
    ManifestMissing,
    QueryError,
    SchemaUnknown,
    SourceError,
)
from sightline.storage import FileRecord, NewFile, sha256_of

MANIFEST_NAME = "manifest.json"
DIGEST_NAME = "manifest.sha256"
"""The SHA-256 of the manifest itself, which cannot hold its own; generations before it have none."""
CURRENT_NAME = "CURRENT"
LEDGER_NAME = "ledger.jsonl"
INDEX_FOLDER = "index"
"""Derived files, which can be made again: each is verified by whoever reads it, right before it does."""
GENERATION_PATTERN = r"^gen-[0-9]{6}$"
"""A generation is named, never addressed: nothing of this shape leads out of its collection."""
SCHEMA_VERSION = 1
_GENERATION_NAME = re.compile(r"gen-[0-9]{6}")


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class EncoderRecord(_Strict):
    """Which encoder made the vectors. ``spec`` loads it again on this machine; ``fingerprint`` is what must match."""

    spec: str
    name: str
    fingerprint: str
    dim: int
    precision: str
    licence: str
    untrained: bool


class Counts(_Strict):
    """``seen = indexed + duplicates + skipped + failed``, for pictures and for captions; ``reasons`` breaks the last
    three down by reason code."""

    seen: int
    indexed: int
    duplicates: int
    skipped: int
    failed: int
    captions_seen: int
    captions_indexed: int
    captions_skipped: int
    reasons: dict[str, int]

    def add_up(self) -> bool:
        """Whether every input is accounted for."""
        pictures = self.indexed + self.duplicates + self.skipped + self.failed
        return self.seen == pictures and self.captions_seen == self.captions_indexed + self.captions_skipped


class CollectionManifest(_Strict):
    """What a generation is. ``index`` holds the plan and its measured recall, by kind of query; ``live_sequence`` is
    the last live change that it contains, 0 where it was built from a source; ``job`` names the build that gave it (the
    same encoder, source and options give the same), and is empty where no build did."""

    schema_version: Literal[1] = 1
    generation: str
    created: str
    sightline_version: str
    source: str
    encoder: EncoderRecord
    num_items: int
    num_captions: int
    num_shards: int
    counts: Counts
    index: dict[str, Any]
    files: dict[str, FileRecord]
    live_sequence: int = 0
    job: str = ""

    def require_encoder(self, fingerprint: str) -> None:
        """Raise EncoderMismatch unless the encoder of this fingerprint made the vectors.

        Inner products with another encoder's vectors look like scores and mean nothing.
        """
        if self.encoder.fingerprint != fingerprint:
            raise EncoderMismatch(
                f"The collection was built by {self.encoder.name} ({self.encoder.fingerprint[:12]}) and this is "
                f"another encoder ({fingerprint[:12]}); name the right one with --encoder or build it again."
            )


def current_name(collection: Path) -> str:
    """The generation that ``CURRENT`` names. Raises SourceError (no collection) or CollectionCorrupt."""
    pointer = collection / CURRENT_NAME
    if not pointer.is_file():
        raise SourceError(
            f"{collection} is not a collection (it has no {CURRENT_NAME} file); "
            "make one with: sightline index build --encoder E --source S --out COLLECTION."
        )
    name = pointer.read_text(encoding="ascii", errors="replace").strip()
    if not _GENERATION_NAME.fullmatch(name) or not (collection / name).is_dir():
        raise CollectionCorrupt(
            f"{pointer} names a generation that is not there; write the name of an existing gen-… folder into it."
        )
    return name


def current_generation(collection: Path) -> Path:
    """The directory that ``CURRENT`` names. Raises SourceError (no collection) or CollectionCorrupt."""
    return collection / current_name(collection)


def generation_directory(collection: Path, name: str) -> Path:
    """The directory of a generation by its name. Raises QueryError (no name of one) or GenerationUnknown."""
    if not _GENERATION_NAME.fullmatch(name):
        raise QueryError("This is no name of a generation; names look like gen-000001.")
    if not (collection / name).is_dir():
        raise GenerationUnknown(f"The collection has no generation {name}; build it, or name one that is there.")
    return collection / name


def read_manifest(generation: Path) -> CollectionManifest:
    """Read and validate ``manifest.json``.

    Raises ManifestMissing, ManifestInvalid, SchemaUnknown or CountMismatch.
    """
    path = generation / MANIFEST_NAME
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ManifestMissing(
            f"{path} is missing or cannot be read; restore the generation or build the collection again."
        ) from error
    try:
        manifest = CollectionManifest.model_validate_json(content)
    except (ValidationError, ValueError) as error:
        version = _schema_version(content)
        if version is not None and version != SCHEMA_VERSION:
            raise SchemaUnknown(
                f"{path} has the schema {version} and this Sightline reads {SCHEMA_VERSION}; update Sightline "
                "or build the collection again."
            ) from error
        raise ManifestInvalid(f"{path} is damaged; restore the generation or build the collection again.") from error
    if manifest.generation != generation.name:
        raise ManifestInvalid(
            f"{path} says that it belongs to {manifest.generation}; give the folder its own name again."
        )
    if not manifest.counts.add_up() or manifest.counts.indexed != manifest.num_items:
        raise CountMismatch(f"The counts in {generation / MANIFEST_NAME} do not add up; build the collection again.")
    return manifest


def write_manifest(directory: Path, manifest: CollectionManifest) -> None:
    """Write ``manifest.json`` and its SHA-256 into a generation that is not published yet. Raises OSError."""
    with NewFile(directory / MANIFEST_NAME) as file:
        file.write(f"{manifest.model_dump_json(indent=2)}\n".encode())
    with NewFile(directory / DIGEST_NAME) as file:
        file.write(f"{sha256_of(directory / MANIFEST_NAME)}\n".encode())


def manifest_as_written(directory: Path) -> bool:
    """Whether the manifest has the SHA-256 that was noted with it; True where none was noted. Raises OSError."""
    digest = directory / DIGEST_NAME
    return not digest.is_file() or digest.read_bytes() == f"{sha256_of(directory / MANIFEST_NAME)}\n".encode()


def _schema_version(content: bytes) -> int | None:
    """The version that a manifest of unknown shape gives itself."""
    try:
        version = json.loads(content)["schema_version"]
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    return version if isinstance(version, int) else None


def next_generation_name(collection: Path) -> str:
    """The name after the highest one present, published or not."""
    numbers = [int(p.name[4:]) for p in collection.glob("gen-*") if _GENERATION_NAME.fullmatch(p.name)]
    return f"gen-{max(numbers, default=0) + 1:06d}"


def shard_name(kind: str, shard: int, num_shards: int, suffix: str) -> str:
    """``img_emb/img_emb_07.npy``: numbers are padded, so that lexicographic order is row order."""
    width = len(str(max(num_shards - 1, 0)))
    return f"{kind}/{kind}_{shard:0{width}d}.{suffix}"
