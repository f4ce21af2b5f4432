"""A generation on disk into Milvus, as a version of its own; then the alias; never a half one.

A version is filled, indexed, counted and asked before the alias names it, in one step. The version before stays for a
rollback; older ones are dropped. A push that was interrupted goes on where it ended when it is run again, and what
cannot be continued is dropped then.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from sightline.collection import Generation
from sightline.errors import CountMismatch, GenerationUnknown, SightlineError, VectorsWrong
from sightline.index.opening import Which, open_vectors
from sightline.milvus import layout
from sightline.milvus.capabilities import IndexPlan, choose
from sightline.milvus.client import MilvusServer
from sightline.milvus.generation import MilvusGeneration, open_version, read_about, served_version, version_before
from sightline.milvus.terms import Searchable, searchable

_BATCH_ROWS = 1000
_BATCH_BYTES = 8 * 2**20
_NUM_PROBES = 8
_MAX_PROBE_ERROR = 5e-3
_SCALARS = {"images": ("terms", "item_key"), "captions": ("terms", "item_row")}

Progress = Callable[[str, int, int], None]
"""Called with images or captions, how many rows are there, and how many there will be."""


@dataclass(frozen=True)
class Pushed:
    """What a push did. ``resumed_rows``: how many an interrupted one had already written; ``changed`` is false where
    this generation, with this index, is what is served."""

    version: str
    before: str | None
    changed: bool
    num_items: int
    num_captions: int
    resumed_rows: int
    index: dict[str, str]


def push(
    generation: Generation,
    server: MilvusServer,
    *,
    index_type: str = "auto",
    thumbnails: bool = True,
    on_progress: Progress = lambda which, done, total: None,
) -> Pushed:
    """Make a generation the served version. Blocking: it takes as long as the server takes rows.

    Raises QueryError (an index type that the server does not have, a text that is too long), MilvusFailed,
    CountMismatch and VectorsWrong (the server does not hold what was sent); the served version stays as it was.
    """
    plans: dict[Which, IndexPlan] = {
        "images": choose(server.kind, generation.num_items, index_type),
        "captions": choose(server.kind, generation.num_captions, index_type),
    }
    about = _about(generation, plans, thumbnails=thumbnails)
    current = served_version(server)
    index: dict[str, str] = {which: plan.index_type for which, plan in plans.items()}
    if current is not None and read_about(server, current) == about:
        return Pushed(current, version_before(server), False, generation.num_items, generation.num_captions, 0, index)
    version = _continued(server, about)
    totals: dict[Which, int] = {"images": generation.num_items, "captions": generation.num_captions}
    starts: dict[Which, int] = {"images": 0, "captions": 0}
    if version is None:
        version = _begun(server, about, plans, generation.manifest.encoder.dim)
    else:
        starts = {which: _rows_there(server, f"{version}_{which}", plan) for which, plan in plans.items()}
    for which, start in starts.items():
        rows = (
            _item_rows(generation, plans[which], start, thumbnails=thumbnails)
            if which == "images"
            else _caption_rows(generation, plans[which], start)
        )
        _fill(
            server, f"{version}_{which}", rows, generation.manifest.encoder.dim,
            functools.partial(_tell, on_progress, which, totals[which]),
        )  # fmt: skip
    for which in ("images", "captions"):
        scalars = _SCALARS[which] if server.kind.scalar_index else ()
        server.build_index(f"{version}_{which}", plans[which].index_type, plans[which].build, scalars)
    _prove(open_version(server, version), generation)
    if current is not None:
        server.point(layout.before(server.address.name), layout.images_of(current))
    server.point(server.address.name, layout.images_of(version))
    _drop_others(server, keep={version, *([current] if current else [])})
    return Pushed(version, current, True, generation.num_items, generation.num_captions, sum(starts.values()), index)


def rollback(server: MilvusServer) -> tuple[str, str]:
    """Let the alias name the version before; asked twice, it returns. Returns what was and what is served.

    Raises GenerationUnknown where there is none before.
    """
    current, before = served_version(server), version_before(server)
    if current is None or before is None or current == before:
        raise GenerationUnknown(f"Milvus holds no version of {server.address.name} before the one that is served.")
    server.point(server.address.name, layout.images_of(before))
    server.point(layout.before(server.address.name), layout.images_of(current))
    return current, before


def versions(server: MilvusServer) -> list[str]:
    """Every version of the collection in Milvus, complete or not, oldest first."""
    name = server.address.name
    numbers = {layout.number_of(one.rpartition("_")[0]) for one in server.collections(f"{name}_v")}
    return [layout.version_name(name, number) for number in sorted(numbers - {0})]


def _about(generation: Generation, plans: dict[Which, IndexPlan], *, thumbnails: bool) -> dict[str, Any]:
    """What a version says of itself: the manifest without its list of files, which stays on disk."""
    manifest = generation.manifest.model_dump(mode="json")
    files = json.dumps(manifest.pop("files"), sort_keys=True)
    return {
        "manifest": {**manifest, "files": {}},
        "files_sha256": hashlib.sha256(files.encode()).hexdigest(),
        "plans": {which: asdict(plan) for which, plan in plans.items()},
        "thumbnails": thumbnails,
    }


def _continued(server: MilvusServer, about: dict[str, Any]) -> str | None:
    """The version that an interrupted push of the same left behind; every other that nothing names is dropped."""
    named = {served_version(server), version_before(server)}
    found: str | None = None
    for version in versions(server):
        if version in named:
            continue
        try:
            there = set(server.collections(version))
            same = read_about(server, version) == about and len(there) == 3
        except SightlineError:
            same = False
        if same and found is None:
            found = version
        else:
            _drop(server, version)
    return found


def _begun(server: MilvusServer, about: dict[str, Any], plans: dict[Which, IndexPlan], dim: int) -> str:
    """Three collections for a version. The description comes last: what has one has the other two."""
    number = max((layout.number_of(version) for version in versions(server)), default=0) + 1
    version = layout.version_name(server.address.name, number)
    server.create(layout.images_of(version), layout.item_fields(plans["images"], dim))
    server.create(layout.captions_of(version), layout.caption_fields(plans["captions"], dim))
    name = layout.about_of(version)
    server.create(name, layout.about_fields())
    server.insert(name, layout.about_rows(json.dumps(about)))
    server.build_index(name, "FLAT", {}, ())
    return version


def _fill(
    server: MilvusServer, name: str, rows: Iterator[dict[str, Any]], dim: int, on_rows: Callable[[int], None]
) -> None:
    """Write rows in order, in batches."""
    for batch in _batches(rows, dim):
        server.insert(name, batch)
        on_rows(int(batch[-1]["row"]) + 1)


def _tell(on_progress: Progress, which: Which, total: int, done: int) -> None:
    on_progress(which, done, total)


def _rows_there(server: MilvusServer, name: str, plan: IndexPlan) -> int:
    """How many rows from the first on an interrupted push has written; what lies beyond a gap is deleted.

    Rows can be counted only once they are loaded, which needs an index.
    """
    server.drop_indexes(name)
    server.build_index(name, plan.index_type, plan.build, ())
    there = server.count(name, strong=True)
    while there and server.count(name, f"row < {there}", strong=True) != there:
        there = server.count(name, f"row < {there}", strong=True)
    server.delete(name, f"row >= {there}")
    server.drop_indexes(name)
    return there


def _item_rows(generation: Generation, plan: IndexPlan, start: int, *, thumbnails: bool) -> Iterator[dict[str, Any]]:
    vectors = open_vectors(generation, "images")
    for first in range(start, generation.num_items, _BATCH_ROWS):
        block = vectors.block(first, min(first + _BATCH_ROWS, generation.num_items))  # [n, D]
        for row, vector in enumerate(block, first):
            item = generation.item(row)
            thumbnail = generation.thumbnail(row) if thumbnails else None
            yield layout.item_row(row, item, vector, thumbnail, searchable(item.metadata), plan)


def _caption_rows(generation: Generation, plan: IndexPlan, start: int) -> Iterator[dict[str, Any]]:
    vectors = open_vectors(generation, "captions")
    last: tuple[int, Searchable] = (-1, Searchable([], {}))
    for first in range(start, generation.num_captions, _BATCH_ROWS):
        block = vectors.block(first, min(first + _BATCH_ROWS, generation.num_captions))  # [n, D]
        for row, vector in enumerate(block, first):
            text, item_row = generation.caption(row)
            if last[0] != item_row:  # captions of one picture come together
                last = (item_row, searchable(generation.item(item_row).metadata))
            yield layout.caption_row(row, item_row, text, vector, last[1], plan)


def _batches(rows: Iterator[dict[str, Any]], dim: int) -> Iterator[list[dict[str, Any]]]:
    """Rows in batches of at most so many bytes, about."""
    batch: list[dict[str, Any]] = []
    num_bytes = 0
    for row in rows:
        batch.append(row)
        num_bytes += 4 * dim + sum(len(value) for value in row.values() if isinstance(value, str))
        num_bytes += sum(map(len, row["terms"]))
        if len(batch) >= _BATCH_ROWS or num_bytes >= _BATCH_BYTES:
            yield batch
            batch, num_bytes = [], 0
    if batch:
        yield batch


def _prove(there: MilvusGeneration, generation: Generation) -> None:
    """Count, read and ask. Raises CountMismatch, VectorsWrong."""
    for which, expected in (("images", generation.num_items), ("captions", generation.num_captions)):
        vector_set = there.images if which == "images" else there.captions
        found = there.server.count(vector_set.name, strong=True)
        if found != expected:
            raise CountMismatch(f"Milvus holds {found} rows of {vector_set.name} and {expected} were sent; push again.")
        rows = np.unique(np.linspace(0, max(expected - 1, 0), _NUM_PROBES).astype(int))[:expected]
        if not len(rows):
            continue
        stored = open_vectors(generation, "images" if which == "images" else "captions").take(rows).astype(np.float32)
        best = vector_set.search(stored, 1).scores[:, 0]  # [P]
        length = np.einsum("pd,pd->p", stored, stored)
        lost = np.flatnonzero(best < length - _MAX_PROBE_ERROR)
        if len(lost) > (0 if vector_set.plan.exact else len(rows) // 2):
            raise VectorsWrong(f"Row {rows[lost[0]]} of {vector_set.name} does not find itself in Milvus; push again.")
    for row in np.unique(np.linspace(0, max(generation.num_items - 1, 0), _NUM_PROBES).astype(int)):
        if generation.num_items and there.item(int(row)) != generation.item(int(row)):
            raise CountMismatch(
                f"Milvus gives another picture for row {row} of {there.version} than was sent; push again."
            )


def _drop_others(server: MilvusServer, keep: set[str]) -> None:
    """Let go of versions that nothing can go back to."""
    for version in versions(server):
        if version not in keep:
            _drop(server, version)


def _drop(server: MilvusServer, version: str) -> None:
    """The description first: what is left of an interrupted drop has none."""
    there = server.collections(version)
    for name in (layout.about_of(version), layout.captions_of(version), layout.images_of(version)):
        if name in there:
            server.drop(name)
