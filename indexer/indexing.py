"""Building and tuning the indexes of a generation, and giving a published one another plan.

A new plan is a new generation: the shards are shared with the old one by hard link, the index files are added, and
``CURRENT`` moves when all of it is on disk. So a running service takes it by reload, and can roll back.
"""

from __future__ import annotations

import errno
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from sightline.collection import CollectionManifest, open_collection
from sightline.collection.manifest import INDEX_FOLDER, next_generation_name, write_manifest
from sightline.collection.writer import make_current
from sightline.errors import QueryError
from sightline.index import Scores
from sightline.index.approximate import ApproximateIndex
from sightline.index.calibration import Machine, Speeds, measure, this_machine
from sightline.index.files import file_name, write_index
from sightline.index.planner import TARGET_MS, Decision, plan
from sightline.index.plans import PLANS, Plan
from sightline.index.record import IndexRecord, approximate_record
from sightline.index.store import ShardFiles
from sightline.index.training import train
from sightline.index.tuning import tune
from sightline.storage import new_directory, record_files, storage_errors

_NUM_QUERIES = 256
_SURELY_FAST = 50_000 * 512
"""Numbers that any machine scans within the target (4 ms here); so that small collections are built to the same bytes
everywhere, nothing is measured for them."""
_FOLDERS = {"images": "img_emb", "captions": "text_emb"}
Say = Callable[[str], None]


@dataclass(frozen=True)
class IndexOptions:
    """``plan``: ``auto`` or a name of ``sightline.index.plans``; ``memory_bytes``: what the index may count on,
    None for what is free; ``target_ms``: ``auto`` stays exact while a single query takes at most this long."""

    plan: str = "auto"
    recall_target: float = 0.95
    target_ms: float = TARGET_MS
    memory_bytes: int | None = None

    def check(self) -> None:
        """Raise QueryError for a plan that nobody knows or a target outside (0, 1]."""
        if self.plan != "auto" and self.plan not in PLANS:
            raise QueryError(f"There is no index plan of this name; choose one of auto, {', '.join(PLANS)}.")
        if not 0.0 < self.recall_target <= 1.0:
            raise QueryError("The recall target must be above 0 and at most 1, like 0.95.")


def build_indexes(directory: Path, dim: int, options: IndexOptions, say: Say = lambda line: None) -> dict[str, Any]:
    """Plan, train and tune the indexes of the shards below ``directory``, and write their files beside them.

    To be called when every shard is written and before the manifest is. Returns what belongs into the manifest's
    ``index``: ``{"kind": plan of the pictures, "images": {…}, "captions": {…}}``. Raises QueryError, MemoryShort,
    StorageError, DependencyMissing.
    """
    options.check()
    images, captions = (_shards(directory / _FOLDERS[which], dim) for which in ("images", "captions"))
    planner = _Planner(dim, options)
    records = {
        "images": _build(directory, "images", images, {"text": captions, "image": images}, planner, say),
        "captions": _build(directory, "captions", captions, {"image": images, "text": captions}, planner, say),
    }
    result: dict[str, Any] = {which: record.model_dump(mode="json") for which, record in records.items()}
    return {"kind": records["images"].plan, **result}


def optimise(collection: Path, options: IndexOptions, say: Say = lambda line: None) -> CollectionManifest:
    """Give the current generation of a collection another plan, as a new generation that becomes current.

    Everything is verified before it is shared. Raises SourceError, CollectionCorrupt, QueryError, StorageError.
    """
    options.check()
    generation = open_collection(collection, verify=True)
    old = generation.manifest
    name = next_generation_name(collection)
    with storage_errors(f"write {collection}"), new_directory(collection / name) as directory:
        kept = {file: record for file, record in old.files.items() if not file.startswith(f"{INDEX_FOLDER}/")}
        for file in kept:
            _share(generation.directory / file, directory / file)
        index = build_indexes(directory, old.encoder.dim, options, say)
        added = record_files(directory / INDEX_FOLDER) if (directory / INDEX_FOLDER).is_dir() else {}
        manifest = old.model_copy(
            update={
                "generation": name,
                "created": datetime.now(UTC).isoformat(timespec="seconds"),
                "index": {**{k: v for k, v in old.index.items() if k not in index}, **index},
                "files": {**kept, **{f"{INDEX_FOLDER}/{file}": record for file, record in added.items()}},
            }
        )
        write_manifest(directory, manifest)
    make_current(collection, name)
    return manifest


class _Planner:
    """Asks the machine once, and only when the answer depends on it."""

    def __init__(self, dim: int, options: IndexOptions) -> None:
        self.dim = dim
        self.options = options
        self._known: tuple[Machine, Speeds] | None = None

    def choose(self, count: int) -> tuple[Plan, str]:
        """The plan for ``count`` vectors, and why."""
        wanted = self.options.plan
        if wanted != "auto":
            kind = PLANS[wanted]
            if count < kind.min_rows:
                return PLANS["exact"], f"{count:,} vectors are too few for {wanted}"
            return kind, "asked for"
        if count * self.dim <= _SURELY_FAST and self.options.target_ms >= TARGET_MS:
            return PLANS["exact"], "so few vectors are scored fast enough on any machine"
        decision = self.decide(count)
        return PLANS[decision.chosen], decision.reason

    def decide(self, count: int) -> Decision:
        if self._known is None:
            self._known = this_machine(self.options.memory_bytes), measure(self.dim)
        return plan(count, self.dim, *self._known, self.options.target_ms)


def _build(
    directory: Path, which: str, vectors: ShardFiles, askers: dict[str, ShardFiles], planner: _Planner, say: Say
) -> IndexRecord:
    """One index. ``askers``: where queries come from, by kind; the first kind that has any must reach the target."""
    kind, reason = planner.choose(vectors.num_rows)
    if kind.exact:
        return IndexRecord(plan=kind.name, reason=reason)
    say(f"Building the index of {vectors.num_rows:,} {which}: {kind.name} ({reason}) …")
    started = time.monotonic()
    index = train(kind, vectors)
    trained_seconds = time.monotonic() - started
    queries = {name: _queries(store) for name, store in askers.items() if store.num_rows}
    tuned_on = next(iter(queries))
    approximate = ApproximateIndex(kind, index, vectors, 1)
    tuned = tune(approximate, vectors, queries, tuned_on, planner.options.recall_target)
    point = tuned.at(tuned_on)
    assert point is not None
    found = f"recall@10 {point.recall_at_10:.3f} on {tuned_on} queries at {kind.setting} {tuned.setting}"
    if not tuned.reached and planner.options.plan == "auto":
        say(f"{kind.name} reaches only {found}; the index stays exact.")
        return IndexRecord(plan="exact", reason=f"{kind.name} reached only {found}")
    if which == "images" and tuned_on != "text":
        reason += "; tuned on image queries, for there are no captions"
    say(f"{which}: {found}, {point.latency_ms:.2f} ms{'' if tuned.reached else ': the target is missed'}.")
    write_index(index, directory / file_name(which))
    return approximate_record(kind, tuned, reason, trained_seconds)


def _queries(store: ShardFiles) -> Scores:
    """float32 ``[Q, D]``: stored vectors, spread evenly, of the unit length that queries have."""
    rows = np.unique(np.linspace(0, store.num_rows - 1, min(_NUM_QUERIES, store.num_rows)).astype(np.int64))
    vectors = store.take(rows).astype(np.float32)
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), dtype=np.float32)


def _shards(folder: Path, dim: int) -> ShardFiles:
    """The shards of a folder in the order of their numbers, padded or not."""
    return ShardFiles(sorted(folder.glob("*.npy"), key=lambda path: int(path.stem.rpartition("_")[2])), dim)


def _share(source: Path, target: Path) -> None:
    """One file under two names; a copy where the file system knows no hard links. Raises OSError."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.EXDEV, errno.EMLINK, errno.ENOTSUP):
            raise
        shutil.copyfile(source, target)
