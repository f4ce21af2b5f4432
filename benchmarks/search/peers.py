"""Plain FAISS as its tutorials use it: what our plans are measured beside."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from benchmarks.search.measured import Figures, memory_of_faiss, timed
from sightline.index.hits import Half, Hits, Scores
from sightline.index.runtime import faiss
from sightline.index.tuning import recall

_ADD_ROWS = 65_536


class Flat:
    """``IndexFlatIP`` over float32."""

    def __init__(self, vectors: Half) -> None:
        self.index = faiss.IndexFlatIP(vectors.shape[1])
        for start in range(0, len(vectors), _ADD_ROWS):
            self.index.add(vectors[start : start + _ADD_ROWS].astype(np.float32))

    def search(self, queries: Scores, k: int) -> Hits:
        return Hits(*self.index.search(queries, k))


class Graph:
    """``IndexHNSWFlat`` with 32 links and inner products, asked with one ``efSearch``."""

    def __init__(self, index: Any, ef_search: int) -> None:
        self.index = index
        self._parameters = faiss.SearchParametersHNSW(efSearch=ef_search)

    def search(self, queries: Scores, k: int) -> Hits:
        return Hits(*self.index.search(queries, k, params=self._parameters))


def flat(vectors: Half, queries: dict[str, Scores], truth: dict[str, Hits]) -> Figures:
    """The yardstick."""
    started = time.monotonic()
    index = Flat(vectors)
    seconds = time.monotonic() - started
    recalls = {kind: recall(index.search(own[:64], 10), _first(truth[kind], 64)) for kind, own in queries.items()}
    return Figures("FAISS Flat fp32", "", memory_of_faiss(index.index), seconds, recalls, timed(index, queries))


def graph(vectors: Half, queries: dict[str, Scores], truth: dict[str, Hits]) -> Iterator[Figures]:
    """HNSW at several ``efSearch``."""
    started = time.monotonic()
    built = faiss.IndexHNSWFlat(vectors.shape[1], 32, faiss.METRIC_INNER_PRODUCT)
    built.add(vectors.astype(np.float32))
    seconds = time.monotonic() - started
    memory = memory_of_faiss(built)
    for ef_search in (64, 256, 1024):
        index = Graph(built, ef_search)
        recalls = {kind: recall(index.search(own, 10), truth[kind]) for kind, own in queries.items()}
        yield Figures("FAISS HNSW32 fp32", f"efSearch {ef_search}", memory, seconds, recalls, timed(index, queries))


def _first(hits: Hits, count: int) -> Hits:
    return Hits(hits.scores[:count], hits.rows[:count])
