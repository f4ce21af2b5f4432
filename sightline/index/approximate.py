"""An approximate FAISS index proposes candidates; the stored half-precision vectors decide.

So every score that leaves here is exact, whatever codes the candidates were found by, and a plan can lose a row but
never misplace one. What the FAISS index cannot honour is not asked of it:

* a filter takes the exact scan over the allowed rows, unless it drops so few rows (deletions mostly) that they can be
  crossed out among the candidates; a query that then has too few candidates left takes the exact scan as well;
* a k that is large beside the candidates takes the exact scan.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from sightline.index.hits import Allowed, Capabilities, Hits, Rows, Scores, best_first, checked, no_hits
from sightline.index.plans import Plan
from sightline.index.runtime import faiss
from sightline.index.scan import scan, score_rows
from sightline.index.store import VectorStore

_MAX_K = 1_000
_CROSSED_OUT = 0.01
"""A filter that drops at most this share of the rows is honoured among the candidates."""


class ApproximateIndex:
    """Immutable and thread-safe. ``setting`` is ``nprobe``, ``efSearch`` or the number of candidates, by the plan."""

    capabilities = Capabilities(exact=False, filters=False, max_k=_MAX_K)

    def __init__(self, plan: Plan, index: Any, vectors: VectorStore, setting: int) -> None:
        self.plan = plan
        self.setting = setting
        self.num_rows, self.dim = vectors.num_rows, vectors.dim
        self._index = index
        self._vectors = vectors

    def with_setting(self, setting: int) -> ApproximateIndex:
        """The same index, asked harder or less hard."""
        return ApproximateIndex(self.plan, self._index, self._vectors, setting)

    def search(self, queries: Scores, k: int, allowed: Allowed | None = None) -> Hits:
        """The k rows with the largest inner products, as far as the plan's recall goes; exact where it filters.

        ``queries`` float32 ``[B, D]``; ``allowed`` bool ``[N]``. min(k, allowed rows) columns. Raises QueryError.
        """
        queries, k = checked(self, queries, k, allowed)
        if k == 0 or len(queries) == 0:
            return no_hits(len(queries))
        if k > _MAX_K or self._too_narrow(allowed):
            return scan(self._vectors, queries, k, allowed)
        num_candidates = self.setting if self.plan.setting == "num_candidates" else self.plan.refine
        num_candidates = min(max(num_candidates, 4 * k), self.num_rows)
        candidates = self._candidates(queries, num_candidates)  # [B, R]
        return self._decide(queries, candidates, k, allowed)

    def _too_narrow(self, allowed: Allowed | None) -> bool:
        if allowed is None:
            return False
        return len(allowed) - int(np.count_nonzero(allowed)) > _CROSSED_OUT * len(allowed)

    def _candidates(self, queries: Scores, num_candidates: int) -> Rows:
        _, rows = self._index.search(queries, num_candidates, params=self._parameters())
        return np.asarray(rows, dtype=np.int64)

    def _parameters(self) -> Any:
        """FAISS's parameters for one call: nothing is set on the index, which other threads use."""
        if self.plan.setting == "nprobe":
            return faiss.SearchParametersIVF(nprobe=self.setting)
        if self.plan.setting == "efSearch":
            return faiss.SearchParametersHNSW(efSearch=self.setting)
        return None

    def _decide(self, queries: Scores, candidates: Rows, k: int, allowed: Allowed | None) -> Hits:
        usable = _usable(candidates, allowed)  # [B, R]
        enough = usable.sum(axis=1) >= np.maximum(k, (candidates >= 0).sum(axis=1) // 2)  # [B]
        scores = np.full(candidates.shape, -np.inf, np.float32)
        scores_of_all = score_rows(self._vectors, queries, np.where(usable, candidates, 0))
        scores[usable] = scores_of_all[usable]
        hits = best_first(scores, candidates, k)
        for query in np.flatnonzero(~enough):  # too few are left to choose from: nothing is assumed of the others
            exact = scan(self._vectors, queries[query : query + 1], k, allowed)
            hits.scores[query], hits.rows[query] = exact.scores[0], exact.rows[0]
        return hits


def _usable(candidates: Rows, allowed: Allowed | None) -> npt.NDArray[np.bool_]:
    """Which candidates are rows at all, and rows that may be returned."""
    there = candidates >= 0
    return there if allowed is None else there & allowed[np.maximum(candidates, 0)]
