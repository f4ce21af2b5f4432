from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from sightline.errors import DependencyMissing, QueryError
from sightline.index import VectorIndex, require_faiss


def unit(rows: int, dim: int = 16, seed: int = 0) -> npt.NDArray[np.float32]:
    vectors = np.random.default_rng(seed).standard_normal((rows, dim)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors


def test_search_equals_brute_force() -> None:
    vectors, queries = unit(500).astype(np.float16), unit(20, seed=1)
    hits = VectorIndex(vectors).search(queries, 10)
    exact = queries @ vectors.astype(np.float32).T
    np.testing.assert_array_equal(hits.rows, np.argsort(-exact, axis=1, kind="stable")[:, :10])
    np.testing.assert_allclose(hits.scores, -np.sort(-exact, axis=1)[:, :10], atol=1e-6)


@pytest.mark.parametrize("num_allowed", [0, 1, 3, 250, 499])
def test_a_filter_is_never_ignored(num_allowed: int) -> None:
    """The adversary: only the farthest rows are allowed, and k asks for more than there are."""
    vectors, query = unit(500).astype(np.float16), unit(1, seed=1)
    exact = (query @ vectors.astype(np.float32).T)[0]
    farthest = np.argsort(exact)[:num_allowed]
    allowed = np.zeros(500, dtype=np.bool_)
    allowed[farthest] = True
    hits = VectorIndex(vectors).search(query, 400, allowed)
    assert hits.rows.shape == (1, min(400, num_allowed))
    np.testing.assert_array_equal(hits.rows[0], farthest[np.argsort(-exact[farthest])][:400])


def test_equal_scores_come_in_row_order() -> None:
    vectors = np.repeat(unit(2), 5, axis=0)
    hits = VectorIndex(vectors).search(vectors[:1], 10)
    assert hits.rows[0].tolist() == list(range(10))


def test_k_beyond_the_rows_gives_all_there_are() -> None:
    assert VectorIndex(unit(3)).search(unit(2, seed=1), 1000).rows.shape == (2, 3)
    assert VectorIndex(unit(0)).search(unit(2, seed=1), 5).rows.shape == (2, 0)


def test_bad_queries_are_refused() -> None:
    index = VectorIndex(unit(3))
    with pytest.raises(QueryError, match="dimensions"):
        index.search(unit(1, dim=8), 1)
    with pytest.raises(QueryError, match="not numbers"):
        index.search(np.full((1, 16), np.nan, np.float32), 1)
    with pytest.raises(QueryError, match="at least 1"):
        index.search(unit(1), 0)
    with pytest.raises(QueryError, match="filter"):
        index.search(unit(1), 1, np.ones(4, dtype=np.bool_))
    with pytest.raises(QueryError, match="not numbers"):
        VectorIndex(np.full((2, 16), np.inf, np.float32))


def test_a_missing_faiss_is_said_clearly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sightline.index.runtime.faiss", None)
    with pytest.raises(DependencyMissing, match=r"sightline\[cpu\].*sightline\[gpu\]"):
        require_faiss()


@pytest.mark.realdata
def test_real_clip_vectors_give_the_published_recall(real_data: Path) -> None:
    """500 COCO pairs from OpenAI's CLIP (Weixin-Liang/Modality-Gap): R@1 0.552 image to text, 0.506 text to image."""
    images = np.load(real_data / "clip_pairs" / "images.npy")
    texts = np.load(real_data / "clip_pairs" / "texts.npy")
    for vectors in (images, texts):
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    truth = np.arange(500)
    assert (VectorIndex(texts).search(images, 1).rows[:, 0] == truth).mean() == 0.552
    assert (VectorIndex(images).search(texts, 1).rows[:, 0] == truth).mean() == 0.506
