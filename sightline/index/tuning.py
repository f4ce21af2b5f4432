"""Finding the setting that reaches a recall, and recording what every setting gives.

Text queries lie elsewhere than pictures do, and an approximate index loses more of them (OOD-DiskANN, Jaiswal et al.
2022): a setting tuned with pictures as queries promises more than a search box gets. So the target is held on text
queries where there are any.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from sightline.index.approximate import ApproximateIndex
from sightline.index.hits import Hits, Scores
from sightline.index.plans import settings_of
from sightline.index.scan import scan
from sightline.index.store import VectorStore

K = 10
"""Recall is measured among the ten best."""

_TIE = 1e-6


@dataclass(frozen=True)
class Point:
    """What one setting gives for one kind of query: recall@10 in [0, 1], and the median time of a single query."""

    setting: int
    queries: str
    recall_at_10: float
    latency_ms: float

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Tuned:
    """The chosen setting. ``tuned_on``: the kind of query that had to reach the target; ``reached`` whether it did."""

    setting: int
    tuned_on: str
    target: float
    reached: bool
    curve: tuple[Point, ...]

    def at(self, queries: str) -> Point | None:
        """The point of the chosen setting for a kind of query, None where that kind was not measured."""
        return next((p for p in self.curve if p.setting == self.setting and p.queries == queries), None)


def tune(
    index: ApproximateIndex, vectors: VectorStore, queries: Mapping[str, Scores], tuned_on: str, target: float
) -> Tuned:
    """Try settings from cheap to dear until the target is reached on ``queries[tuned_on]`` (float32 ``[Q, D]``).

    One setting beyond is tried as well, for the curve. The highest recall is chosen where none reaches the target.
    """
    truth = {kind: scan(vectors, own, min(K, vectors.num_rows)) for kind, own in queries.items()}
    curve: list[Point] = []
    chosen: int | None = None
    for setting in settings_of(index.plan, vectors.num_rows):
        points = [_point(index.with_setting(setting), kind, own, truth[kind]) for kind, own in queries.items()]
        curve += points
        if chosen is not None:
            break
        if next(p for p in points if p.queries == tuned_on).recall_at_10 >= target:
            chosen = setting
    reached = chosen is not None
    if chosen is None:
        chosen = max((p for p in curve if p.queries == tuned_on), key=lambda p: p.recall_at_10).setting
    return Tuned(chosen, tuned_on, target, reached, tuple(curve))


def recall(found: Hits, truth: Hits) -> float:
    """The share of the exact k best that are found; a row of equal score in another's place counts as found."""
    if not truth.rows.size:
        return 1.0
    worst = truth.scores[:, -1:]  # [Q, 1]
    return float((found.scores >= worst - _TIE).sum() / truth.rows.size)


def latency_ms(index: Any, queries: Scores, k: int = K, most: int = 32) -> float:
    """The median time of one query alone, in milliseconds, over ``most`` queries after a warm-up."""
    index.search(queries[:1], k)
    times = []
    for query in queries[:most]:
        started = time.perf_counter()
        index.search(query[None], k)
        times.append(time.perf_counter() - started)
    return float(np.median(times)) * 1e3


def _point(index: ApproximateIndex, kind: str, queries: Scores, truth: Hits) -> Point:
    found = index.search(queries, truth.rows.shape[1])
    return Point(index.setting, kind, round(recall(found, truth), 4), round(latency_ms(index, queries), 3))
