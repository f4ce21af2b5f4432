"""The indexes of a generation once more, by the plans they had, on the rows that it has now."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np

from sightline.collection import CollectionManifest
from sightline.index.approximate import ApproximateIndex
from sightline.index.files import file_name, write_index
from sightline.index.hits import Scores
from sightline.index.record import IndexRecord, approximate_record, record_of
from sightline.index.store import ShardFiles
from sightline.index.training import train
from sightline.index.tuning import tune

_FOLDERS = {"images": "img_emb", "captions": "text_emb"}
_NUM_QUERIES = 256


def build_indexes(directory: Path, old: CollectionManifest) -> dict[str, Any]:
    """Train and tune the indexes of the shards below ``directory`` by the plans of the manifest ``old``, write their
    files and return what the new manifest says of them; nothing is to be done for exact plans. Raises StorageError."""
    stores = {which: _shards(directory / folder, old.encoder.dim) for which, folder in _FOLDERS.items()}
    records = {}
    for which, askers in (("images", ("captions", "images")), ("captions", ("images", "captions"))):
        record = record_of(old.index, which)
        if not record.kind.exact:
            queries = {kind: _queries(stores[one]) for kind, one in _kinds(askers).items() if stores[one].num_rows}
            record = _build(directory, which, stores[which], queries, record)
            records[which] = record.model_dump(mode="json")
    return {**old.index, **records}


def _build(
    directory: Path, which: str, vectors: ShardFiles, queries: dict[str, Scores], old: IndexRecord
) -> IndexRecord:
    plan = old.kind
    if vectors.num_rows < plan.min_rows:
        return IndexRecord(reason=f"{vectors.num_rows:,} vectors are too few for {plan.name}")
    started = time.monotonic()
    index = train(plan, vectors)
    seconds = time.monotonic() - started
    tuned_on = old.tuned_on if old.tuned_on in queries else next(iter(queries))
    tuned = tune(ApproximateIndex(plan, index, vectors, 1), vectors, queries, tuned_on, old.recall_target)
    write_index(index, directory / file_name(which))
    return approximate_record(plan, tuned, old.reason, seconds)


def _kinds(askers: tuple[str, str]) -> dict[str, str]:
    """Which vectors stand for queries of which kind: captions for texts, pictures for pictures."""
    return {{"captions": "text", "images": "image"}[one]: one for one in askers}


def _queries(store: ShardFiles) -> Scores:
    """float32 ``[Q, D]``: stored vectors, spread evenly, of the unit length that queries have."""
    rows = np.unique(np.linspace(0, store.num_rows - 1, min(_NUM_QUERIES, store.num_rows)).astype(np.int64))
    vectors = store.take(rows).astype(np.float32)
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), dtype=np.float32)


def _shards(folder: Path, dim: int) -> ShardFiles:
    """The shards of a folder in the order of their numbers, which are not padded before publication."""
    return ShardFiles(sorted(folder.glob("*.npy"), key=lambda path: int(path.stem.rpartition("_")[2])), dim)
