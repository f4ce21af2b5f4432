"""Segments: what stretches of a source became, on disk, each whole or not there.

::

    building/segments/000000000000-000000004096/
      record.json       positions, counts, and a SHA-256 for every other file
      images.npy        float16 [n, D]
      captions.npy      float16 [m, D]: the captions of the pictures in order, then those that duplicates brought
      items.parquet     what else is known of each picture, its thumbnail too
      left_out.jsonl    inputs that are not indexed, in order

A segment ends where its chunk ends, or at the end of a batch. The name says which positions it covers; that the name is
there says that they are done.
"""

from __future__ import annotations

import collections
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, ValidationError

from indexer.encoding import ChunkMemory, EncodedBatch, EncodedItem, LeftOut, Vectors
from sightline.collection import NewItem
from sightline.errors import CollectionCorrupt, StorageError
from sightline.sources import Rejected
from sightline.storage import (
    FileRecord,
    NewFile,
    discard_directory,
    first_difference,
    new_directory,
    record_files,
    storage_errors,
)

_NAME = re.compile(r"(\d{12})-(\d{12})")
_READ_ROWS = 256
_SCHEMA = pa.schema(
    [
        ("position", pa.int64()),
        ("uri", pa.string()),
        ("item_id", pa.string()),
        ("sha256", pa.string()),
        ("width_px", pa.int32()),
        ("height_px", pa.int32()),
        ("num_bytes", pa.int64()),
        ("mtime_ns", pa.int64()),
        ("captions", pa.list_(pa.string())),
        ("metadata", pa.string()),
        ("thumbnail", pa.binary()),
    ]
)


class SegmentRecord(BaseModel):
    """``record.json``. ``ends_source``: the source has no input at ``stop``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[1] = 1
    start: int
    stop: int
    ends_source: bool
    num_items: int
    num_captions: int
    captions_skipped: dict[str, int]
    files: dict[str, FileRecord]


@dataclass(frozen=True)
class Segment:
    """Positions [start, stop), done; ``directory`` holds what they became."""

    directory: Path
    start: int
    stop: int

    def record(self) -> SegmentRecord:
        """Counts and hashes. Raises CollectionCorrupt."""
        try:
            return SegmentRecord.model_validate_json((self.directory / "record.json").read_bytes())
        except (OSError, ValidationError) as error:
            raise self._damaged() from error

    def check(self) -> SegmentRecord:
        """Compare every file with its hash. A segment that has changed is removed, so that the next run makes it again.

        Raises CollectionCorrupt.
        """
        record = self.record()
        with storage_errors(f"read {self.directory}"):
            if first_difference(self.directory, record.files) is not None:
                raise self._damaged()
        return record

    def remember(self, memory: ChunkMemory) -> None:
        """Tell a chunk that goes on which pictures and captions it has."""
        columns = ["uri", "sha256", "captions"]
        for row in pq.read_table(self.directory / "items.parquet", columns=columns).to_pylist():
            memory.add(row["sha256"], row["uri"], tuple(row["captions"]))
        for one in self.left_out():
            if one.first:
                memory.add(one.first, "", one.captions)

    def hashes(self) -> list[tuple[int, str, str]]:
        """Position, SHA-256 and uri of each picture."""
        table = pq.read_table(self.directory / "items.parquet", columns=["position", "sha256", "uri"])
        return [(row["position"], row["sha256"], row["uri"]) for row in table.to_pylist()]

    def images(self) -> Vectors:
        """float16 ``[n, D]``: one row for each picture."""
        vectors: Vectors = np.load(self.directory / "images.npy", allow_pickle=False)
        return vectors

    def items(self) -> Iterator[EncodedItem]:
        """The pictures, a few hundred in memory at a time."""
        images = self.images()
        captions: Vectors = np.load(self.directory / "captions.npy", allow_pickle=False)
        row = first = 0
        with pq.ParquetFile(self.directory / "items.parquet") as table:
            for block in table.iter_batches(_READ_ROWS):
                for fields in block.to_pylist():
                    position, own = fields.pop("position"), tuple(fields.pop("captions"))
                    metadata = json.loads(fields.pop("metadata"))
                    item = NewItem(
                        vector=images[row], captions=own, metadata=metadata,
                        caption_vectors=captions[first : first + len(own)], **fields,
                    )  # fmt: skip
                    row, first = row + 1, first + len(own)
                    yield EncodedItem(position, item)

    def left_out(self, *, vectors: bool = False) -> list[LeftOut]:
        """The inputs that are not indexed; with the vectors of the captions that they brought when asked for."""
        found = [json.loads(line) for line in (self.directory / "left_out.jsonl").open(encoding="utf-8")]
        late = sum(len(entry["captions"]) for entry in found)
        stored: Vectors | None = None
        if vectors and late:
            stored = np.load(self.directory / "captions.npy", allow_pickle=False)
            stored = stored[len(stored) - late :]  # [late, D]
        entries, first = [], 0
        for entry in found:
            position, sha256, captions = entry.pop("position"), entry.pop("first"), tuple(entry.pop("captions"))
            own = None if stored is None else stored[first : first + len(captions)]
            first += len(captions)
            entries.append(LeftOut(position, Rejected(**entry), sha256, captions, own))
        return entries

    def _damaged(self) -> CollectionCorrupt:
        discard_directory(self.directory)
        return CollectionCorrupt(
            f"The segment {self.directory} was damaged and has been removed; run the same command again: it makes this "
            "part again and keeps the others."
        )


@dataclass(frozen=True)
class Progress:
    """The segments of each chunk, joined up from its start. ``missing``: chunks that are not done, each with the
    position that it goes on from. ``ended``: the last chunk ends where the source does."""

    chunk_inputs: int
    chunks: dict[int, list[Segment]]
    missing: list[tuple[int, int]]
    ended: bool

    @property
    def num_done(self) -> int:
        """Positions that are done."""
        return sum(segment.stop - segment.start for segments in self.chunks.values() for segment in segments)

    @property
    def complete(self) -> bool:
        return self.ended and not self.missing

    def missing_chunks(self) -> list[int]:
        """The numbers of the chunks that are missing, the first unknown one too where the end is not known."""
        return [chunk for chunk, _ in self.missing] + ([] if self.ended else [len(self.chunks)])

    def spans(self) -> list[tuple[int, int | None]]:
        """The positions [start, stop) that are missing; stop None: to the end of the source."""
        size = self.chunk_inputs
        spans: list[tuple[int, int | None]] = [(start, (chunk + 1) * size) for chunk, start in self.missing]
        if not self.ended:
            start = len(self.chunks) * size
            if spans and spans[-1][1] == start:
                start = spans.pop()[0]
            spans.append((start, None))
        return spans


class SegmentStore:
    """The segments of an unfinished build. Several processes may add to one store: what they write is the same."""

    def __init__(self, directory: Path, chunk_inputs: int, dim: int) -> None:
        self.directory = directory
        self.dim = dim
        self.chunk_inputs = chunk_inputs

    def all(self) -> list[Segment]:
        """Every segment that is done, by position; several may cover the same positions."""
        names = [path.name for path in self.directory.iterdir()] if self.directory.is_dir() else []
        matches = [match for name in sorted(names) if (match := _NAME.fullmatch(name))]
        return [Segment(self.directory / match[0], int(match[1]), int(match[2])) for match in matches]

    def progress(self) -> Progress:
        """What is done and what is missing."""
        size = self.chunk_inputs
        by_chunk = collections.defaultdict(list)
        for segment in self.all():
            by_chunk[segment.start // size].append(segment)
        chunks: dict[int, list[Segment]] = {}
        missing: list[tuple[int, int]] = []
        for chunk in range(max(by_chunk, default=-1) + 1):
            chunks[chunk] = _furthest(by_chunk[chunk], chunk * size)
            end = chunks[chunk][-1].stop if chunks[chunk] else chunk * size
            if end == (chunk + 1) * size:
                continue
            if chunks[chunk] and chunks[chunk][-1].record().ends_source:
                return Progress(size, chunks, missing, ended=True)
            missing.append((chunk, end))
        return Progress(size, chunks, missing, ended=False)

    def end_of(self, chunk: int) -> int | None:
        """The position up to which a chunk is done; None when the source ends in it and that part is done."""
        start, size = chunk * self.chunk_inputs, self.chunk_inputs
        chain = _furthest([one for one in self.all() if one.start // size == chunk], start)
        if chain and chain[-1].stop < start + size and chain[-1].record().ends_source:
            return None
        return chain[-1].stop if chain else start

    def commit(self, batches: list[EncodedBatch]) -> Segment:
        """Write the batches of one stretch as a segment. Raises StorageError."""
        start, stop = batches[0].start, batches[-1].stop
        segment = Segment(self.directory / f"{start:012d}-{stop:012d}", start, stop)
        if segment.directory.exists():
            return segment
        try:
            with storage_errors(f"write {segment.directory}"), new_directory(segment.directory) as directory:
                _write(directory, batches, self.dim)
        except StorageError:
            if not segment.directory.exists():  # another process may have been faster with the same bytes
                raise
        return segment


def _furthest(segments: list[Segment], start: int) -> list[Segment]:
    """The chain from ``start`` that reaches furthest, of segments sorted by start; the shorter of two alike."""
    best: dict[int, list[Segment]] = {start: []}
    for segment in segments:
        chain = best.get(segment.start)
        if chain is not None and segment.stop > segment.start and segment.stop not in best:
            best[segment.stop] = [*chain, segment]
    empty = [one for one in segments if one.start == one.stop and one.start in best]  # the end of a source
    chain = best[max(best)]
    return [*chain, *(one for one in empty if one.start == max(best))]


def _write(directory: Path, batches: list[EncodedBatch], dim: int) -> None:
    items = [one for batch in batches for one in batch.items]
    left_out = [one for batch in batches for one in batch.left_out]
    vectors = [np.asarray(one.item.vector)[None] for one in items]
    captions = [one.item.caption_vectors for one in items if one.item.caption_vectors is not None]
    captions += [one.vectors for one in left_out if one.vectors is not None]
    _save(directory / "images.npy", vectors, dim)
    num_captions = _save(directory / "captions.npy", captions, dim)
    with NewFile(directory / "items.parquet") as file:
        _write_items(file, items)
    with NewFile(directory / "left_out.jsonl") as file:
        for one in left_out:
            file.write((json.dumps(_line(one), ensure_ascii=True) + "\n").encode())
    skipped: collections.Counter[str] = collections.Counter()
    for batch in batches:
        skipped.update(batch.captions_skipped)
    record = SegmentRecord(
        start=batches[0].start, stop=batches[-1].stop, ends_source=batches[-1].ends_source, num_items=len(items),
        num_captions=num_captions, captions_skipped=dict(skipped), files=record_files(directory),
    )  # fmt: skip
    with NewFile(directory / "record.json") as file:
        file.write(record.model_dump_json(indent=2).encode())


def _save(path: Path, parts: list[Any], dim: int) -> int:
    """Write rows as one float16 ``[N, D]`` and say how many."""
    array = np.concatenate([np.zeros((0, dim), np.float16), *parts]).astype(np.float16, copy=False)  # [N, D]
    with NewFile(path) as file:
        np.save(cast(Any, file), array, allow_pickle=False)
    return len(array)


def _write_items(file: NewFile, items: list[EncodedItem]) -> None:
    writer = pq.ParquetWriter(file, _SCHEMA, compression="zstd")
    try:
        for first in range(0, len(items), _READ_ROWS):
            rows = [_row(one) for one in items[first : first + _READ_ROWS]]
            writer.write_table(pa.Table.from_pylist(rows, _SCHEMA))
        writer.close()
    except BaseException:
        writer.is_open = False  # or it tries again when it is collected
        raise


def _row(one: EncodedItem) -> dict[str, Any]:
    item = one.item
    return {
        "position": one.position,
        "uri": item.uri,
        "item_id": item.item_id,
        "sha256": item.sha256,
        "width_px": item.width_px,
        "height_px": item.height_px,
        "num_bytes": item.num_bytes,
        "mtime_ns": item.mtime_ns,
        "captions": list(item.captions),
        "metadata": json.dumps(item.metadata, ensure_ascii=True, sort_keys=True),
        "thumbnail": item.thumbnail,
    }


def _line(one: LeftOut) -> dict[str, Any]:
    rejected = one.rejected
    return {
        "position": one.position, "uri": rejected.uri, "outcome": rejected.outcome, "reason": rejected.reason,
        "detail": rejected.detail, "first": one.first, "captions": list(one.captions),
    }  # fmt: skip
