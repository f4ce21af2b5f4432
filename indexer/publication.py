"""From segments to a generation: streaming, and with the same bytes however the segments came about.

Memory holds the ledger of one chunk and a few hundred pictures. Duplicates across chunks are dropped here, the first
position wins; captions that a duplicate brought go to the first copy of its chunk. A process that is killed at any
instant leaves ``CURRENT`` as it was or changed; publishing again finishes what was begun.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from indexer.duplicates import MAX_NEAR_DUPLICATE_ROWS, FirstCopies, near_duplicates
from indexer.encoding import EncodedItem, LeftOut
from indexer.job import Building, Job
from indexer.ledger import Ledger
from indexer.recall import MAX_SAMPLE_ROWS, measure_recall
from indexer.segments import Segment
from sightline.collection import CollectionManifest, GenerationWriter, NewItem, read_manifest
from sightline.collection.manifest import CURRENT_NAME, INDEX_FOLDER, next_generation_name
from sightline.collection.writer import make_current
from sightline.errors import CollectionCorrupt, SourceError
from sightline.sources import Rejected
from sightline.storage import NewFile, replace_file, storage_errors

NEAR_DUPLICATE_KEY = "near_duplicate_of"
"""The key in an item's metadata that names the item it nearly equals; a key of this name in the source stays."""
_NAME_FILE = "generation"


@dataclass(frozen=True)
class _Chunk:
    """One chunk's segments, checked, and the captions that duplicates brought, by SHA-256 of the first copy."""

    segments: list[Segment]
    left_out: list[LeftOut]
    captions_skipped: dict[str, int]

    def items(self) -> Iterator[EncodedItem]:
        late: dict[str, list[LeftOut]] = {}
        for duplicate in self.left_out:
            if duplicate.first:
                late.setdefault(duplicate.first, []).append(duplicate)
        for segment in self.segments:
            for one in segment.items():
                extra = late.get(one.item.sha256)
                yield replace(one, item=_with_captions(one.item, extra)) if extra else one


class NothingChanged(Exception):
    """The generation would hold what the current one holds."""


class Publication:
    """Publishes the segments of a job, all of which must be there. The caller holds the lock of the building.

    ``build_index`` adds index files to a directory whose shards are written, and says what the manifest says of them.
    """

    def __init__(self, building: Building, job: Job, build_index: Callable[[Path], dict[str, Any]]) -> None:
        self._building = building
        self._build_index = build_index
        self._job = job
        self._progress = building.segments(job).progress()
        self._ledger = Ledger()

    def publish(self, unless_like: CollectionManifest | None = None) -> CollectionManifest:
        """Write the generation, make it current and remove the building.

        Raises SourceError when chunks are missing or when there is no picture, NothingChanged when the files would be
        those of the generation ``unless_like``; then too the building is removed.
        """
        if not self._progress.complete:
            missing = self._progress.missing_chunks()
            shown = ", ".join(map(str, missing[:10])) + (" …" if len(missing) > 10 else "")
            raise SourceError(
                f"{self._building.directory} lacks {len(missing)} chunk{'s' if len(missing) > 1 else ''} ({shown}); "
                "encode them with `sightline index build`, with --shard or without."
            )
        name = self._name()
        finished = self._finished(name)
        manifest = finished or self._write(name, unless_like)
        if finished is not None:
            self._make_current(name)
        self._building.discard()
        return manifest

    def _name(self) -> str:
        """The name of the generation, noted before it is made: a later run finds what this one has begun."""
        path = self._building.directory / _NAME_FILE
        if path.is_file():
            name = path.read_text().strip()
            if not (self._building.collection / name).exists() or self._finished(name) is not None:
                return name
        name = next_generation_name(self._building.collection)
        replace_file(path, f"{name}\n".encode())
        return name

    def _finished(self, name: str) -> CollectionManifest | None:
        """The manifest of the generation, if an earlier run has written all of it and was killed then."""
        with contextlib.suppress(CollectionCorrupt):
            manifest = read_manifest(self._building.collection / name)
            if (manifest.created, manifest.source, manifest.encoder) == (
                self._job.created, self._job.source, self._job.encoder
            ):  # fmt: skip
                return manifest
        return None

    def _make_current(self, name: str) -> None:
        """Let CURRENT name it unless it names a later one, which somebody else has published since."""
        pointer = self._building.collection / CURRENT_NAME
        with storage_errors(f"read {pointer}"):
            current = pointer.read_text().strip() if pointer.is_file() else ""
        if current < name:
            make_current(self._building.collection, name)

    def _write(self, name: str, unless_like: CollectionManifest | None) -> CollectionManifest:
        with contextlib.ExitStack() as stack:
            copies = FirstCopies(self._building.directory / "copies.db")
            stack.callback(copies.close)
            groups, facts = self._near_duplicates(copies)
            writer = stack.enter_context(
                GenerationWriter(
                    self._building.collection, self._job.encoder, generation=name, created=self._job.created
                )
            )
            sample = self._add_items(writer, copies, groups)
            counts = self._ledger.counts()
            if not counts.indexed:
                self._building.discard()
                reasons = ", ".join(f"{reason} {count}" for reason, count in counts.reasons.items())
                raise SourceError(
                    f"None of the {counts.seen} inputs of {self._job.source} is a usable picture ({reasons}); "
                    "check the source."
                )
            writer.finish()
            index = {"dtype": "float16", **measure_recall(sample), **self._build_index(writer.directory), **facts}
            manifest = writer.publish(counts, source=self._job.source, index=index, job=self._job.digest)
            if unless_like is not None and _data_files(manifest) == _data_files(unless_like):
                self._building.discard()
                raise NothingChanged
            return manifest

    def _add_items(
        self, writer: GenerationWriter, copies: FirstCopies, groups: dict[int, int]
    ) -> list[tuple[Any, Any]]:
        """Write every picture and ledger line; returns vectors to measure recall with."""
        sample: list[tuple[Any, Any]] = []
        leaders: dict[int, str] = dict.fromkeys(groups.values(), "")
        for chunk in self._chunks():
            left_out = iter([*chunk.left_out, None])
            waiting = next(left_out)
            for one in chunk.items():
                while waiting is not None and waiting.position < one.position:
                    self._reject(writer, waiting.rejected)
                    waiting = next(left_out)
                position, uri = copies.first(one.item.sha256)
                if position != one.position:
                    self._ledger.captions(0, len(one.item.captions), "caption_of_duplicate")
                    self._reject(writer, Rejected(one.item.uri, "duplicate", "same_bytes", f"the same file as {uri}"))
                    continue
                row = writer.num_items
                if row in leaders:
                    leaders[row] = one.item.item_id
                item = _with_leader(one.item, leaders[groups[row]]) if row in groups else one.item
                if len(sample) < MAX_SAMPLE_ROWS:
                    sample.append(_sampled(item))
                writer.add(item)
                self._ledger.indexed()
                self._ledger.captions(len(item.captions), 0)
            while waiting is not None:
                self._reject(writer, waiting.rejected)
                waiting = next(left_out)
            for reason, count in sorted(chunk.captions_skipped.items()):
                self._ledger.captions(0, count, reason)
        return sample

    def _reject(self, writer: GenerationWriter, rejected: Rejected) -> None:
        writer.reject(rejected.uri, rejected.outcome, rejected.reason, rejected.detail)
        self._ledger.rejected(rejected.outcome, rejected.reason)

    def _chunks(self) -> Iterator[_Chunk]:
        """The chunks in order, each file compared with its hash before it is read. Raises CollectionCorrupt."""
        for segments in self._progress.chunks.values():
            skipped: dict[str, int] = {}
            left_out: list[LeftOut] = []
            for segment in segments:
                for reason, count in segment.check().captions_skipped.items():
                    skipped[reason] = skipped.get(reason, 0) + count
                left_out += segment.left_out(vectors=True)
            yield _Chunk(segments, left_out, skipped)

    def _near_duplicates(self, copies: FirstCopies) -> tuple[dict[int, int], dict[str, Any]]:
        """Find the first copies, and which of them nearly equal an earlier one; what the manifest says of it."""
        threshold = self._job.options["near_duplicates"]
        path = self._building.directory / "vectors.f16"
        path.unlink(missing_ok=True)
        num_rows = 0
        with storage_errors(f"write {path}"), NewFile(path) as spool:
            for chunk in self._chunks():
                for segment in chunk.segments:
                    hashes = segment.hashes()
                    copies.add(hashes)
                    kept = [row for row, (at, sha256, _) in enumerate(hashes) if copies.first(sha256)[0] == at]
                    num_rows += len(kept)
                    if threshold and kept and num_rows <= MAX_NEAR_DUPLICATE_ROWS:
                        spool.write(segment.images()[kept].tobytes())
        try:
            if not threshold or not num_rows:
                return {}, {}
            facts: dict[str, Any] = {"near_duplicates": {"threshold": threshold, "searched": False}}
            if num_rows > MAX_NEAR_DUPLICATE_ROWS:
                return {}, facts
            with storage_errors(f"read {path}"):
                vectors = np.memmap(path, np.float16, "r", shape=(num_rows, self._job.encoder.dim))  # [N, D]
                groups = near_duplicates(vectors, threshold)
                del vectors
            facts["near_duplicates"] |= {
                "searched": True, "items": len(groups), "groups": len(set(groups.values()))
            }  # fmt: skip
            return groups, facts
        finally:
            path.unlink(missing_ok=True)


def _data_files(manifest: CollectionManifest) -> dict[str, Any]:
    return {name: one for name, one in manifest.files.items() if not name.startswith(f"{INDEX_FOLDER}/")}


def _with_captions(item: NewItem, late: list[LeftOut]) -> NewItem:
    own = [item.caption_vectors] if item.caption_vectors is not None else []
    vectors = np.concatenate([*own, *(one.vectors for one in late if one.vectors is not None)])  # [C, D]
    captions = (*item.captions, *(caption for one in late for caption in one.captions))
    return replace(item, captions=captions, caption_vectors=vectors)


def _with_leader(item: NewItem, leader: str) -> NewItem:
    return replace(item, metadata={NEAR_DUPLICATE_KEY: leader, **item.metadata})


def _sampled(item: NewItem) -> tuple[Any, Any]:
    texts = item.caption_vectors
    has_text = texts is not None and len(texts) > 0
    return item.vector.astype(np.float32), texts[0].astype(np.float32) if has_text and texts is not None else None
