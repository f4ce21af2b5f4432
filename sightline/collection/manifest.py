"""``manifest.json`` of a generation, and where things lie. Pure data: no vectors are touched here."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from sightline.errors import CollectionCorrupt, SourceError
from sightline.storage import FileRecord

MANIFEST_NAME = "manifest.json"
CURRENT_NAME = "CURRENT"
LEDGER_NAME = "ledger.jsonl"
_GENERATION_NAME = re.compile(r"gen-\d{6}")


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
    """What a generation is. ``index`` holds the plan and its measured recall, by kind of query."""

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


def current_generation(collection: Path) -> Path:
    """The directory that ``CURRENT`` names. Raises SourceError (no collection) or CollectionCorrupt."""
    pointer = collection / CURRENT_NAME
    if not pointer.is_file():
        raise SourceError(
            f"{collection} is not a collection (it has no {CURRENT_NAME} file); "
            "make one with: sightline index build --encoder E --source S --out COLLECTION."
        )
    name = pointer.read_text(encoding="ascii", errors="replace").strip()
    directory = collection / name
    if not _GENERATION_NAME.fullmatch(name) or not directory.is_dir():
        raise CollectionCorrupt(
            f"{pointer} names a generation that is not there; write the name of an existing gen-… folder into it."
        )
    return directory


def read_manifest(generation: Path) -> CollectionManifest:
    """Read and validate ``manifest.json``. Raises CollectionCorrupt."""
    try:
        manifest = CollectionManifest.model_validate_json((generation / MANIFEST_NAME).read_bytes())
    except (OSError, ValidationError, ValueError) as error:
        raise CollectionCorrupt(
            f"{generation / MANIFEST_NAME} is missing, damaged or of a newer version; "
            "restore the generation, update Sightline or build the collection again."
        ) from error
    if not manifest.counts.add_up() or manifest.counts.indexed != manifest.num_items:
        raise CollectionCorrupt(
            f"The counts in {generation / MANIFEST_NAME} do not add up; build the collection again."
        )
    return manifest


def next_generation_name(collection: Path) -> str:
    """The name after the highest one present, published or not."""
    numbers = [int(p.name[4:]) for p in collection.glob("gen-*") if _GENERATION_NAME.fullmatch(p.name)]
    return f"gen-{max(numbers, default=0) + 1:06d}"


def shard_name(kind: str, shard: int, num_shards: int, suffix: str) -> str:
    """``img_emb/img_emb_07.npy``: numbers are padded, so that lexicographic order is row order."""
    width = len(str(max(num_shards - 1, 0)))
    return f"{kind}/{kind}_{shard:0{width}d}.{suffix}"
