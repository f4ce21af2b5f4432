"""Search on a GPU: exact in half precision with torch, and FAISS's inverted lists there.

FAISS's GPU wheels ignore a filter in silence and are not thread-safe. The torch index needs no FAISS, honours every
filter as a mask, and is exact: the product in half precision proposes rows, float32 decides, and where the error of
half precision could have hidden a row the query is computed again in float32.
"""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import torch

from sightline.index.approximate import ApproximateIndex
from sightline.index.hits import (
    NO_LIMIT,
    Allowed,
    Capabilities,
    Half,
    Hits,
    Rows,
    Scores,
    best_first,
    checked,
    no_hits,
    require_finite,
)
from sightline.index.plans import Plan
from sightline.index.runtime import faiss
from sightline.index.store import VectorStore

_BLOCK_SCORES = 2**27
"""Scores held at once: 256 MiB in half precision."""

_SPARE = 64
"""Candidates taken beyond k before float32 decides."""

_HALF_ERROR = 2.0**-9
"""The most that half precision can move the inner product of unit vectors: rounding a query moves it by at most 2^-11
(Cauchy-Schwarz), rounding the score by 2^-11, and the other half is for the order of summation."""


class TorchIndex:
    """Immutable exact index over unit vectors on one device. Thread-safe: calls queue on a lock."""

    capabilities = Capabilities(exact=True, filters=True, max_k=NO_LIMIT)

    def __init__(self, vectors: Half, device: str) -> None:
        """``vectors`` float16 ``[N, D]``; ``device`` as torch names it, ``cuda`` or ``cpu``. Raises QueryError."""
        require_finite(vectors)
        self.num_rows, self.dim = vectors.shape
        self._vectors = torch.from_numpy(np.ascontiguousarray(vectors)).to(device)  # [N, D]
        self._device = device
        self._lock = threading.Lock()

    def search(self, queries: Scores, k: int, allowed: Allowed | None = None) -> Hits:
        """As ``VectorIndex.search``: exact, min(k, allowed rows) columns. Raises QueryError."""
        queries, k = checked(self, queries, k, allowed)
        if k == 0 or len(queries) == 0:
            return no_hits(len(queries))
        with self._lock, torch.inference_mode():
            wide = torch.from_numpy(queries).to(self._device)  # [B, D]
            rows = None if allowed is None else torch.from_numpy(np.flatnonzero(allowed)).to(self._device)
            scores, found, proven = self._propose(wide, k, rows)
            for query in (~proven).nonzero()[:, 0].tolist():
                scores[query], found[query] = self._in_full(wide[query], k, rows)
            return best_first(scores.cpu().numpy(), found.cpu().numpy(), k)

    def _propose(
        self, queries: torch.Tensor, k: int, rows: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """float32 scores ``[B, k]``, rows ``[B, k]``, and bool ``[B]``: whether half precision cannot have lost any."""
        count = self.num_rows if rows is None else len(rows)
        wanted = min(k + _SPARE, count)
        half = queries.to(self._vectors.dtype)  # [B, D]
        step = max(wanted, _BLOCK_SCORES // len(queries))
        best = torch.empty((len(queries), 0), device=self._device, dtype=half.dtype)
        places = torch.empty((len(queries), 0), device=self._device, dtype=torch.int64)
        for start in range(0, count, step):
            block = self._block(start, min(start + step, count), rows)  # [n, D]
            top = (half @ block.T).topk(min(wanted, len(block)), dim=1)
            best = torch.cat([best, top.values], dim=1)
            places = torch.cat([places, top.indices + start], dim=1)
            kept = best.topk(min(wanted, best.shape[1]), dim=1)
            best, places = kept.values, places.gather(1, kept.indices)
        found = places if rows is None else rows[places]  # [B, R]
        exact = torch.einsum("bd,brd->br", queries, self._vectors[found].float())
        found, order = found.sort(dim=1)  # equal scores in row order: rows first, then a stable sort by score
        exact, by_score = exact.gather(1, order).sort(dim=1, descending=True, stable=True)
        floor = best[:, -1].float()  # nothing outside the candidates scored more than this in half precision
        proven = (exact[:, k - 1] > floor + _HALF_ERROR) | (wanted == count)
        return exact[:, :k].clone(), found.gather(1, by_score[:, :k]), proven

    def _in_full(self, query: torch.Tensor, k: int, rows: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
        count = self.num_rows if rows is None else len(rows)
        step = _BLOCK_SCORES // self.dim
        blocks = (self._block(start, min(start + step, count), rows) for start in range(0, count, step))
        scores, places = torch.cat([block.float() @ query for block in blocks]).sort(descending=True, stable=True)
        return scores[:k], places[:k] if rows is None else rows[places[:k]]

    def _block(self, start: int, stop: int, rows: torch.Tensor | None) -> torch.Tensor:
        return self._vectors[start:stop] if rows is None else self._vectors[rows[start:stop]]


class GpuLists(ApproximateIndex):
    """FAISS's inverted lists on the first GPU: the candidates come from there, the rest is as on the CPU.

    One lock: a GPU index of FAISS is not thread-safe. Filters never reach it. Raises RuntimeError of FAISS where the
    lists do not fit into the GPU's memory; the caller then stays on the CPU.
    """

    def __init__(self, plan: Plan, index: Any, vectors: VectorStore, setting: int) -> None:
        super().__init__(plan, index, vectors, setting)
        self._lock = threading.Lock()
        self._resources = faiss.StandardGpuResources()
        self._on_gpu = faiss.index_cpu_to_gpu(self._resources, 0, index)

    def _candidates(self, queries: Scores, num_candidates: int) -> Rows:
        with self._lock:
            self._on_gpu.nprobe = self.setting
            _, rows = self._on_gpu.search(queries, num_candidates)
        return np.asarray(rows, dtype=np.int64)

    def with_setting(self, setting: int) -> ApproximateIndex:
        return GpuLists(self.plan, self._index, self._vectors, setting)


def has_cuda() -> bool:
    """Whether torch sees a CUDA device."""
    return torch.cuda.is_available()


def has_faiss_gpu() -> bool:
    """Whether the installed FAISS can use a GPU, and one is there."""
    return faiss is not None and hasattr(faiss, "StandardGpuResources") and faiss.get_num_gpus() > 0
