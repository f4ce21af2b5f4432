"""A collection from vectors that somebody else has made: nothing is encoded, everything is checked that can be.

No file says which encoder made vectors (clip-retrieval, autofaiss and plain FAISS keep no name), so the caller names
one. A wrong name gives scores that look right and mean nothing; ``CheckPictures`` encodes a few pictures to find out.
"""

from __future__ import annotations

import hashlib
import json
import re
import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image

from indexer.indexing import IndexOptions, build_indexes
from indexer.ledger import Ledger
from indexer.recall import MAX_SAMPLE_ROWS, measure_recall
from indexer.vector_files import Vectors
from indexer.vector_sources import VectorBlock, VectorSource
from sightline.collection import CollectionManifest, EncoderRecord, GenerationWriter, NewItem
from sightline.encoder import Encoder
from sightline.errors import EncoderMismatch, ImageError, SourceError
from sightline.images import ImageLimits, decode_image
from sightline.sources.description import distinct
from sightline.sources.lists import named_picture
from sightline.sources.record import Rejected

MIN_CHECK_COSINE = 0.99
"""Half precision and another decoder move a vector by less than 0.001; another encoder's are at 0 to 0.3."""
_UNIT_ERROR = 2e-3
_TRIES_PER_CHECK = 100
_ID = re.compile(r"[!-~]{1,128}")
_HASH = re.compile(r"[0-9a-f]{64}")
_URI_KEYS = ("uri", "image_path", "path", "url", "key")
_OURS = frozenset(
    {"item_id", "id", "sha256", "caption", "captions", "metadata", "width_px", "height_px", "num_bytes", "mtime_ns",
     "thumbnail_offset", "thumbnail_bytes"}
)  # fmt: skip


@dataclass(frozen=True)
class ImportReport:
    """``num_normalised`` vectors did not have length 1; ``num_checked`` pictures were encoded again, with the lowest
    cosine to what was imported."""

    manifest: CollectionManifest
    num_normalised: int
    num_checked: int
    min_cosine: float | None


class PictureEncoder(Protocol):
    """What a check needs of ``sightline.encoder.Encoder``."""

    def encode_images(self, images: Sequence[Image.Image]) -> Vectors: ...


class CheckPictures:
    """Encodes the first ``count`` pictures whose names lead to files below ``root`` again. Raises EncoderMismatch."""

    def __init__(self, encoder: PictureEncoder, root: Path, count: int) -> None:
        self.num_checked = 0
        self.min_cosine: float | None = None
        self._encoder, self._root, self._count = encoder, root.resolve(), count
        self._tries = count * _TRIES_PER_CHECK

    def check(self, uri: str, vector: Vectors) -> None:
        """Compare one imported vector, float32 ``[D]`` of unit length, with that of its picture, if it can be found."""
        if self.num_checked >= self._count or not self._tries:
            return
        self._tries -= 1
        found = named_picture(self._root, uri, uri)
        if isinstance(found, Rejected):
            return
        try:
            picture = decode_image(found.data, ImageLimits())
        except ImageError:
            return
        cosine = float(self._encoder.encode_images([picture])[0] @ vector)
        self.num_checked += 1
        self.min_cosine = cosine if self.min_cosine is None else min(cosine, self.min_cosine)
        if cosine < MIN_CHECK_COSINE:
            raise EncoderMismatch(
                f"The vector of {uri} has a cosine of {cosine:.3f} to what this encoder makes of the picture (at least "
                f"{MIN_CHECK_COSINE} is the same); name the encoder that made the vectors with --encoder."
            )


def import_collection(
    source: VectorSource,
    source_name: str,
    encoder: EncoderRecord,
    out: Path,
    *,
    check: CheckPictures | None = None,
    index: IndexOptions | None = None,
    advance: Callable[[int], None] = lambda steps: None,
) -> ImportReport:
    """Write ready vectors into a new generation of ``out`` and make it current. Memory holds a block of rows.

    Vectors that have no length 1 are given it; rows that hold NaN, infinity or nothing but zeros go to the ledger.
    Raises SourceError (another dimension, nothing usable), EncoderMismatch or StorageError; then nothing is published.
    """
    if source.dim != encoder.dim:
        raise SourceError(
            f"The vectors of {source_name} have {source.dim} dimensions and {encoder.name} makes {encoder.dim}; name "
            "the encoder that made them."
        )
    with GenerationWriter(out, encoder) as writer:
        importer = _Importer(writer, check)
        for block in source.blocks():
            importer.add(block)
            advance(len(block.rows))
        counts = importer.ledger.counts()
        if not counts.indexed:
            reasons = ", ".join(f"{reason} {count}" for reason, count in counts.reasons.items())
            raise SourceError(f"None of the {counts.seen} vectors of {source_name} can be used ({reasons}).")
        writer.finish()
        facts = {"dtype": "float16", **measure_recall(importer.sample)}
        facts |= build_indexes(writer.directory, encoder.dim, index or IndexOptions())
        manifest = writer.publish(counts, source=source_name, index=facts)
    return ImportReport(
        manifest,
        importer.num_normalised,
        check.num_checked if check else 0,
        check.min_cosine if check else None,
    )


def encoder_record(encoder: Encoder, spec: str) -> EncoderRecord:
    """What the manifest says of an encoder that is loaded by ``spec``."""
    identity = encoder.identity
    return EncoderRecord(
        spec=spec, name=identity.name, fingerprint=identity.fingerprint, dim=identity.dim,
        precision=identity.precision, licence=identity.licence, untrained=identity.untrained,
    )  # fmt: skip


class _Importer:
    """Blocks into items; remembers the ids it has seen in a private file."""

    def __init__(self, writer: GenerationWriter, check: CheckPictures | None) -> None:
        self.ledger = Ledger()
        self.num_normalised = 0
        self.sample: list[tuple[Vectors, Vectors | None]] = []
        self._writer, self._check = writer, check
        self._ids = sqlite3.connect("")
        self._ids.execute("PRAGMA journal_mode = OFF")
        self._ids.execute("CREATE TABLE ids (id TEXT PRIMARY KEY) WITHOUT ROWID")

    def add(self, block: VectorBlock) -> None:
        """Write the usable rows of a block, account for the others."""
        images, good = self._unit(block.images)
        texts, good_texts = self._unit(block.texts)
        of = _rows_of_each(block)
        for row, about in enumerate(block.rows):
            uri = _uri(about, block.places[row])
            problem = self._problem(bool(good[row] and block.good[row]), uri, item_id := _item_id(about, uri))
            chosen = [text for text in of[row] if good_texts[text] and block.captions[text]]
            if problem is not None:
                self.ledger.captions(0, len(of[row]), "caption_of_rejected")
                self._writer.reject(uri, *problem)
                self.ledger.rejected(problem[0], problem[1])
                continue
            if self._check is not None:
                self._check.check(uri, images[row])
            vectors = texts[chosen] if chosen else None  # [C, D]
            item = _item(
                about, uri, item_id, images[row], tuple(block.captions[text] or "" for text in chosen), vectors
            )
            if len(self.sample) < MAX_SAMPLE_ROWS:
                self.sample.append((images[row], vectors[0] if vectors is not None else None))
            self._writer.add(item)
            self.ledger.indexed()
            bad = sum(not good_texts[text] for text in of[row])
            self.ledger.captions(len(chosen), bad, "bad_vector")
            self.ledger.captions(0, len(of[row]) - len(chosen) - bad, "vector_without_caption")

    def _problem(self, good: bool, uri: str, item_id: str) -> tuple[str, str, str] | None:
        if not good:
            return "failed", "bad_vector", "the vector is missing, zero, of another dimension or holds NaN or infinity"
        if not self._ids.execute("INSERT OR IGNORE INTO ids VALUES (?)", (item_id,)).rowcount:
            return "duplicate", "duplicate_id", f"an earlier row has the id {item_id}"
        return None

    def _unit(self, vectors: Vectors) -> tuple[Vectors, Any]:
        """Vectors of length 1, and which rows can have it: bool ``[N]``."""
        lengths = np.linalg.norm(vectors.astype(np.float64), axis=1)  # [N]
        good = np.isfinite(lengths) & (lengths > 1e-9)
        other = good & (np.abs(lengths - 1.0) > _UNIT_ERROR)
        if other.any():
            vectors = vectors.copy()
            vectors[other] /= lengths[other, None]
            self.num_normalised += int(other.sum())
        return vectors, good


def _rows_of_each(block: VectorBlock) -> list[list[int]]:
    """The text vectors of each picture of a block."""
    of: list[list[int]] = [[] for _ in block.rows]
    for text, row in enumerate(block.text_rows):
        of[int(row)].append(text)
    return of


def _uri(about: dict[str, Any], place: str) -> str:
    return next((about[key] for key in _URI_KEYS if isinstance(about.get(key), str) and about[key]), place)


def _item_id(about: dict[str, Any], uri: str) -> str:
    """The id that the table gives, else one from the content's hash, else one from the name."""
    for key in ("item_id", "id"):
        if isinstance(about.get(key), str | int) and _ID.fullmatch(str(about[key])):
            return str(about[key])
    return (_sha256(about) or hashlib.sha256(uri.encode("utf-8", "replace")).hexdigest())[:24]


def _sha256(about: dict[str, Any]) -> str:
    found = about.get("sha256")
    return found if isinstance(found, str) and _HASH.fullmatch(found) else ""


def _item(
    about: dict[str, Any], uri: str, item_id: str, vector: Vectors, captions: tuple[str, ...], vectors: Vectors | None
) -> NewItem:
    metadata: dict[str, Any] = {}
    described = about.get("metadata")
    if isinstance(described, str):
        try:
            described = json.loads(described)
        except (ValueError, RecursionError):
            metadata["metadata"] = described
    metadata |= described if isinstance(described, dict) else {}
    used = next((key for key in _URI_KEYS if about.get(key) == uri), "")
    metadata |= {key: value for key, value in about.items() if key not in _OURS and key != used}
    if not captions:
        told = about.get("captions") or about.get("caption")
        texts = distinct(told if isinstance(told, list) else [told])
        if texts:
            metadata.setdefault("caption", texts[0] if len(texts) == 1 else list(texts))
    return NewItem(
        item_id=item_id,
        uri=uri,
        sha256=_sha256(about),
        width_px=_whole(about, "width_px", "width"),
        height_px=_whole(about, "height_px", "height"),
        vector=vector,
        captions=captions,
        caption_vectors=vectors,
        metadata=metadata,
        num_bytes=_whole(about, "num_bytes"),
        mtime_ns=_whole(about, "mtime_ns"),
    )


def _whole(about: dict[str, Any], *keys: str) -> int:
    return next((about[key] for key in keys if isinstance(about.get(key), int) and 0 <= about[key] < 2**31), 0)
