"""Writing a generation: rows stream in, shards stream out, and readers see all of it or nothing."""

from __future__ import annotations

import contextlib
import io
import json
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from sightline import __version__
from sightline.collection import manifest as layout
from sightline.collection.manifest import CollectionManifest, Counts, EncoderRecord
from sightline.storage import new_directory, record_files, replace_file, storage_errors

ROWS_PER_SHARD = 65_536
"""A shard of 65,536 rows at 512 dimensions is 64 MiB of float16: large reads, bounded memory while writing."""

METADATA_SCHEMA = pa.schema(
    [
        ("item_id", pa.string()),
        ("image_path", pa.string()),
        ("caption", pa.string()),
        ("captions", pa.list_(pa.string())),
        ("sha256", pa.string()),
        ("width_px", pa.int32()),
        ("height_px", pa.int32()),
        ("thumbnail_offset", pa.int64()),
        ("thumbnail_bytes", pa.int32()),
        ("metadata", pa.string()),
    ]
)
CAPTIONS_SCHEMA = pa.schema([("caption", pa.string()), ("item_id", pa.string()), ("item_row", pa.int64())])

_SHARD_KINDS = (
    ("img_emb", "npy"),
    ("text_emb", "npy"),
    ("metadata", "parquet"),
    ("captions", "parquet"),
    ("thumbnails", "tar"),
)


@dataclass(frozen=True)
class NewItem:
    """A picture to be added. ``vector`` is float32 ``[D]``, ``caption_vectors`` float32 ``[C, D]``, of unit length;
    ``metadata`` is JSON-serialisable; ``thumbnail`` is WebP."""

    item_id: str
    uri: str
    sha256: str
    width_px: int
    height_px: int
    vector: npt.NDArray[np.float32]
    captions: tuple[str, ...] = ()
    caption_vectors: npt.NDArray[np.float32] | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
    thumbnail: bytes = b""


class GenerationWriter:
    """Adds items and publishes the generation. One thread; use as a context manager::

        with GenerationWriter(Path("photos"), encoder) as writer:
            writer.add(item)
            writer.publish(counts, source="~/Pictures", index={...})

    Leaving the block without ``publish``, by an error or on purpose, removes every trace. Raises StorageError.
    """

    def __init__(self, collection: Path, encoder: EncoderRecord, *, rows_per_shard: int = ROWS_PER_SHARD) -> None:
        self.collection = collection
        self.encoder = encoder
        self.num_items = 0
        self.num_captions = 0
        self._rows_per_shard = rows_per_shard
        self._num_shards = 0
        self._stack = contextlib.ExitStack()
        self._items: list[NewItem] = []
        self._ledger: list[dict[str, str]] = []
        self._directory = Path()
        self._manifest: CollectionManifest | None = None

    def __enter__(self) -> GenerationWriter:
        with storage_errors(f"write {self.collection}"):
            self.collection.mkdir(parents=True, exist_ok=True)
        self.generation = layout.next_generation_name(self.collection)
        self._directory = self._stack.enter_context(_unpublished(self.collection / self.generation))
        return self

    def __exit__(self, *details: Any) -> None:
        if details[0] is None and self._manifest is None:
            self._stack.__exit__(_NotPublished, _NotPublished(), None)
            return
        with storage_errors(f"write {self.collection}"):
            self._stack.__exit__(*details)
        if self._manifest is not None and details[0] is None:
            replace_file(self.collection / layout.CURRENT_NAME, f"{self.generation}\n".encode())

    def add(self, item: NewItem) -> None:
        """Append one picture and its captions; its row is the number of pictures added before."""
        self._items.append(item)
        self.num_items += 1
        if len(self._items) >= self._rows_per_shard:
            self._flush()

    def reject(self, uri: str, outcome: str, reason: str, detail: str) -> None:
        """Record an input that is not indexed; ``outcome``: duplicate, skipped or failed; ``reason``: a stable code."""
        self._ledger.append({"uri": uri, "outcome": outcome, "reason": reason, "detail": detail})

    def publish(self, counts: Counts, *, source: str, index: dict[str, Any]) -> CollectionManifest:
        """Write what is left and the manifest; the generation becomes current when the ``with`` block ends."""
        assert counts.add_up(), counts
        with storage_errors(f"write {self.collection}"):
            if self._items or not self._num_shards:
                self._flush()
            lines = "".join(json.dumps(entry, ensure_ascii=False) + "\n" for entry in self._ledger)
            (self._directory / layout.LEDGER_NAME).write_text(lines, encoding="utf-8", errors="replace")
            self._pad_shard_numbers()
            self._manifest = CollectionManifest(
                generation=self.generation,
                created=datetime.now(UTC).isoformat(timespec="seconds"),
                sightline_version=__version__,
                source=source,
                encoder=self.encoder,
                num_items=self.num_items,
                num_captions=self.num_captions,
                num_shards=self._num_shards,
                counts=counts,
                index=index,
                files=record_files(self._directory),
            )
            text = self._manifest.model_dump_json(indent=2) + "\n"
            (self._directory / layout.MANIFEST_NAME).write_text(text, encoding="utf-8")
        return self._manifest

    def _flush(self) -> None:
        items, self._items = self._items, []
        first_row = self.num_items - len(items)
        shard = self._num_shards
        self._num_shards += 1
        dim = self.encoder.dim
        images = np.zeros((len(items), dim), dtype=np.float16)  # [n, D]
        for position, item in enumerate(items):
            images[position] = item.vector
        texts = [item.caption_vectors for item in items if item.caption_vectors is not None]
        captions = np.concatenate([np.zeros((0, dim), np.float32), *texts]).astype(np.float16)  # [m, D]
        offsets = self._write_thumbnails(shard, items)
        self._save("img_emb", shard, images)
        self._save("text_emb", shard, captions)
        self._save_table("metadata", shard, _metadata_table(items, offsets))
        rows = _caption_rows(items, first_row)
        self.num_captions += len(rows)
        assert len(rows) == len(captions), "one vector for each caption"
        self._save_table("captions", shard, pa.Table.from_pylist(rows, CAPTIONS_SCHEMA))

    def _path(self, kind: str, shard: int, suffix: str) -> Path:
        path = self._directory / kind / f"{kind}_{shard}.{suffix}"
        path.parent.mkdir(exist_ok=True)
        return path

    def _save(self, kind: str, shard: int, array: npt.NDArray[np.float16]) -> None:
        np.save(self._path(kind, shard, "npy"), array, allow_pickle=False)

    def _save_table(self, kind: str, shard: int, table: pa.Table) -> None:
        pq.write_table(table, self._path(kind, shard, "parquet"), compression="zstd")

    def _write_thumbnails(self, shard: int, items: list[NewItem]) -> list[int]:
        offsets = []
        with tarfile.open(self._path("thumbnails", shard, "tar"), "w", format=tarfile.USTAR_FORMAT) as archive:
            for item in items:
                member = tarfile.TarInfo(f"{item.item_id}.webp"[-100:])
                member.size = len(item.thumbnail)
                archive.addfile(member, io.BytesIO(item.thumbnail))
                padded = -(-member.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
                offsets.append(archive.offset - padded)
        return offsets

    def _pad_shard_numbers(self) -> None:
        for kind, suffix in _SHARD_KINDS:
            for shard in range(self._num_shards):
                final = layout.shard_name(kind, shard, self._num_shards, suffix)
                self._path(kind, shard, suffix).rename(self._directory / final)


class _NotPublished(Exception):
    """Makes the directory context throw its work away."""


@contextlib.contextmanager
def _unpublished(final: Path) -> Iterator[Path]:
    with contextlib.suppress(_NotPublished), new_directory(final) as directory:
        yield directory


def _metadata_table(items: list[NewItem], offsets: list[int]) -> pa.Table:
    rows = [
        {
            "item_id": item.item_id,
            "image_path": item.uri,
            "caption": item.captions[0] if item.captions else None,
            "captions": list(item.captions),
            "sha256": item.sha256,
            "width_px": item.width_px,
            "height_px": item.height_px,
            "thumbnail_offset": offset,
            "thumbnail_bytes": len(item.thumbnail),
            "metadata": json.dumps(item.metadata, ensure_ascii=True, sort_keys=True),
        }
        for item, offset in zip(items, offsets, strict=True)
    ]
    return pa.Table.from_pylist(rows, METADATA_SCHEMA)


def _caption_rows(items: list[NewItem], first_row: int) -> list[dict[str, Any]]:
    return [
        {"caption": caption, "item_id": item.item_id, "item_row": first_row + position}
        for position, item in enumerate(items)
        for caption in item.captions
    ]
