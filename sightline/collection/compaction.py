"""Live changes into a generation of their own: the current one without what was replaced or deleted, and what was put.

Vectors are copied in half precision as they are; nothing is encoded. The new generation is published as every other is,
and its manifest says with ``live_sequence`` up to where it holds the log, so that killing this at any instant loses no
change and applies none twice: either ``CURRENT`` names the old generation, and the log is laid over it, or the new one,
and only what came later is. The log itself is only read here. ``sightline.compact`` does it with approximate indexes.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from sightline.collection import manifest as layout
from sightline.collection.live_log import LiveChange, LiveLog, require_fingerprint
from sightline.collection.manifest import CollectionManifest, Counts
from sightline.collection.shard import NewItem
from sightline.collection.writer import GenerationWriter
from sightline.errors import CollectionCorrupt, FileChanged, LiveChangesMissing, SightlineError, StorageError
from sightline.storage import discard_directory, first_difference

_STEP_ROWS = 8192


@dataclass(frozen=True)
class Compaction:
    """What was built: ``sequence`` is the last change in it; ``num_put`` and ``num_deleted`` count changed items."""

    before: str
    now: str
    sequence: int
    num_items: int
    num_captions: int
    num_put: int
    num_deleted: int
    seconds: float


def compact_collection(
    collection: Path,
    log: LiveLog,
    *,
    base: str = "",
    build_index: Callable[[Path, CollectionManifest], dict[str, Any]] = lambda directory, old: old.index,
) -> Compaction | None:
    """Build and publish a generation of the current one and the log; None when the log holds nothing new.

    ``base``: the generation that must be current. ``build_index`` adds index files to a directory whose shards are
    written, and says what the new manifest says of them, from the old one. Raises SourceError, CollectionCorrupt with
    its kinds (what is damaged is not copied), LiveLogDamaged, EncoderMismatch or StorageError.
    """
    started = time.monotonic()
    current = layout.current_name(collection)
    if base and base != current:
        raise _overtaken(collection)
    directory = layout.generation_directory(collection, current)
    manifest = layout.read_manifest(directory)
    if log.pruned_through() > manifest.live_sequence:
        raise LiveChangesMissing(
            f"{current} lacks live changes that the log does not hold any more; let CURRENT name a generation that "
            "contains them, or move live.db aside to let go of all of them."
        )
    changes = log.read(manifest.live_sequence)
    if not changes:
        return None
    require_fingerprint(changes, manifest.encoder.fingerprint)
    difference = first_difference(directory, manifest.files)
    if difference is not None:
        raise FileChanged(f"{difference}; restore it from a backup or build the collection again.")
    changed = {change.item_id for change in changes}
    with GenerationWriter(collection, manifest.encoder) as writer:
        num_replaced = 0
        for item in _items(directory, manifest):
            if item.item_id in changed:
                num_replaced += 1
            else:
                writer.add(item)
        for change in changes:
            if change.kind == "put":
                writer.add(_new_item(change, log))
        for entry in _ledger(directory):
            writer.reject(*entry)
        counts = _counts(manifest.counts, writer.num_items, writer.num_captions)
        writer.finish()
        index = build_index(writer.directory, manifest)
        writer.publish(counts, source=manifest.source, index=index, live_sequence=changes[-1].sequence)
        if layout.current_name(collection) != current:
            raise _overtaken(collection)
    num_put = sum(change.kind == "put" for change in changes)
    return Compaction(
        current, writer.generation, changes[-1].sequence, writer.num_items, writer.num_captions, num_put,
        len(changes) - num_put, round(time.monotonic() - started, 3),
    )  # fmt: skip


def live_sequences(collection: Path) -> dict[str, int]:
    """Every generation on the disk and the last live change that it contains; 0 where its manifest cannot be read."""
    found = {}
    for path in sorted(collection.glob("gen-*")):
        found[path.name] = 0
        with contextlib.suppress(SightlineError):
            found[path.name] = layout.read_manifest(path).live_sequence
    return found


def remove_compacted(collection: Path, *, keep: int, protected: Sequence[str]) -> list[str]:
    """Remove all but the newest ``keep`` of the generations that were made of live changes; 0 keeps all.

    Never one that is ``protected``, that ``CURRENT`` names, or that was built from a source. Raises StorageError.
    """
    made = [name for name, sequence in live_sequences(collection).items() if sequence]
    spared = {*protected, layout.current_name(collection)}
    gone = [name for name in made[: max(0, len(made) - keep)] if name not in spared] if keep else []
    for name in gone:
        discard_directory(collection / name)
    return gone


def _overtaken(collection: Path) -> StorageError:
    return StorageError(f"CURRENT of {collection} has come to name another generation meanwhile; compact again.")


def _items(directory: Path, manifest: CollectionManifest) -> Iterator[NewItem]:
    """Every item of a generation as it was added, a shard in memory at a time."""
    first_row = 0
    for shard in range(manifest.num_shards):

        def path(kind: str, suffix: str, shard: int = shard) -> Path:
            return directory / layout.shard_name(kind, shard, manifest.num_shards, suffix)

        try:
            images = np.load(path("img_emb", "npy"), allow_pickle=False)  # [n, D]
            texts = np.load(path("text_emb", "npy"), allow_pickle=False)  # [m, D]
            captions = pq.read_table(path("captions", "parquet"))
            items = pq.ParquetFile(path("metadata", "parquet"))
        except (OSError, ValueError, EOFError, pa.ArrowException) as error:
            raise CollectionCorrupt(f"A shard of {directory} cannot be read; build the collection again.") from error
        owners = captions.column("item_row").to_numpy().astype(np.int64)  # [m]
        order = np.argsort(owners, kind="stable")
        ends = np.searchsorted(owners[order], np.arange(first_row, first_row + len(images) + 1))
        wordings = captions.column("caption")
        number = 0
        with path("thumbnails", "tar").open("rb") as archive:
            for batch in items.iter_batches(_STEP_ROWS):
                for record in batch.to_pylist():
                    own = order[ends[number] : ends[number + 1]]
                    thumbnail = _at(archive.fileno(), record["thumbnail_offset"], record["thumbnail_bytes"])
                    words = tuple(wordings[row].as_py() for row in own)
                    yield _old_item(record, images[number], words, texts[own], thumbnail)
                    number += 1
        first_row += number


def _at(descriptor: int, offset: int | None, num_bytes: int | None) -> bytes:
    return os.pread(descriptor, num_bytes, offset or 0) if num_bytes else b""


def _old_item(
    record: dict[str, Any], vector: npt.NDArray[np.float16], captions: tuple[str, ...],
    caption_vectors: npt.NDArray[np.float16], thumbnail: bytes,
) -> NewItem:  # fmt: skip
    return NewItem(
        item_id=record["item_id"], uri=record["image_path"], sha256=record["sha256"], width_px=record["width_px"],
        height_px=record["height_px"], vector=vector, captions=captions, caption_vectors=caption_vectors,
        metadata=json.loads(record["metadata"]), thumbnail=thumbnail, num_bytes=record.get("num_bytes") or 0,
        mtime_ns=record.get("mtime_ns") or 0,
    )  # fmt: skip


def _new_item(change: LiveChange, log: LiveLog) -> NewItem:
    """A later change may have taken this one's thumbnail with it; then that one, which is not in here, has its own."""
    return NewItem(
        item_id=change.item_id, uri=change.uri, sha256=change.sha256, width_px=change.width_px,
        height_px=change.height_px, vector=change.vector, captions=change.captions,
        caption_vectors=change.caption_vectors, metadata=change.metadata,
        thumbnail=log.thumbnail(change.sequence) or b"",
    )  # fmt: skip


def _ledger(directory: Path) -> Iterator[tuple[str, str, str, str]]:
    path = directory / layout.LEDGER_NAME
    if path.is_file():
        with path.open(encoding="utf-8", errors="replace") as lines:
            for line in lines:
                entry = json.loads(line)
                yield entry["uri"], entry["outcome"], entry["reason"], entry["detail"]


def _counts(old: Counts, num_items: int, num_captions: int) -> Counts:
    """Counts that add up again: what was put has been seen and indexed, what was deleted has not."""
    return old.model_copy(
        update={
            "seen": old.seen + num_items - old.indexed,
            "indexed": num_items,
            "captions_seen": old.captions_seen + num_captions - old.captions_indexed,
            "captions_indexed": num_captions,
        }
    )
