"""One size: the vectors, the truth, the peers, our plans, and what the planner said before."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from benchmarks.search import peers
from benchmarks.search.clip_world import ClipWorld
from benchmarks.search.measured import Figures, timed
from sightline.index.approximate import ApproximateIndex
from sightline.index.calibration import measure, this_machine
from sightline.index.exact import VectorIndex
from sightline.index.files import read_index, write_index
from sightline.index.hits import Half, Hits, Scores
from sightline.index.planner import Decision, plan
from sightline.index.plans import PLANS
from sightline.index.scan import scan
from sightline.index.store import MemoryVectors, ShardFiles
from sightline.index.training import train
from sightline.index.tuning import recall, tune
from sightline.storage import FileRecord, sha256_of

GRAPH_ROWS = 200_000
"""A graph of a million vectors takes 2 cores the better part of an hour; it is built up to this size."""

_NUM_QUERIES = 256
_SHARD_ROWS = 65_536
_TARGET = 0.95

Say = Callable[[str], None]


def run_size(
    world: ClipWorld, rows: int, names: Sequence[str], folder: Path, say: Say, graphs: bool
) -> tuple[list[Figures], Decision]:
    """Figures of the peers and of the plans ``names``, and the planner's decision. Scratch files: in ``folder``."""
    generator = np.random.default_rng(rows)
    say(f"{rows:,} vectors: drawing …")
    vectors = world.collection(rows, generator)  # [N, D]
    queries = {
        "text": world.texts(world.images(_NUM_QUERIES, generator), generator),
        "image": world.images(_NUM_QUERIES, generator),
    }
    decision = plan(rows, world.dim, this_machine(), measure(world.dim))
    truth = {kind: scan(MemoryVectors(vectors), own, 10) for kind, own in queries.items()}
    results = []
    for figures in _all(vectors, queries, truth, names, folder, decision, graphs):
        say(
            f"  {figures.name} {figures.setting}: recall {figures.recalls}, {figures.times.single_p50_ms:.2f} ms, "
            f"built in {figures.build_seconds:.0f} s"
        )
        results.append(figures)
    return results, decision


def _all(
    vectors: Half,
    queries: dict[str, Scores],
    truth: dict[str, Hits],
    names: Sequence[str],
    folder: Path,
    decision: Decision,
    graphs: bool,
) -> Iterator[Figures]:
    yield peers.flat(vectors, queries, truth)
    small = len(vectors) <= GRAPH_ROWS
    if graphs and small:
        yield from peers.graph(vectors, queries, truth)
    if "exact" in names:
        yield _exact(vectors, queries, truth, decision)
    with tempfile.TemporaryDirectory(dir=folder, prefix="shards-") as place:
        store = _on_disk(vectors, Path(place))
        for name in names:
            if name != "exact" and (name != "hnsw" or (graphs and small)):
                yield from _approximate(name, store, queries, truth, Path(place), decision)


def _exact(vectors: Half, queries: dict[str, Scores], truth: dict[str, Hits], decision: Decision) -> Figures:
    started = time.monotonic()
    index = VectorIndex(vectors)
    seconds = time.monotonic() - started
    recalls = {kind: recall(index.search(own, 10), truth[kind]) for kind, own in queries.items()}
    size = vectors.nbytes
    return Figures("exact", "", size, seconds, recalls, timed(index, queries), _predicted(decision, "exact"))


def _approximate(
    name: str, store: ShardFiles, queries: dict[str, Scores], truth: dict[str, Hits], place: Path, decision: Decision
) -> Iterator[Figures]:
    """Trained and tuned on other text queries than those that are reported; every setting of the curve is reported."""
    kind = PLANS[name]
    started = time.monotonic()
    built = train(kind, store)
    seconds = time.monotonic() - started
    path = place / "generation" / "index" / f"{name}.faiss"
    write_index(built, path)
    del built
    record = FileRecord(num_bytes=path.stat().st_size, sha256=sha256_of(path))
    index = ApproximateIndex(kind, read_index(kind, path, record, store.dim, store.num_rows), store, 1)
    half = _NUM_QUERIES // 2
    tuned = tune(index, store, {"text": queries["text"][:half]}, "text", _TARGET)
    others = {kind: own[half:] for kind, own in queries.items()}
    rest = {kind: Hits(hits.scores[half:], hits.rows[half:]) for kind, hits in truth.items()}
    for setting in sorted({point.setting for point in tuned.curve}):
        if setting * 4 < tuned.setting:
            continue
        asked = index.with_setting(setting)
        recalls = {kind: recall(asked.search(own, 10), rest[kind]) for kind, own in others.items()}
        label = f"{kind.setting} {setting}" + (" (tuned)" if setting == tuned.setting else "")
        predicted = _predicted(decision, name) if setting == tuned.setting else {}
        yield Figures(name, label, record.num_bytes, seconds, recalls, timed(asked, others), predicted)


def _predicted(decision: Decision, name: str) -> dict[str, float]:
    candidate = decision.candidate(name)
    return {
        "latency_ms": candidate.latency_ms,
        "memory_bytes": candidate.memory_bytes,
        "build_seconds": candidate.build_seconds,
    }


def _on_disk(vectors: Half, place: Path) -> ShardFiles:
    paths = []
    for number, start in enumerate(range(0, len(vectors), _SHARD_ROWS)):
        paths.append(place / f"img_emb_{number}.npy")
        np.save(paths[-1], vectors[start : start + _SHARD_ROWS])
    return ShardFiles(paths, vectors.shape[1])
