"""Vectors to scores and rows: exact search on the CPU through FAISS, with filters that are never ignored.

Vectors are kept in half precision (1 KB a row at 512 dimensions) and scored exactly; there is no training, no tuning
and no recall to lose. Approximate and GPU plans join behind the same class when the planner arrives; each must declare
``Capabilities`` and pass the same adversarial tests, because the GPU wheels ignore filters in silence.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sightline.errors import DependencyMissing, QueryError

try:
    import faiss
except ImportError:  # said clearly by require_faiss, where it can reach the user
    faiss = None  # type: ignore[assignment]

Scores = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int64]

_ADD_ROWS = 65_536


@dataclass(frozen=True)
class Capabilities:
    """What a backend honours. A request that needs what is missing takes another exact path or is refused."""

    exact: bool
    filters: bool
    max_k: int


@dataclass(frozen=True)
class Hits:
    """Best first: ``scores`` float32 ``[B, k]`` are inner products, ``rows`` int64 ``[B, k]``; no padding, no -1."""

    scores: Scores
    rows: Rows


def require_faiss() -> None:
    """Raise DependencyMissing with the command to type when no FAISS is installed."""
    if faiss is None:
        raise DependencyMissing(
            "FAISS is not installed; install Sightline with one of its two extras: "
            "pip install 'sightline[cpu]' or pip install 'sightline[gpu]' (not both)."
        )


class VectorIndex:
    """An immutable exact index over unit vectors. ``search`` may be called from several threads at once."""

    capabilities = Capabilities(exact=True, filters=True, max_k=2**31 - 1)

    def __init__(self, vectors: npt.NDArray[np.float16] | npt.NDArray[np.float32]) -> None:
        """``vectors``: float16 or float32 ``[N, D]``, rows of length 1, N ≥ 0. Raises DependencyMissing, QueryError."""
        require_faiss()
        self.num_rows, self.dim = vectors.shape
        self._index = faiss.IndexScalarQuantizer(self.dim, faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT)
        for start in range(0, self.num_rows, _ADD_ROWS):
            block = np.ascontiguousarray(vectors[start : start + _ADD_ROWS], dtype=np.float32)
            if not np.isfinite(block).all():
                raise QueryError(
                    "Vectors to be indexed contain values that are not numbers; build the collection again."
                )
            self._index.add(block)

    def search(self, queries: Scores, k: int, allowed: npt.NDArray[np.bool_] | None = None) -> Hits:
        """The k rows with the largest inner products for each query.

        ``queries`` float32 ``[B, D]``; ``allowed`` bool ``[N]`` keeps the rows where it is true. The answer has
        min(k, allowed rows) columns. Equal scores come in row order. Raises QueryError on a wrong shape or NaN.
        """
        queries = np.ascontiguousarray(queries, dtype=np.float32)
        if queries.ndim != 2 or queries.shape[1] != self.dim:
            raise QueryError(
                f"Query vectors have {queries.shape[-1]} dimensions and the index has {self.dim}; use its encoder."
            )
        if not np.isfinite(queries).all():
            raise QueryError("A query vector contains values that are not numbers; send finite numbers.")
        if k < 1:
            raise QueryError("k must be at least 1.", minimum=1)
        candidates = self.num_rows if allowed is None else int(np.count_nonzero(allowed))
        k = min(k, candidates)
        if k == 0 or len(queries) == 0:
            return Hits(np.empty((len(queries), 0), np.float32), np.empty((len(queries), 0), np.int64))
        parameters = None
        if allowed is not None:
            if allowed.shape != (self.num_rows,):
                raise QueryError(f"The filter has {allowed.shape} entries and the index {self.num_rows} rows.")
            bits = np.packbits(allowed, bitorder="little")
            selector = faiss.IDSelectorBitmap(bits)  # type: ignore[call-arg,arg-type]  # the stubs lack the wrapper
            parameters = faiss.SearchParameters(sel=selector)  # type: ignore[call-arg]
        scores, rows = self._index.search(queries, k, params=parameters)
        order = np.lexsort((rows, -scores), axis=-1)  # FAISS leaves equal scores in no fixed order
        return Hits(np.take_along_axis(scores, order, axis=-1), np.take_along_axis(rows, order, axis=-1))
