"""Building and tuning the indexes of a generation, and giving a published one another plan.

A new plan is a new generation: the shards are shared with the old one by hard link, the index files are added, and
``CURRENT`` moves when all of it is on disk. So a running service takes it by reload, and can roll back.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sightline.collection import CollectionManifest, open_collection
from sightline.collection.manifest import INDEX_FOLDER, next_generation_name, write_manifest
from sightline.collection.writer import make_current
from sightline.errors import QueryError
from sightline.index.building import build_index, stores_of
from sightline.index.calibration import Machine, Speeds, measure, this_machine
from sightline.index.planner import TARGET_MS, Decision, plan
from sightline.index.plans import PLANS, Plan
from sightline.storage import new_directory, record_files, storage_errors

_SURELY_FAST = 50_000 * 512
"""Numbers that any machine scans within the target (4 ms here); so that small collections are built to the same bytes
everywhere, nothing is measured for them."""
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
    stores = stores_of(directory, dim)
    planner = _Planner(dim, options)
    records = {}
    for which, vectors in stores.items():
        kind, reason = planner.choose(vectors.num_rows)
        records[which] = build_index(
            directory, which, stores, kind, reason, options.recall_target, or_exact=options.plan == "auto", say=say
        )
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
            return PLANS[wanted], "asked for"
        if count * self.dim <= _SURELY_FAST and self.options.target_ms >= TARGET_MS:
            return PLANS["exact"], "so few vectors are scored fast enough on any machine"
        decision = self.decide(count)
        return PLANS[decision.chosen], decision.reason

    def decide(self, count: int) -> Decision:
        if self._known is None:
            self._known = this_machine(self.options.memory_bytes), measure(self.dim)
        return plan(count, self.dim, *self._known, self.options.target_ms)


def _share(source: Path, target: Path) -> None:
    """One file under two names; a copy where the file system knows no hard links. Raises OSError."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.EXDEV, errno.EMLINK, errno.ENOTSUP):
            raise
        shutil.copyfile(source, target)
