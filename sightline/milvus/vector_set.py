"""Search in one Milvus collection: the server proposes, its stored vectors decide.

Scores are computed here from the vectors that the server returns, by the same sum as in every other index: equal
vectors have equal scores, whatever the server's index made of them, and equal scores come in row order. An exact index
gives what exact search gives. An approximate one that a filter left too few results is noticed by counting, and the
exact answer takes its place.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from sightline.errors import QueryError
from sightline.index.hits import Allowed, Capabilities, Hits, Rows, Scores, best_first, checked, no_hits
from sightline.milvus.capabilities import MAX_K, IndexPlan
from sightline.milvus.client import MilvusServer
from sightline.milvus.expressions import EVERY, one_of
from sightline.milvus.layout import queries_for, vectors_of

_TIES = 16
"""Rows asked for beyond k: of rows with equal scores the first ones must be among them."""
_SAME = 1e-5
"""Scores that differ by less may be equal ones, summed in another order by the server."""
_BYTES_AT_ONCE = 32 * 2**20
_MAX_IDS = 10_000
"""Rows named in one expression."""
_WINDOW_ROWS = 4096


@dataclass(frozen=True)
class VectorSet:
    """The vectors of one Milvus collection; a ``SearchIndex``. Thread-safe. Rows are its primary keys, 0 ≤ row < N."""

    server: MilvusServer
    name: str
    dim: int
    num_rows: int
    plan: IndexPlan

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(exact=self.plan.exact, filters=True, max_k=MAX_K - _TIES)

    def search(self, queries: Scores, k: int, allowed: Allowed | None = None) -> Hits:
        """As every index: ``queries`` float32 ``[B, D]``, ``allowed`` bool ``[N]``; min(k, allowed rows) columns.

        Many allowed rows without an order are sent piece by piece. Raises QueryError, MilvusFailed.
        """
        queries, k = checked(self, queries, k, allowed)
        if allowed is None:
            return self.matching(queries, k, EVERY)
        found = no_hits(len(queries))
        for expression in _named(allowed):
            more = self.matching(queries, k, expression)
            scores = np.concatenate([found.scores, more.scores], axis=1)  # [B, K]
            found = best_first(scores, np.concatenate([found.rows, more.rows], axis=1), k)
        return found

    def matching(self, queries: Scores, k: int, expression: str) -> Hits:
        """The same among the rows that fulfil an expression; min(k, such rows) columns."""
        if k > self.capabilities.max_k:
            raise QueryError(
                f"Milvus gives at most {self.capabilities.max_k:,} results; ask for fewer.",
                limit_k=self.capabilities.max_k,
            )
        if k < 1 or not len(queries):
            return no_hits(len(queries))
        queries = np.ascontiguousarray(queries, np.float32)
        step = max(1, _BYTES_AT_ONCE // (4 * self.dim * (k + _TIES)))
        parts = [self._some(queries[start : start + step], k, expression) for start in range(0, len(queries), step)]
        width = max(part.rows.shape[1] for part in parts)
        parts = [
            part if part.rows.shape[1] == width else self._compared(queries[n * step : (n + 1) * step], k, expression)
            for n, part in enumerate(parts)
        ]
        return Hits(np.concatenate([part.scores for part in parts]), np.concatenate([part.rows for part in parts]))

    def _some(self, queries: Scores, k: int, expression: str) -> Hits:
        limit = min(k + _TIES if self.plan.exact else 2 * k + _TIES, MAX_K)
        while True:
            proposed = self.server.search(
                self.name, queries_for(queries, self.plan), limit, expression, ("row", "vector"), self.plan.search
            )
            if not self.plan.exact or limit >= MAX_K or not any(_cut_in_ties(hits, k, limit) for hits in proposed):
                break
            limit = min(2 * limit, MAX_K)
        widths = {len(hits) for hits in proposed}
        doubtful = min(widths) < k and (len(widths) > 1 or not self.plan.exact)
        if doubtful and min(widths) < min(k, self.server.count(self.name, expression)):
            return self._compared(queries, k, expression)
        if not min(widths):
            return no_hits(len(queries))
        width = min(widths)
        rows = np.array([[hit["row"] for hit in hits[:width]] for hits in proposed], np.int64)  # [B, R]
        scores = np.empty(rows.shape, np.float32)
        for query, hits, out in zip(queries, proposed, scores, strict=True):
            out[:] = _scored([hit["entity"] for hit in hits[:width]], query, self.dim)
        return best_first(scores, rows, k)

    def _compared(self, queries: Scores, k: int, expression: str) -> Hits:
        """Every row that fulfils the expression, fetched and compared: slow, and exact."""
        best = no_hits(len(queries))
        for rows, vectors in self.vectors(expression):
            scores = np.stack([np.einsum("nd,d->n", vectors, query) for query in queries])  # [B, n]
            best = best_first(
                np.concatenate([best.scores, scores], axis=1),
                np.concatenate([best.rows, np.broadcast_to(rows, scores.shape)], axis=1), k,
            )  # fmt: skip
        return best

    def end(self) -> int:
        """A number above every row: rows that were written after the push are numbered on from ``num_rows``."""
        end, step = self.num_rows, 1
        while self.server.count(self.name, f"row >= {end}"):
            end, step = end + step, 2 * step
        return end

    def vectors(self, expression: str = EVERY) -> Iterator[tuple[Rows, Scores]]:
        """Rows that fulfil an expression, ascending, with their vectors float32 ``[n, D]``, block by block."""
        step = max(1, min(_WINDOW_ROWS, _BYTES_AT_ONCE // (4 * self.dim)))
        for start in range(0, self.end(), step):
            inside = f"row >= {start} and row < {start + step}"
            entities = self.server.query(
                self.name, inside if expression == EVERY else f"{inside} and ({expression})", ("row", "vector")
            )
            if entities:
                entities.sort(key=lambda entity: int(entity["row"]))
                yield np.array([entity["row"] for entity in entities], np.int64), vectors_of(entities, self.dim)


def _cut_in_ties(hits: list[dict[str, object]], k: int, limit: int) -> bool:
    """Whether rows with the score of the k-th may have been left out."""
    return len(hits) == limit and abs(float(str(hits[k - 1]["distance"])) - float(str(hits[-1]["distance"]))) < _SAME


def _scored(entities: list[dict[str, object]], query: Scores, dim: int) -> Scores:
    vectors = vectors_of(entities, dim)  # [n, D]
    scores: Scores = np.einsum("nd,d->n", vectors, query)
    return scores


def _named(allowed: Allowed) -> Iterator[str]:
    """Expressions that together name the allowed rows, each of them once, each with at most ``_MAX_IDS`` numbers."""
    wanted = np.cumsum(allowed)  # [N]: allowed rows up to and with each
    unwanted = np.arange(1, len(allowed) + 1) - wanted  # [N]
    num_rows, start = len(allowed), 0
    while start < num_rows:
        before = int(wanted[start - 1]) if start else 0
        few = int(np.searchsorted(wanted, before + _MAX_IDS, side="right"))  # at most so many allowed in [start, few)
        many = int(np.searchsorted(unwanted, start - before + _MAX_IDS, side="right"))  # at most so many not allowed
        stop = max(few, many)
        inside = np.flatnonzero(allowed[start:stop]) + start
        if len(inside):
            window = f"row >= {start} and row < {stop}"
            if len(inside) == stop - start:
                yield window
            elif stop == few and len(inside) <= _MAX_IDS:
                yield one_of("row", inside)
            else:
                yield f"{window} and not ({one_of('row', np.flatnonzero(~allowed[start:stop]) + start)})"
        start = stop
