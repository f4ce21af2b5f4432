"""One index of a generation that is being written: trained, tuned, written beside its shards, and recorded."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from sightline.collection import CollectionManifest
from sightline.index.approximate import ApproximateIndex
from sightline.index.files import file_name, write_index
from sightline.index.hits import Scores
from sightline.index.plans import Plan
from sightline.index.record import IndexRecord, approximate_record, record_of
from sightline.index.scan import widened
from sightline.index.store import ShardFiles
from sightline.index.training import train
from sightline.index.tuning import tune

FOLDERS = {"images": "img_emb", "captions": "text_emb"}
ASKERS = {"images": {"text": "captions", "image": "images"}, "captions": {"image": "images", "text": "captions"}}
"""Whose vectors stand for which queries; the first kind that there is must reach the target, for it is the harder one:
pictures are asked for with texts, and captions with pictures."""

_NUM_QUERIES = 256


def build_index(
    directory: Path,
    which: str,
    stores: Mapping[str, ShardFiles],
    plan: Plan,
    reason: str,
    target: float,
    *,
    or_exact: bool = False,
    say: Callable[[str], None] = lambda line: None,
) -> IndexRecord:
    """Build the index of ``images`` or ``captions`` in a directory whose shards are whole.

    ``stores``: the vectors of both; ``reason``: why this plan; ``target``: the recall@10 to reach. Where it is out of
    reach the best setting is taken, or with ``or_exact`` the exact plan. Raises QueryError, StorageError.
    """
    vectors = stores[which]
    if plan.exact or vectors.num_rows < plan.min_rows:
        few = "" if plan.exact else f"{vectors.num_rows:,} vectors are too few for {plan.name}"
        return IndexRecord(plan=plan.name if plan.exact else "exact", reason=few or reason)
    say(f"Building the index of {vectors.num_rows:,} {which}: {plan.name} ({reason}) …")
    started = time.monotonic()
    index = train(plan, vectors)
    seconds = time.monotonic() - started
    queries = {kind: queries_of(stores[who]) for kind, who in ASKERS[which].items() if stores[who].num_rows}
    tuned_on = next(iter(queries))
    tuned = tune(ApproximateIndex(plan, index, vectors, 1), vectors, queries, tuned_on, target)
    point = tuned.at(tuned_on)
    assert point is not None
    found = f"recall@10 {point.recall_at_10:.3f} on {tuned_on} queries at {plan.setting} {tuned.setting}"
    if not tuned.reached and or_exact:
        say(f"{plan.name} reaches only {found}; the index stays exact.")
        return IndexRecord(plan="exact", reason=f"{plan.name} reached only {found}")
    found += "" if tuned_on == next(iter(ASKERS[which])) else ", for there are no others"
    say(f"{which}: {found}, {point.latency_ms:.2f} ms{'' if tuned.reached else ': the target is missed'}.")
    write_index(index, directory / file_name(which))
    return approximate_record(plan, tuned, reason, seconds)


def rebuild_indexes(directory: Path, old: CollectionManifest) -> dict[str, Any]:
    """Build the indexes of a directory by the plans, reasons and targets that the manifest ``old`` has of them.

    Nothing is done for exact plans. Returns what the new manifest says. Raises StorageError.
    """
    stores = stores_of(directory, old.encoder.dim)
    index = dict(old.index)
    for which in stores:
        record = record_of(old.index, which)
        if not record.kind.exact:
            fresh = build_index(directory, which, stores, record.kind, record.reason, record.recall_target)
            index[which] = fresh.model_dump(mode="json")
            index |= {"kind": fresh.plan} if which == "images" else {}
    return index


def stores_of(directory: Path, dim: int) -> dict[str, ShardFiles]:
    """The vectors of a generation's directory, in the order of their shards' numbers, padded or not."""
    return {which: _shards(directory / folder, dim) for which, folder in FOLDERS.items()}


def queries_of(store: ShardFiles) -> Scores:
    """float32 ``[Q, D]``: stored vectors, spread evenly, of the unit length that queries have."""
    rows = np.unique(np.linspace(0, store.num_rows - 1, min(_NUM_QUERIES, store.num_rows)).astype(np.int64))
    vectors = widened(store.take(rows))
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), dtype=np.float32)


def _shards(folder: Path, dim: int) -> ShardFiles:
    return ShardFiles(sorted(folder.glob("*.npy"), key=lambda path: int(path.stem.rpartition("_")[2])), dim)
