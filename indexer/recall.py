"""Recall of the stored index against exact float32 search, measured on text queries and on image queries.

Text queries lie elsewhere than pictures do, and an approximate index loses more of them (OOD-DiskANN, Jaiswal et al.
2022): a recall measured with pictures alone overstates what a search box will see. Half-precision exact search loses
next to nothing; it is measured all the same, so that every manifest carries the figure that later plans must hold.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from sightline.index import VectorIndex

MAX_SAMPLE_ROWS = 8192
_NUM_QUERIES = 256
_K = 10

Vector = npt.NDArray[np.float32]


def measure_recall(sample: Sequence[tuple[Vector, Vector | None]]) -> dict[str, Any]:
    """Recall@10 over a sample of (picture vector, caption vector or None), each float32 ``[D]``.

    Returns ``{"recall_at_10": {"image_queries": …, "text_queries": …}, "recall_sample_rows": …}``; text queries are
    None when nothing has a caption.
    """
    from sightline.index import VectorIndex  # heavy, and not needed by whoever only collects a sample

    images = np.stack([image for image, _ in sample])  # [N, D]
    texts = [text for _, text in sample if text is not None][:_NUM_QUERIES]
    index = VectorIndex(images.astype(np.float16))
    rates = {
        "image_queries": _recall(index, images, images[:_NUM_QUERIES]),
        "text_queries": _recall(index, images, np.stack(texts)) if texts else None,
    }
    return {"recall_at_10": rates, "recall_sample_rows": len(images)}


def _recall(index: VectorIndex, images: Vector, queries: Vector) -> float:
    """The share of the exact top 10 whose score the index reaches; equal scores count as found."""
    k = min(_K, len(images))
    exact = queries @ images.T  # [Q, N]
    threshold = np.partition(exact, -k, axis=1)[:, -k]  # [Q]
    found = np.take_along_axis(exact, index.search(queries, k).rows, axis=1) >= threshold[:, None] - 1e-6
    return round(float(found.mean()), 4)
