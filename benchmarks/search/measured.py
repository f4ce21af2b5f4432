"""What is measured of one index at one setting."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

import numpy as np

from sightline.index.hits import Hits, Scores
from sightline.index.runtime import faiss

_SINGLES = 64
_BATCH = 64


class Searchable(Protocol):
    def search(self, queries: Scores, k: int) -> Hits: ...


@dataclass(frozen=True)
class Times:
    """Milliseconds: median and 95th percentile of single queries, and per query in a batch of 64."""

    single_p50_ms: float
    single_p95_ms: float
    batch_ms: float


@dataclass(frozen=True)
class Figures:
    """``recalls``: recall@10 by kind of query; ``predicted`` what the planner said beforehand, if it did."""

    name: str
    setting: str
    memory_bytes: int
    build_seconds: float
    recalls: dict[str, float]
    times: Times
    predicted: dict[str, float] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def timed(index: Searchable, queries: dict[str, Scores]) -> Times:
    """Time text queries, one by one and together, after a warm-up."""
    own = queries["text"]
    for query in own[:5]:
        index.search(query[None], 10)
    singles = [_milliseconds(index, query[None]) for query in own[:_SINGLES]]
    batch = min(_milliseconds(index, own[:_BATCH]) for _ in range(2)) / _BATCH
    return Times(round(float(np.median(singles)), 3), round(float(np.percentile(singles, 95)), 3), round(batch, 3))


def memory_of_faiss(index: Any) -> int:
    """The bytes that an index holds, as its file would: codes, lists, graph, centres."""
    writer = faiss.PyCallbackIOWriter(counter := _Counter())
    faiss.write_index(index, writer)
    return counter.num_bytes


def _milliseconds(index: Searchable, queries: Scores) -> float:
    started = time.perf_counter()
    index.search(queries, 10)
    return (time.perf_counter() - started) * 1e3


class _Counter:
    def __init__(self) -> None:
        self.num_bytes = 0

    def __call__(self, data: bytes) -> int:
        self.num_bytes += len(data)
        return len(data)
