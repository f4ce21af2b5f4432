"""Ready vectors with what they belong to: clip-retrieval's folders (ours are such), and Parquet with vectors.

Everything is streamed in blocks; shards are matched by number and their rows counted before the first is read.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from indexer.vector_files import Rows, VectorFile, Vectors, column_dim, column_vectors
from sightline.errors import SourceError
from sightline.sources.description import json_like
from sightline.sources.parquet_table import column_values

BLOCK_ROWS = 1024
IMAGE_VECTOR_COLUMNS = ("embedding", "image_embedding", "vector")
_SHARD = re.compile(r"_(\d+)\.(?:npy|parquet)$")
_PARQUET_ERRORS = (pa.ArrowException, OSError, ValueError)


@dataclass(frozen=True)
class VectorBlock:
    """Consecutive pictures. ``images`` float32 ``[B, D]`` with ``good`` bool ``[B]`` where there is one; ``rows`` what
    the tables say of each; ``texts`` float32 ``[T, D]`` and ``text_rows`` int ``[T]``, the picture of each, with its
    caption in ``captions``."""

    places: list[str]
    images: Vectors
    good: npt.NDArray[np.bool_]
    rows: list[dict[str, Any]]
    texts: Vectors
    text_rows: npt.NDArray[np.int64]
    captions: list[str | None]


class VectorSource(Protocol):
    """``dim`` of the picture vectors, and blocks in a stable order."""

    dim: int
    num_rows: int

    def blocks(self) -> Iterator[VectorBlock]: ...


def open_vectors(path: Path) -> VectorSource:
    """A folder with ``img_emb/``, a generation of ours, a Parquet file or a folder of them. Raises SourceError."""
    current = path / "CURRENT"
    if current.is_file():
        from sightline.collection.manifest import current_generation

        path = current_generation(path)
    if (path / "img_emb").is_dir():
        return EmbeddingFolder(path)
    tables = sorted(path.glob("*.parquet")) if path.is_dir() else [path] if path.suffix == ".parquet" else []
    if tables and path.exists():
        return EmbeddingTables(tables)
    raise SourceError(
        f"{path} holds no ready vectors; give a folder with img_emb/img_emb_0.npy, or Parquet with a column embedding."
    )


class EmbeddingFolder:
    """``img_emb``, and where they exist ``text_emb``, ``metadata`` and ``captions``."""

    def __init__(self, root: Path) -> None:
        self.root = root
        found = {kind: _shards(root, kind) for kind in ("img_emb", "text_emb", "metadata", "captions")}
        images, self._texts = _matrices(found["img_emb"]), _matrices(found["text_emb"])
        if not images:
            raise SourceError(f"{root / 'img_emb'} has no img_emb_0.npy; give the folder that clip-retrieval wrote.")
        for kind, shards in found.items():
            if shards and shards.keys() != found["img_emb"].keys():
                number = min(shards.keys() ^ found["img_emb"].keys())
                raise SourceError(
                    f"Shard {number} of {root} is in only one of img_emb and {kind}; rows belong together by shard, so "
                    "copy the missing file."
                )
        self._images, self._metadata, self._captions = images, found["metadata"], found["captions"]
        self.dim = next(iter(images.values())).dim
        self.num_rows = sum(file.num_rows for file in images.values())
        for number, image in images.items():
            self._check(number, image)

    def _check(self, number: int, image: VectorFile) -> None:
        text = self._texts.get(number)
        for other in (image, text):
            if other is not None and other.dim != self.dim:
                raise SourceError(f"{other.path} has {other.dim} dimensions and others {self.dim}; mix no encoders.")
        expected = [(self._metadata, image.num_rows, image.path)]
        if text is not None:
            expected.append((self._captions, text.num_rows, text.path))
            if not self._captions and text.num_rows != image.num_rows:
                raise SourceError(
                    f"{text.path} has {text.num_rows} rows and {image.path} {image.num_rows}; one of them is not whole."
                )
        for tables, num_rows, path in expected:
            if number in tables and (rows := _open(tables[number]).metadata.num_rows) != num_rows:
                raise SourceError(f"{tables[number]} has {rows} rows and {path} {num_rows}; one of them is not whole.")

    def blocks(self) -> Iterator[VectorBlock]:
        """All shards in order of their numbers."""
        for number in self.shard_numbers:
            yield from self.shard_blocks(number)

    @property
    def shard_numbers(self) -> list[int]:
        """The numbers of the shards in order."""
        return list(self._images)

    def shard_blocks(self, number: int) -> Iterator[VectorBlock]:
        """The blocks of one shard."""
        file = self._images[number]
        first_row = sum(earlier.num_rows for one, earlier in self._images.items() if one < number)
        text = self._texts.get(number)
        text_rows = Rows(text, BLOCK_ROWS) if text is not None else None
        owned = _Owned(self._captions[number]) if number in self._captions and text is not None else None
        tables = _row_blocks(self._metadata[number]) if number in self._metadata else None
        done = 0
        for images in file.blocks(BLOCK_ROWS):
            count = len(images)
            rows = next(tables) if tables is not None else [{} for _ in range(count)]
            texts, of = np.zeros((0, self.dim), np.float32), np.zeros(0, np.int64)
            captions: list[str | None] = []
            if text_rows is not None and owned is not None:
                captions, of = owned.up_to(first_row + done + count)
                texts, of = text_rows.take(len(captions)), of - (first_row + done)
            elif text_rows is not None:
                texts, of = text_rows.take(count), np.arange(count)
                captions = [row.get("caption") if isinstance(row.get("caption"), str) else None for row in rows]
            places = [f"{file.path.name}:{done + row + 1}" for row in range(count)]
            yield VectorBlock(places, images, np.ones(count, np.bool_), rows, texts, of, captions)
            done += count


class EmbeddingTables:
    """Parquet files with one picture a row: its vector, and ``caption_embeddings`` beside ``captions`` where exported
    from here."""

    def __init__(self, paths: list[Path]) -> None:
        self.paths = paths
        self.num_rows = 0
        dims = set()
        for path in paths:
            with _open(path) as file:
                self.num_rows += file.metadata.num_rows
                dims.add(self._dim(path, file))
        if len(dims) > 1:
            raise SourceError(f"The tables beside {paths[0]} have vectors of several dimensions; mix no encoders.")
        self.dim = dims.pop()

    def blocks(self) -> Iterator[VectorBlock]:
        """All tables in order of their names."""
        for path in self.paths:
            done = 0
            for batch in _batches(path):
                images, good = column_vectors(batch.column(_vector_column(path, batch.schema)), self.dim)  # [B, D]
                texts, of, captions, rows = self._texts(batch)
                places = [f"{path.name}:{done + row + 1}" for row in range(len(images))]
                yield VectorBlock(places, images, good, rows, texts, of, captions)
                done += len(images)

    def _texts(
        self, batch: pa.RecordBatch
    ) -> tuple[Vectors, npt.NDArray[np.int64], list[str | None], list[dict[str, Any]]]:
        rows = _rows_of(batch)
        nothing = np.zeros((0, self.dim), np.float32), np.zeros(0, np.int64)
        if "caption_embeddings" not in batch.schema.names:
            return *nothing, [], rows
        column = batch.column("caption_embeddings")
        if not (pa.types.is_list(column.type) or pa.types.is_large_list(column.type)):
            return *nothing, [], rows
        captions = [row.get("captions") or [] for row in rows]
        counts = np.diff(column.offsets.to_numpy().astype(np.int64))  # [B]
        if [len(several) for several in captions] != counts.tolist():
            return *nothing, [], rows
        texts, _ = column_vectors(column.flatten(), self.dim)  # [T, D]; a caption without one has zeros
        return texts, np.repeat(np.arange(len(rows)), counts), [one for several in captions for one in several], rows

    @staticmethod
    def _dim(path: Path, file: pq.ParquetFile) -> int:
        name = _vector_column(path, file.schema_arrow)
        dim = column_dim(path, name, file.schema_arrow.field(name).type)
        if dim or not file.metadata.num_rows:
            return dim
        for batch in file.iter_batches(batch_size=BLOCK_ROWS, columns=[name], use_threads=False):
            for cell in batch.column(0).to_pylist():
                if cell:
                    return len(cell)
        raise SourceError(f"The column {name} of {path} is empty throughout; it should hold vectors.")


class _Owned:
    """The captions of a shard in order, with the row of the picture that each belongs to."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._rows = (row for block in _row_blocks(path) for row in block)
        self._next: dict[str, Any] | None = next(self._rows, None)

    def up_to(self, end: int) -> tuple[list[str | None], npt.NDArray[np.int64]]:
        """Captions of pictures before row ``end``, and those rows."""
        captions, rows = [], []
        while self._next is not None and self._next.get("item_row", end) < end:
            captions.append(self._next.get("caption"))
            rows.append(self._next["item_row"])
            self._next = next(self._rows, None)
        if rows != sorted(rows):
            raise SourceError(
                f"The captions in {self._path} are not in the order of their pictures; export them again."
            )
        return captions, np.array(rows, np.int64)


def _shards(root: Path, kind: str) -> dict[int, Path]:
    suffix = "npy" if kind.endswith("_emb") else "parquet"
    numbered: dict[int, Path] = {}
    for path in sorted((root / kind).glob(f"*.{suffix}")):
        match = _SHARD.search(path.name)
        if match is None:
            raise SourceError(f"{path} has no shard number (like {kind}_0.{suffix}); rename it or take it away.")
        if int(match[1]) in numbered:
            raise SourceError(f"{path} and {numbered[int(match[1])].name} are the same shard; take one of them away.")
        numbered[int(match[1])] = path
    return dict(sorted(numbered.items()))


def _matrices(shards: dict[int, Path]) -> dict[int, VectorFile]:
    return {number: VectorFile(path) for number, path in shards.items()}


def _open(path: Path) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(path, pre_buffer=False, buffer_size=2**20)
    except _PARQUET_ERRORS as error:
        raise SourceError(f"{path} is not a whole Parquet file; copy it again.") from error


def _batches(path: Path) -> Iterator[pa.RecordBatch]:
    with _open(path) as file:
        try:
            yield from file.iter_batches(batch_size=BLOCK_ROWS, use_threads=False)
        except _PARQUET_ERRORS as error:
            raise SourceError(f"A part of {path} cannot be decoded; copy it again.") from error


def _row_blocks(path: Path) -> Iterator[list[dict[str, Any]]]:
    """Rows in blocks of exactly ``BLOCK_ROWS`` but for the last: row groups do not end where matrices' blocks do."""
    waiting: list[dict[str, Any]] = []
    for batch in _batches(path):
        waiting += _rows_of(batch)
        while len(waiting) >= BLOCK_ROWS:
            yield waiting[:BLOCK_ROWS]
            del waiting[:BLOCK_ROWS]
    if waiting:
        yield waiting


def _rows_of(batch: pa.RecordBatch) -> list[dict[str, Any]]:
    """What a batch says of each picture beside its vectors, as JSON has it."""
    names = [name for name in batch.schema.names if not _holds_vectors(batch.schema.field(name).type)]
    try:
        columns = [column_values(batch.column(name)) for name in names]
    except _PARQUET_ERRORS as error:
        raise SourceError(
            "A table holds text that is not UTF-8, or times beyond the calendar; write it anew."
        ) from error
    rows: list[dict[str, Any]] = [{} for _ in range(batch.num_rows)]
    for name, cells in zip(names, columns, strict=True):
        for row, cell in zip(rows, cells, strict=True):
            if (value := json_like(cell)) is not None:
                row[name] = value
    return rows


def _holds_vectors(kind: pa.DataType) -> bool:
    types = pa.types
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        return types.is_floating(kind.value_type) or _holds_vectors(kind.value_type)
    return False


def _vector_column(path: Path, schema: pa.Schema) -> str:
    by_name: dict[str, str] = {name.lower(): name for name in schema.names}
    for name in IMAGE_VECTOR_COLUMNS:
        if name in by_name:
            return by_name[name]
    raise SourceError(
        f"{path} has no column embedding, image_embedding or vector (its columns: {', '.join(schema.names[:12])}); "
        "rename the one that holds the vectors."
    )
