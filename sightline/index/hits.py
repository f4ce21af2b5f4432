"""What every index takes and gives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from sightline.errors import QueryError

Scores = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int64]
Allowed = npt.NDArray[np.bool_]
Half = npt.NDArray[np.float16]

NO_LIMIT = 2**31 - 1


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


class SearchIndex(Protocol):
    """An immutable index over unit vectors. ``search`` may be called from several threads at once."""

    @property
    def num_rows(self) -> int: ...

    @property
    def dim(self) -> int: ...

    @property
    def capabilities(self) -> Capabilities: ...

    def search(self, queries: Scores, k: int, allowed: Allowed | None = None) -> Hits:
        """The k rows with the largest inner products for each query.

        ``queries`` float32 ``[B, D]``; ``allowed`` bool ``[N]`` keeps the rows where it is true. The answer has
        min(k, allowed rows) columns. Equal scores come in row order. Raises QueryError on a wrong shape or NaN.
        """
        ...


def checked(index: SearchIndex, queries: Scores, k: int, allowed: Allowed | None) -> tuple[Scores, int]:
    """The queries as contiguous float32 ``[B, D]`` and k cut to what is there. Raises QueryError."""
    queries = np.ascontiguousarray(queries, dtype=np.float32)
    if queries.ndim != 2 or queries.shape[1] != index.dim:
        raise QueryError(
            f"Query vectors have {queries.shape[-1]} dimensions and the index has {index.dim}; use its encoder."
        )
    if not np.isfinite(queries).all():
        raise QueryError("A query vector contains values that are not numbers; send finite numbers.")
    if k < 1:
        raise QueryError("k must be at least 1.", minimum=1)
    if allowed is None:
        return queries, min(k, index.num_rows)
    if allowed.shape != (index.num_rows,):
        raise QueryError(f"The filter has {allowed.shape} entries and the index {index.num_rows} rows.")
    return queries, min(k, int(np.count_nonzero(allowed)))


def no_hits(num_queries: int) -> Hits:
    """The answer where nothing can be found: ``[B, 0]``."""
    return Hits(np.empty((num_queries, 0), np.float32), np.empty((num_queries, 0), np.int64))


def best_first(scores: Scores, rows: Rows, k: int) -> Hits:
    """The k best of ``[B, R]`` candidates, equal scores in row order; candidates of score -inf must be more than k."""
    order = np.lexsort((rows, -scores), axis=-1)[:, :k]  # [B, k]
    return Hits(np.take_along_axis(scores, order, axis=-1), np.take_along_axis(rows, order, axis=-1))


def require_finite(vectors: Half | Scores) -> None:
    """Raise QueryError where a vector to be indexed holds NaN or infinity."""
    if not np.isfinite(vectors).all():
        raise QueryError("Vectors to be indexed contain values that are not numbers; build the collection again.")
