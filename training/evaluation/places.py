"""Where the right answers land: their places among all candidates, with ties kept open.

A place is a range, not a number: ``above`` candidates are strictly better, and the answer shares the next ``level``
places with its equals. What the measures make of it is the expectation over all orders of equal scores (McSherry and
Najork 2008). A collapsed encoder, which gives every text and picture the same vector, therefore scores 1/N, where
counting only the strictly better rivals would call it perfect.

Scores closer than ``TIE`` are equal: a matrix product may round two equal inner products differently. The window lies
around each answer by itself, so the expectations are exact where ties are groups further than ``2 · TIE`` apart from
other scores; in a dense crowd a window may hold a few neighbours that are not equal, which are then taken to be in
random order: an error of the order of the window, a millionth of a cosine.

Scores are made a chunk of queries at a time, at most ``CHUNK_BYTES`` of them at once; no N × T matrix is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Vectors = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

TIE = 1e-6
CHUNK_BYTES = 16 * 2**20
"""Of float32 scores; the comparisons made from them take about as much again."""

OnSorted = Callable[[Vectors], None]
"""Called with every chunk of scores float32 [C, N], each row ascending. The array is not kept."""


@dataclass(frozen=True, slots=True)
class Answers:
    """Which candidates answer which query: the pairs of query q are ``first[q]`` to ``first[q + 1]``.

    ``first`` int64 [Q + 1]; ``candidates`` int64 [P] rows of the candidates; ``weights`` float64 [P] in (0, 1] grade
    them, None means all 1. Every query has at least one answer.
    """

    first: Rows
    candidates: Rows
    weights: Floats | None = None

    @staticmethod
    def one_each(candidates: Rows) -> Answers:
        """One answer for each query, int64 [Q]."""
        return Answers(np.arange(len(candidates) + 1), candidates)

    @staticmethod
    def of_pairs(queries: Rows, candidates: Rows, num_queries: int, weights: Floats | None = None) -> Answers:
        """Answers from pairs in any order, int64 [P] each; pairs of weight 0 are no answers. Raises ValueError where
        a query has none."""
        if weights is not None:
            kept = weights > 0
            queries, candidates, weights = queries[kept], candidates[kept], weights[kept]
        counts = np.bincount(queries, minlength=num_queries)
        if not counts.all():
            raise ValueError(f"Query {int(counts.argmin())} has no answer; leave it out or give it one.")
        order = np.argsort(queries, kind="stable")
        first = np.concatenate([[0], np.cumsum(counts)])
        return Answers(first, candidates[order], None if weights is None else weights[order].astype(np.float64))

    @property
    def num_queries(self) -> int:
        return len(self.first) - 1

    def query_of_pair(self) -> Rows:
        """The query of each pair, int64 [P]."""
        return np.repeat(np.arange(self.num_queries), np.diff(self.first))


@dataclass(frozen=True, slots=True)
class Places:
    """For each pair of ``answers`` where it stands, all [P].

    ``above`` counts the candidates that are strictly better, ``level`` those that are equal, the answer among them;
    ``own_above`` and ``own_level`` count the query's own answers in the same way. ``scores`` float32 are its cosines.
    """

    answers: Answers
    num_candidates: int
    above: Rows
    level: Rows
    own_above: Rows
    own_level: Rows
    scores: Vectors


def places_of(queries: Vectors, candidates: Vectors, answers: Answers, on_sorted: OnSorted | None = None) -> Places:
    """Find the place of every answer. ``queries`` float32 [Q, D] and ``candidates`` float32 [N, D] have rows of length
    1. Costs one matrix product and, where queries have several answers, one sort of each row of scores."""
    single = on_sorted is None and len(answers.candidates) == answers.num_queries
    count = len(answers.candidates)
    found = Places(
        answers=answers,
        num_candidates=len(candidates),
        above=np.zeros(count, np.int64),
        level=np.ones(count, np.int64),
        own_above=np.zeros(count, np.int64),
        own_level=np.ones(count, np.int64),
        scores=np.zeros(count, np.float32),
    )
    query_of_pair = answers.query_of_pair()
    for start, stop in chunks(len(queries), len(candidates)):
        scores = queries[start:stop] @ candidates.T  # [C, N]
        low, high = int(answers.first[start]), int(answers.first[stop])
        own = scores[query_of_pair[low:high] - start, answers.candidates[low:high]]  # [p]
        found.scores[low:high] = own
        if single:
            # A row at a time: a comparison that stays in the cache is three times as fast as one of the whole chunk.
            for row, score in zip(scores, own, strict=True):
                found.above[low] = np.count_nonzero(row > score + np.float32(TIE))
                found.level[low] = np.count_nonzero(row >= score - np.float32(TIE)) - found.above[low]
                low += 1
            continue
        scores.sort(axis=1)
        if on_sorted is not None:
            on_sorted(scores)
        for query, row in enumerate(scores, start=start):
            pairs = slice(int(answers.first[query]), int(answers.first[query + 1]))
            mine = found.scores[pairs]
            found.above[pairs], found.level[pairs] = _counts(row, mine)
            if len(mine) > 1:
                found.own_above[pairs], found.own_level[pairs] = _counts(np.sort(mine), mine)
    return found


def _counts(ascending: Vectors, scores: Vectors) -> tuple[Rows, Rows]:
    """How many of ``ascending`` are above each score, and how many are level with it."""
    ends = ascending.searchsorted(scores + np.float32(TIE), "right")
    begins = ascending.searchsorted(scores - np.float32(TIE), "left")
    return len(ascending) - ends, ends - begins


def chunks(num_queries: int, num_candidates: int) -> Iterator[tuple[int, int]]:
    """Ranges of queries whose scores fit into ``CHUNK_BYTES``."""
    size = max(1, CHUNK_BYTES // (4 * max(num_candidates, 1)))
    for start in range(0, num_queries, size):
        yield start, min(start + size, num_queries)
