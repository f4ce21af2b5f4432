"""Writing a generation: rows stream in, shards stream out, and readers see all of it or nothing."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sightline import __version__
from sightline.collection import manifest as layout
from sightline.collection.manifest import CollectionManifest, Counts, EncoderRecord
from sightline.collection.shard import CAPTIONS_SCHEMA, METADATA_SCHEMA, SHARD_KINDS, NewItem, Shard
from sightline.storage import NewFile, new_directory, record_files, remove_abandoned, replace_file, storage_errors

__all__ = ["CAPTIONS_SCHEMA", "METADATA_SCHEMA", "ROWS_PER_SHARD", "GenerationWriter", "NewItem"]

ROWS_PER_SHARD = 65_536
"""A shard of 65,536 rows at 512 dimensions is 64 MiB of float16: large reads, few files."""


class GenerationWriter:
    """Adds items and publishes the generation. One thread; use as a context manager::

        with GenerationWriter(Path("photos"), encoder) as writer:
            writer.add(item)
            writer.publish(counts, source="~/Pictures", index={...})

    Memory holds a few thousand rows of the tables, never a shard. Leaving the block without ``publish``, by an error
    or on purpose, removes every trace. ``generation`` names the new generation (the next free name otherwise); the
    same items with the same ``created`` (ISO 8601, now otherwise) give the same bytes. Raises StorageError.
    """

    def __init__(
        self,
        collection: Path,
        encoder: EncoderRecord,
        *,
        rows_per_shard: int = ROWS_PER_SHARD,
        generation: str = "",
        created: str = "",
    ) -> None:
        self.collection = collection
        self.encoder = encoder
        self.generation = generation
        self.num_items = 0
        self.num_captions = 0
        self._created = created
        self._rows_per_shard = rows_per_shard
        self._num_shards = 0
        self._stack = contextlib.ExitStack()
        self._shard: Shard | None = None
        self._directory = Path()
        self._manifest: CollectionManifest | None = None

    def __enter__(self) -> GenerationWriter:
        with storage_errors(f"write {self.collection}"):
            self.collection.mkdir(parents=True, exist_ok=True)
            remove_abandoned(self.collection, "gen-*")
        self.generation = self.generation or layout.next_generation_name(self.collection)
        with contextlib.ExitStack() as opening, storage_errors(f"write {self.collection}"):
            self._directory = opening.enter_context(_unpublished(self.collection / self.generation))
            self._ledger = opening.enter_context(NewFile(self._directory / layout.LEDGER_NAME))
            self._stack = opening.pop_all()
        return self

    def __exit__(self, *details: Any) -> None:
        if self._shard is not None:
            self._shard.abandon()
        if details[0] is None and self._manifest is None:
            self._stack.__exit__(_NotPublished, _NotPublished(), None)
            return
        with storage_errors(f"write {self.collection}"):
            self._stack.__exit__(*details)
        if self._manifest is not None and details[0] is None:
            make_current(self.collection, self.generation)

    @property
    def directory(self) -> Path:
        """Where the generation is being written: files put there before ``publish`` belong to it."""
        return self._directory

    def add(self, item: NewItem) -> None:
        """Append one picture and its captions; its row is the number of pictures added before."""
        with storage_errors(f"write {self.collection}"):
            if self._shard is None:
                self._shard = Shard(self._directory, self._num_shards, self.encoder.dim)
                self._num_shards += 1
            self._shard.add(item, self.num_items)
            self.num_items += 1
            self.num_captions += len(item.captions)
            if self._shard.num_items >= self._rows_per_shard:
                self._close_shard()

    def reject(self, uri: str, outcome: str, reason: str, detail: str) -> None:
        """Record an input that is not indexed; ``outcome``: duplicate, skipped or failed; ``reason``: a stable code."""
        entry = {"uri": uri, "outcome": outcome, "reason": reason, "detail": detail}
        with storage_errors(f"write {self.collection}"):
            self._ledger.write((json.dumps(entry, ensure_ascii=False) + "\n").encode(errors="replace"))

    def finish(self) -> None:
        """Write the last shard out; ``publish`` does it too. No item is added after it."""
        with storage_errors(f"write {self.collection}"):
            if self._shard is None and not self._num_shards:
                self._shard = Shard(self._directory, 0, self.encoder.dim)
                self._num_shards = 1
            if self._shard is not None:
                self._close_shard()

    def publish(
        self, counts: Counts, *, source: str, index: dict[str, Any], live_sequence: int = 0, job: str = ""
    ) -> CollectionManifest:
        """Write what is left and the manifest; the generation becomes current when the ``with`` block ends.

        ``live_sequence`` is the last live change that is contained; ``job`` names the build.
        """
        assert counts.add_up(), counts
        self.finish()
        with storage_errors(f"write {self.collection}"):
            self._ledger.close()
            self._pad_shard_numbers()
            self._manifest = CollectionManifest(
                generation=self.generation,
                created=self._created or datetime.now(UTC).isoformat(timespec="seconds"),
                sightline_version=__version__,
                source=source,
                encoder=self.encoder,
                num_items=self.num_items,
                num_captions=self.num_captions,
                num_shards=self._num_shards,
                counts=counts,
                index=index,
                files=record_files(self._directory),
                live_sequence=live_sequence,
                job=job,
            )
            layout.write_manifest(self._directory, self._manifest)
        return self._manifest

    def _close_shard(self) -> None:
        assert self._shard is not None
        self._shard.close()
        self._shard = None

    def _pad_shard_numbers(self) -> None:
        for kind, suffix in SHARD_KINDS:
            for shard in range(self._num_shards):
                final = layout.shard_name(kind, shard, self._num_shards, suffix)
                (self._directory / kind / f"{kind}_{shard}.{suffix}").rename(self._directory / final)


def make_current(collection: Path, generation: str) -> None:
    """Let ``CURRENT`` name a generation that is whole, in one step. Raises StorageError."""
    replace_file(collection / layout.CURRENT_NAME, f"{generation}\n".encode())


class _NotPublished(Exception):
    """Makes the directory context throw its work away."""


@contextlib.contextmanager
def _unpublished(final: Path) -> Iterator[Path]:
    with contextlib.suppress(_NotPublished), new_directory(final) as directory:
        yield directory
