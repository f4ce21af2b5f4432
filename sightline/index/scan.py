"""Exact scores, block by block: the path that every filter, every k and every store can take."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from sightline.index.hits import Allowed, Half, Hits, Rows, Scores, best_first, no_hits
from sightline.index.store import VectorStore

_BLOCK_ROWS = 2048
"""2,048 by 512 are 4 MiB of float32, which stay in a core's cache between being widened and being multiplied."""

_SPARSE = 4
"""Rows are read one by one when fewer than one in four of a stretch is wanted."""


def scan(vectors: VectorStore, queries: Scores, k: int, allowed: Allowed | None = None) -> Hits:
    """The exact answer: min(k, allowed rows) columns, best first, equal scores in row order.

    ``queries`` float32 ``[B, D]``, finite; k ≥ 0. A block of vectors is widened to float32 once for all queries and
    scored as one matrix product, so a batch costs little more than one query. Scores are computed anew for the rows
    that are returned, each by the same sum, so that equal vectors get equal scores.
    """
    if k == 0 or not len(queries):
        return no_hits(len(queries))
    queries_there = torch.from_numpy(queries)
    best = _Best(len(queries), k)
    room = torch.empty(
        (_BLOCK_ROWS, vectors.dim)
    )  # [n, D]: used again and again, for fresh memory costs ten times more
    for rows, block in _blocks(vectors, allowed):
        wide = room[: len(block)].copy_(torch.from_numpy(block))  # [n, D]
        best.offer((queries_there @ wide.T).numpy(), rows)
    return _rescored(vectors, queries, best.rows())


def score_rows(vectors: VectorStore, queries: Scores, rows: Rows) -> Scores:
    """Exact inner products float32 ``[B, R]`` of each query with its own rows int64 ``[B, R]``."""
    scores = np.empty(rows.shape, np.float32)  # [B, R]
    for query, own, out in zip(queries, rows, scores, strict=True):
        for start in range(0, len(own), _BLOCK_ROWS):
            block = widened(vectors.take(own[start : start + _BLOCK_ROWS]))  # [n, D]
            out[start : start + _BLOCK_ROWS] = np.einsum("nd,d->n", block, query)
    return scores


def widened(vectors: Half) -> Scores:
    """float16 as float32, of any shape; torch does it thirty times as fast as NumPy."""
    return torch.from_numpy(vectors).float().numpy()


def _rescored(vectors: VectorStore, queries: Scores, rows: Rows) -> Hits:
    return best_first(score_rows(vectors, queries, rows), rows, rows.shape[1])


def _blocks(vectors: VectorStore, allowed: Allowed | None) -> Iterator[tuple[Rows, Half]]:
    """Every wanted row once, in ascending order, with its vector."""
    if allowed is None:
        for start in range(0, vectors.num_rows, _BLOCK_ROWS):
            stop = min(start + _BLOCK_ROWS, vectors.num_rows)
            yield np.arange(start, stop), vectors.block(start, stop)
        return
    wanted = np.flatnonzero(allowed)  # [A]
    for first in range(0, len(wanted), _BLOCK_ROWS):
        rows = wanted[first : first + _BLOCK_ROWS]
        start, stop = int(rows[0]), int(rows[-1]) + 1
        if stop - start > _SPARSE * len(rows):
            yield rows, vectors.take(rows)
        else:
            yield rows, vectors.block(start, stop)[rows - start]


class _Best:
    """The k best of what has been offered so far, for each query. Rows must be offered in ascending order."""

    def __init__(self, num_queries: int, k: int) -> None:
        self._k = k
        self._floor = np.full(num_queries, -np.inf, np.float32)  # [B]: the k-th best score so far
        self._held = [(np.empty(0, np.int64), np.empty(0, np.float32), np.empty(0, np.int64))]
        self._num_held = 0
        self._num_queries = num_queries

    def offer(self, scores: Scores, rows: Rows) -> None:
        """``scores`` float32 ``[B, n]`` of ``rows`` int64 ``[n]``. A later row of equal score never displaces one."""
        keep = scores > self._floor[:, None]  # [B, n]
        if len(rows) > self._k:
            few = np.flatnonzero(np.count_nonzero(keep, axis=1) > self._k)  # the beginning, mostly
            if len(few):
                place = len(rows) - self._k
                keep[few] &= scores[few] >= np.partition(scores[few], place, axis=1)[:, place, None]
        query, column = np.nonzero(keep)
        if not len(query):
            return
        self._held.append((query, scores[query, column], rows[column]))
        self._num_held += len(query)
        if self._num_held > 2 * self._k * self._num_queries:
            self._cut()

    def rows(self) -> Rows:
        """int64 ``[B, k]``, best first; k is as small as what was offered."""
        _, _, rows = self._cut()
        return rows.reshape(self._num_queries, -1)

    def _cut(self) -> tuple[Rows, Scores, Rows]:
        query, scores, rows = (np.concatenate(parts) for parts in zip(*self._held, strict=True))
        order = np.lexsort((rows, -scores, query))
        query, scores, rows = query[order], scores[order], rows[order]
        first = np.searchsorted(query, np.arange(self._num_queries))  # [B]
        place = np.arange(len(query)) - first[query]
        keep = place < self._k
        last = place == self._k - 1
        self._floor[query[last]] = scores[last]
        kept = query[keep], scores[keep], rows[keep]
        self._held, self._num_held = [kept], int(np.count_nonzero(keep))
        return kept
