"""Reading a generation: everything is checked when it is opened and immutable afterwards."""

from __future__ import annotations

import functools
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from sightline.collection import manifest as layout
from sightline.collection.manifest import CollectionManifest
from sightline.errors import CollectionCorrupt, EncoderMismatch, NotFound
from sightline.storage import first_difference


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
    """

    def __init__(self, directory: Path, manifest: CollectionManifest) -> None:
        self.directory = directory
        self.manifest = manifest
        self.name = directory.parent.resolve().name
        self.generation = manifest.generation
        self._items = self._table("metadata")
        self._captions = self._table("captions")
        if self._items.num_rows != manifest.num_items or self._captions.num_rows != manifest.num_captions:
            raise CollectionCorrupt(
                f"The tables of {directory} do not have the rows its manifest promises; build it again."
            )
        self._ids = self._items.column("item_id").to_pylist()
        self._rows = {item_id: row for row, item_id in enumerate(self._ids)}
        if len(self._rows) != len(self._ids):
            raise CollectionCorrupt(f"{directory} holds an item id twice; build the collection again.")
        self._caption_items: npt.NDArray[np.int64] = (
            self._captions.column("item_row").to_numpy().astype(np.int64)
        )  # [M]
        self._thumbnails = [
            os.open(directory / self._shard("thumbnails", shard, "tar"), os.O_RDONLY)
            for shard in range(manifest.num_shards)
        ]
        self._shard_ends = np.cumsum([self._shard_rows(shard) for shard in range(manifest.num_shards)])

    def __del__(self) -> None:
        for descriptor in getattr(self, "_thumbnails", ()):
            os.close(descriptor)

    @property
    def num_items(self) -> int:
        return self.manifest.num_items

    @property
    def num_captions(self) -> int:
        return self.manifest.num_captions

    def require_encoder(self, fingerprint: str) -> None:
        """Raise EncoderMismatch unless the encoder of this fingerprint made the vectors.

        Inner products with another encoder's vectors look like scores and mean nothing.
        """
        recorded = self.manifest.encoder
        if recorded.fingerprint != fingerprint:
            raise EncoderMismatch(
                f"The collection was built by {recorded.name} ({recorded.fingerprint[:12]}) and this is another "
                f"encoder ({fingerprint[:12]}); name the right one with --encoder or build the collection again."
            )

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
        record = self._items.slice(row, 1).to_pylist()[0]
        return Item(
            item_id=record["item_id"],
            uri=record["image_path"],
            captions=tuple(record["captions"]),
            width_px=record["width_px"],
            height_px=record["height_px"],
            metadata=json.loads(record["metadata"]),
        )

    def caption(self, row: int) -> tuple[str, int]:
        """The text of a caption row and the row of its picture."""
        return self._captions.column("caption")[row].as_py(), int(self._caption_items[row])

    def row_of(self, item_id: str) -> int:
        """The row of an item id. Raises NotFound."""
        row = self._rows.get(item_id)
        if row is None:
            raise NotFound("There is no item with this id in the collection; take ids from search results.")
        return row

    def thumbnail(self, row: int) -> bytes | None:
        """The WebP thumbnail of a row, None where the collection was built without."""
        offset = self._items.column("thumbnail_offset")[row].as_py()
        num_bytes = self._items.column("thumbnail_bytes")[row].as_py()
        if not num_bytes:
            return None
        shard = int(np.searchsorted(self._shard_ends, row, side="right"))
        return os.pread(self._thumbnails[shard], num_bytes, offset)

    @functools.cached_property
    def metadata(self) -> list[dict[str, Any]]:
        """The metadata of every row, parsed: what filters look at."""
        return [json.loads(text) for text in self._items.column("metadata").to_pylist()]

    def _shard(self, kind: str, shard: int, suffix: str) -> str:
        return layout.shard_name(kind, shard, self.manifest.num_shards, suffix)

    def _shard_rows(self, shard: int) -> int:
        return int(pq.read_metadata(self.directory / self._shard("metadata", shard, "parquet")).num_rows)

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
        shards = [
            np.load(self.directory / self._shard(kind, shard, "npy"), allow_pickle=False)
            for shard in range(self.manifest.num_shards)
        ]
        vectors = shards[0] if len(shards) == 1 else np.concatenate(shards)  # [rows, D]
        if vectors.shape != (rows, self.manifest.encoder.dim) or vectors.dtype != np.float16:
            raise CollectionCorrupt(
                f"{kind} of {self.directory} is {vectors.dtype} {vectors.shape}, "
                "not what its manifest promises; build the collection again."
            )
        return vectors


def open_collection(path: Path, *, verify: bool = True) -> Generation:
    """Open the current generation of a collection.

    With ``verify`` every file is compared with the manifest's SHA-256 before anything is believed.
    Raises SourceError (no collection there) or CollectionCorrupt.
    """
    directory = layout.current_generation(path)
    manifest = layout.read_manifest(directory)
    if verify:
        difference = first_difference(directory, manifest.files)
        if difference is not None:
            raise CollectionCorrupt(f"{difference}; restore it from a backup or build the collection again.")
    return Generation(directory, manifest)
