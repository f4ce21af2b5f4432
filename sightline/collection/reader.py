"""Reading a generation: everything is checked when it is opened and immutable afterwards."""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from sightline.collection import manifest as layout
from sightline.collection.manifest import CollectionManifest
from sightline.columns import MetadataColumns
from sightline.errors import (
    CollectionCorrupt,
    CountMismatch,
    DuplicateIds,
    FileChanged,
    NotFound,
    VectorsWrong,
)
from sightline.storage import first_difference

_STEP_ROWS = 8192
_ITEM_COLUMNS = ("item_id", "image_path", "captions", "width_px", "height_px", "metadata")


@dataclass(frozen=True)
class Item:
    """A picture of the collection. ``uri`` is its place in the source, ``metadata`` what the source said of it."""

    item_id: str
    uri: str
    captions: tuple[str, ...]
    width_px: int
    height_px: int
    metadata: dict[str, Any]


class Generation:
    """One generation, opened. Metadata is in memory, vectors are read when asked for, thumbnails by position.

    All methods may be called from several threads at once. The open files keep working when the directory is removed.
    Nothing is memory-mapped: a file that is cut short in place would kill the process with SIGBUS, and one that is
    overwritten would change answers.
    """

    def __init__(self, directory: Path, manifest: CollectionManifest) -> None:
        self.directory = directory
        self.manifest = manifest
        self.name = directory.parent.resolve().name
        self.generation = manifest.generation
        self._items = self._table("metadata")
        self._captions = self._table("captions")
        if self._items.num_rows != manifest.num_items or self._captions.num_rows != manifest.num_captions:
            raise CountMismatch(
                f"The tables of {directory} have {self._items.num_rows} and {self._captions.num_rows} rows and its "
                f"manifest promises {manifest.num_items} and {manifest.num_captions}; build it again."
            )
        self._item_columns = [self._items.column(name) for name in _ITEM_COLUMNS]  # a fifth of the cost of a slice
        self._ids = _in_steps(self._items.column("item_id"))
        self._rows = {item_id: row for row, item_id in enumerate(self._ids)}
        if len(self._rows) != len(self._ids):
            raise DuplicateIds(f"{directory} holds an item id twice; build the collection again.")
        self._caption_items: npt.NDArray[np.int64] = (
            self._captions.column("item_row").to_numpy().astype(np.int64)
        )  # [M]
        self._thumbnails: list[tuple[int, tuple[int, int]]] = []
        for shard in range(manifest.num_shards):
            descriptor = self._open(self._shard("thumbnails", shard, "tar"))
            self._thumbnails.append((descriptor, _state_of(descriptor)))
        self._shard_ends = np.cumsum([self._shard_rows(shard) for shard in range(manifest.num_shards)])

    def __del__(self) -> None:
        for descriptor, _ in getattr(self, "_thumbnails", ()):
            os.close(descriptor)

    @property
    def num_items(self) -> int:
        return self.manifest.num_items

    @property
    def num_captions(self) -> int:
        return self.manifest.num_captions

    def require_encoder(self, fingerprint: str) -> None:
        """Raise EncoderMismatch unless the encoder of this fingerprint made the vectors."""
        self.manifest.require_encoder(fingerprint)

    def image_vectors(self) -> npt.NDArray[np.float16]:
        """float16 ``[N, D]``, unit length, row i is item i; read from disk at each call."""
        return self._vectors("img_emb", self.num_items)

    def caption_vectors(self) -> npt.NDArray[np.float16]:
        """float16 ``[M, D]``, unit length, row j is caption j; read from disk at each call."""
        return self._vectors("text_emb", self.num_captions)

    def caption_items(self) -> npt.NDArray[np.int64]:
        """int64 ``[M]``: the item row of each caption."""
        return self._caption_items

    def item(self, row: int) -> Item:
        """The picture at a row (0 ≤ row < num_items)."""
        item_id, uri, captions, width_px, height_px, metadata = (column[row].as_py() for column in self._item_columns)
        return Item(item_id, uri, tuple(captions), width_px, height_px, json.loads(metadata))

    def samples(self) -> tuple[Item, Item]:
        """Two of its pictures, far apart where it has more than one."""
        return self.item(0), self.item(self.num_items - 1)

    def caption(self, row: int) -> tuple[str, int]:
        """The text of a caption row and the row of its picture."""
        return self._captions.column("caption")[row].as_py(), int(self._caption_items[row])

    def find_row(self, item_id: str) -> int | None:
        """The row of an item id, None where it has none."""
        return self._rows.get(item_id)

    def row_of(self, item_id: str) -> int:
        """The row of an item id. Raises NotFound."""
        row = self.find_row(item_id)
        if row is None:
            raise NotFound("There is no item with this id in the collection; take ids from search results.")
        return row

    def sha256(self, row: int) -> str:
        """The hash of a picture's bytes."""
        return str(self._items.column("sha256")[row].as_py())

    def files(self) -> Iterator[tuple[str, str, int, int]]:
        """Uri, SHA-256, bytes and time (``mtime_ns``) of every picture in the order of rows; 0 where not noted."""
        names = ["image_path", "sha256", "num_bytes", "mtime_ns"]
        for start in range(0, self._items.num_rows, _STEP_ROWS):
            block = self._items.slice(start, _STEP_ROWS)
            for row in block.select([name for name in names if name in block.column_names]).to_pylist():
                yield row["image_path"], row["sha256"], row.get("num_bytes") or 0, row.get("mtime_ns") or 0

    def thumbnail(self, row: int) -> bytes | None:
        """The WebP thumbnail of a row, None where the collection was built without."""
        offset = self._items.column("thumbnail_offset")[row].as_py()
        num_bytes = self._items.column("thumbnail_bytes")[row].as_py()
        if not num_bytes:
            return None
        shard = int(np.searchsorted(self._shard_ends, row, side="right"))
        descriptor, state = self._thumbnails[shard]
        data = os.pread(descriptor, num_bytes, offset)
        if _state_of(descriptor) != state:  # overwritten or cut in place: these bytes may be anything
            raise NotFound("The file of this thumbnail has changed since it was opened; restore the generation.")
        return data

    @functools.cached_property
    def columns(self) -> MetadataColumns:
        """The metadata of every row by column, for filters. The first call reads all of it: 3 to 6 s for a million."""
        texts = self._items.column("metadata")
        blocks = (texts.slice(start, _STEP_ROWS).to_pylist() for start in range(0, len(texts), _STEP_ROWS))
        return MetadataColumns.from_json(text for block in blocks for text in block)

    def _open(self, name: str) -> int:
        try:
            return os.open(self.directory / name, os.O_RDONLY)
        except OSError as error:
            raise CollectionCorrupt(f"{self.directory / name} cannot be read; restore it or build it again.") from error

    def _shard(self, kind: str, shard: int, suffix: str) -> str:
        return layout.shard_name(kind, shard, self.manifest.num_shards, suffix)

    def _shard_rows(self, shard: int) -> int:
        path = self.directory / self._shard("metadata", shard, "parquet")
        try:
            return int(pq.read_metadata(path).num_rows)
        except (OSError, pa.ArrowException) as error:
            raise CollectionCorrupt(f"{path} cannot be read; restore it or build it again.") from error

    def _table(self, kind: str) -> pa.Table:
        shards = range(self.manifest.num_shards)
        try:
            return pa.concat_tables(
                [pq.read_table(self.directory / self._shard(kind, shard, "parquet")) for shard in shards]
            ).combine_chunks()
        except (OSError, pa.ArrowException) as error:
            raise CollectionCorrupt(
                f"The {kind} of {self.directory} cannot be read; restore it or build it again."
            ) from error

    def _vectors(self, kind: str, rows: int) -> npt.NDArray[np.float16]:
        try:
            shards = [
                np.load(self.directory / self._shard(kind, shard, "npy"), allow_pickle=False)
                for shard in range(self.manifest.num_shards)
            ]
        except (OSError, ValueError, EOFError) as error:
            raise CollectionCorrupt(
                f"{kind} of {self.directory} cannot be read; restore it or build it again."
            ) from error
        vectors = shards[0] if len(shards) == 1 else np.concatenate(shards)  # [rows, D]
        if len(vectors) != rows:
            raise CountMismatch(
                f"{kind} of {self.directory} has {len(vectors)} rows and its manifest promises {rows}; build it again."
            )
        if vectors.shape[1:] != (self.manifest.encoder.dim,) or vectors.dtype != np.float16:
            raise VectorsWrong(
                f"{kind} of {self.directory} is {vectors.dtype} {vectors.shape} and its manifest promises float16 "
                f"with {self.manifest.encoder.dim} dimensions; build the collection again."
            )
        return vectors


def _in_steps(column: pa.ChunkedArray) -> list[Any]:
    """A column as a list, a slice at a time: pyarrow holds the interpreter for the whole of a conversion, and a service
    that opens a million rows beside its traffic must get a word in."""
    values: list[Any] = []
    for start in range(0, len(column), _STEP_ROWS):
        values += column[start : start + _STEP_ROWS].to_pylist()
    return values


def _state_of(descriptor: int) -> tuple[int, int]:
    """Size and time of change of an open file: neither moves unless somebody writes into it."""
    state = os.fstat(descriptor)
    return state.st_size, state.st_mtime_ns


def open_collection(path: Path, generation: str | None = None, *, verify: bool = True) -> Generation:
    """Open the current generation of a collection, or the one of this name.

    With ``verify`` every file but those of its indexes, which are compared when they are read, is compared with the
    manifest's SHA-256 before anything is believed.
    Raises SourceError (no collection there), GenerationUnknown or CollectionCorrupt.
    """
    directory = layout.generation_directory(path, generation or layout.current_name(path))
    manifest = layout.read_manifest(directory)
    if verify:
        files = {n: r for n, r in manifest.files.items() if not n.startswith(f"{layout.INDEX_FOLDER}/")}
        difference = first_difference(directory, files)
        if difference is None and not layout.manifest_as_written(directory):
            difference = f"{directory / layout.MANIFEST_NAME} has changed since it was written (its SHA-256 differs)"
        if difference is not None:
            raise FileChanged(f"{difference}; restore it from a backup or build the collection again.")
    return Generation(directory, manifest)
