"""The shard that is being written: rows go to its files as they come, so that memory does not grow with the shard."""

from __future__ import annotations

import contextlib
import io
import json
import tarfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from sightline.storage import NewFile

ROWS_PER_GROUP = 8192
"""Rows of a table that wait in memory; also the row groups of the Parquet files."""

SHARD_KINDS = (
    ("img_emb", "npy"),
    ("text_emb", "npy"),
    ("metadata", "parquet"),
    ("captions", "parquet"),
    ("thumbnails", "tar"),
)

METADATA_SCHEMA = pa.schema(
    [
        ("item_id", pa.string()),
        ("image_path", pa.string()),
        ("caption", pa.string()),
        ("captions", pa.list_(pa.string())),
        ("sha256", pa.string()),
        ("width_px", pa.int32()),
        ("height_px", pa.int32()),
        ("num_bytes", pa.int64()),
        ("mtime_ns", pa.int64()),
        ("thumbnail_offset", pa.int64()),
        ("thumbnail_bytes", pa.int32()),
        ("metadata", pa.string()),
    ]
)
CAPTIONS_SCHEMA = pa.schema([("caption", pa.string()), ("item_id", pa.string()), ("item_row", pa.int64())])


@dataclass(frozen=True)
class NewItem:
    """A picture to be added. ``vector`` is float32 or float16 ``[D]``, ``caption_vectors`` ``[C, D]``, of unit length;
    ``metadata`` is JSON-serialisable; ``thumbnail`` is WebP. ``num_bytes`` and ``mtime_ns`` are those of the file in
    the source, 0 when unknown: by them a later run knows the file again without reading it."""

    item_id: str
    uri: str
    sha256: str
    width_px: int
    height_px: int
    vector: npt.NDArray[np.floating[Any]]
    captions: tuple[str, ...] = ()
    caption_vectors: npt.NDArray[np.floating[Any]] | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
    thumbnail: bytes = b""
    num_bytes: int = 0
    mtime_ns: int = 0


class Shard:
    """Five files under temporary numbers below ``directory``. One thread; ``close`` makes them whole."""

    def __init__(self, directory: Path, number: int, dim: int) -> None:
        self.num_items = 0
        self.num_captions = 0
        self._stack = contextlib.ExitStack()
        with contextlib.ExitStack() as opening:  # closed here only when one of them cannot be opened
            files = {}
            for kind, suffix in SHARD_KINDS:
                path = directory / kind / f"{kind}_{number}.{suffix}"
                path.parent.mkdir(exist_ok=True)
                files[kind] = opening.enter_context(NewFile(path))
            self._images = _Matrix(files["img_emb"], dim)
            self._captions = _Matrix(files["text_emb"], dim)
            self._archive: Any = tarfile.TarFile(  # closed with the shard
                fileobj=cast(Any, files["thumbnails"]), mode="w", format=tarfile.USTAR_FORMAT
            )
            self._metadata_table = _Table(files["metadata"], METADATA_SCHEMA)
            self._captions_table = _Table(files["captions"], CAPTIONS_SCHEMA)
            self._stack = opening.pop_all()

    def add(self, item: NewItem, row: int) -> None:
        """Append one picture and its captions; ``row`` is its number in the generation."""
        offset = self._add_thumbnail(item)
        self._images.add(np.asarray(item.vector)[None])
        if item.caption_vectors is not None and len(item.caption_vectors):
            self._captions.add(item.caption_vectors)
        assert self._captions.num_rows == self.num_captions + len(item.captions), "one vector for each caption"
        self._metadata_table.add(_metadata_row(item, offset))
        for caption in item.captions:
            self._captions_table.add({"caption": caption, "item_id": item.item_id, "item_row": row})
        self.num_items += 1
        self.num_captions += len(item.captions)

    def close(self) -> None:
        """Write what is left and close the files."""
        with self._stack:
            self._archive.close()
            self._metadata_table.close()
            self._captions_table.close()
            self._images.close()
            self._captions.close()

    def abandon(self) -> None:
        """Close the files, whole or not: they are about to be removed."""
        self._metadata_table.abandon()
        self._captions_table.abandon()
        with contextlib.suppress(OSError):
            self._stack.close()

    def _add_thumbnail(self, item: NewItem) -> int:
        member = tarfile.TarInfo(f"{item.item_id}.webp"[-100:])
        member.size = len(item.thumbnail)
        self._archive.addfile(member, io.BytesIO(item.thumbnail))
        self._archive.members = []  # or the tar's whole index stays in memory
        padded = -(-member.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
        return int(self._archive.offset) - padded


class _Matrix:
    """A ``.npy`` of float16 ``[N, D]`` that grows: numpy keeps room in the header for N to grow."""

    def __init__(self, file: NewFile, dim: int) -> None:
        self._file = file
        self._dim = dim
        self.num_rows = 0
        file.write(self._header())

    def add(self, vectors: npt.NDArray[np.floating[Any]]) -> None:
        self._file.write(np.ascontiguousarray(vectors, dtype=np.float16).tobytes())
        self.num_rows += len(vectors)

    def close(self) -> None:
        self._file.rewrite_start(self._header())

    def _header(self) -> bytes:
        buffer = io.BytesIO()
        shape = (self.num_rows, self._dim)
        np.lib.format.write_array_header_1_0(buffer, {"descr": "<f2", "fortran_order": False, "shape": shape})
        return buffer.getvalue()


class _Table:
    """A Parquet file whose rows are written a group at a time."""

    def __init__(self, file: NewFile, schema: pa.Schema) -> None:
        self._schema = schema
        self._writer = pq.ParquetWriter(file, schema, compression="zstd")
        self._rows: list[dict[str, Any]] = []

    def add(self, row: dict[str, Any]) -> None:
        self._rows.append(row)
        if len(self._rows) >= ROWS_PER_GROUP:
            self._flush()

    def close(self) -> None:
        if self._rows:
            self._flush()
        self._writer.close()

    def abandon(self) -> None:
        self._writer.is_open = False  # or it writes its footer when it is collected

    def _flush(self) -> None:
        rows, self._rows = self._rows, []
        self._writer.write_table(pa.Table.from_pylist(rows, self._schema))


def _metadata_row(item: NewItem, thumbnail_offset: int) -> dict[str, Any]:
    return {
        "item_id": item.item_id,
        "image_path": item.uri,
        "caption": item.captions[0] if item.captions else None,
        "captions": list(item.captions),
        "sha256": item.sha256,
        "width_px": item.width_px,
        "height_px": item.height_px,
        "num_bytes": item.num_bytes,
        "mtime_ns": item.mtime_ns,
        "thumbnail_offset": thumbnail_offset,
        "thumbnail_bytes": len(item.thumbnail),
        "metadata": json.dumps(item.metadata, ensure_ascii=True, sort_keys=True),
    }
