"""The GPU's exact index, on the CPU's tensors wherever that proves something, and on a GPU where there is one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from sightline.index.exact import VectorIndex
from sightline.index.gpu import GpuLists, TorchIndex, has_faiss_gpu
from sightline.index.plans import PLANS
from sightline.index.training import train
from tests.sightline.index.worlds import brute_force, on_files, unit


def close_together(rows: int) -> npt.NDArray[np.float32]:
    """Vectors whose scores differ by less than half precision can tell."""
    vectors = unit(1) + 2e-3 * np.random.default_rng(1).standard_normal((rows, 16)).astype(np.float32)
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), dtype=np.float32)


def test_where_half_precision_cannot_tell_rows_apart_float32_decides() -> None:
    vectors = close_together(2_000)
    query = unit(1, seed=5)
    index = TorchIndex(vectors.astype(np.float16), "cpu")
    truth = VectorIndex(vectors.astype(np.float16)).search(query, 10)
    hits = index.search(query, 10)
    np.testing.assert_allclose(hits.scores, truth.scores, atol=1e-6)
    allowed = np.arange(2_000) % 2 == 0
    ours, theirs = index.search(query, 10, allowed), VectorIndex(vectors.astype(np.float16)).search(query, 10, allowed)
    np.testing.assert_allclose(ours.scores, theirs.scores, atol=1e-6)
    assert allowed[ours.rows].all()


def test_blocks_smaller_than_the_vectors_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors, queries = unit(3_000), unit(4, seed=1)
    whole = TorchIndex(vectors.astype(np.float16), "cpu").search(queries, 10)
    monkeypatch.setattr("sightline.index.gpu._BLOCK_SCORES", 1_000)
    parts = TorchIndex(vectors.astype(np.float16), "cpu").search(queries, 10)
    np.testing.assert_array_equal(parts.rows, whole.rows)
    assert parts.rows[0].tolist() == brute_force(vectors, queries[0], 10)


@pytest.mark.gpu
def test_on_a_gpu_it_is_exact() -> None:
    vectors, queries = unit(50_000, 64), unit(32, 64, seed=1)
    exact, index = VectorIndex(vectors.astype(np.float16)), TorchIndex(vectors.astype(np.float16), "cuda")
    for share in (None, 0.0001, 0.01, 0.5):
        allowed = None if share is None else np.random.default_rng(2).random(50_000) < share
        ours, truth = index.search(queries, 10, allowed), exact.search(queries, 10, allowed)
        np.testing.assert_allclose(ours.scores, truth.scores, atol=1e-5)
        assert allowed is None or allowed[ours.rows].all()


@pytest.mark.gpu
def test_lists_on_a_gpu_never_see_a_filter(tmp_path: Path) -> None:
    if not has_faiss_gpu():
        pytest.skip("the installed FAISS has no GPU part")
    vectors, queries = unit(50_000, 64), unit(32, 64, seed=1)
    store = on_files(vectors.astype(np.float16), tmp_path)
    index = GpuLists(PLANS["gpu-ivf"], train(PLANS["gpu-ivf"], store), store, 64)
    exact = VectorIndex(vectors.astype(np.float16))
    allowed = np.zeros(50_000, np.bool_)
    allowed[int(np.argmin(vectors @ queries[0]))] = True
    np.testing.assert_array_equal(index.search(queries, 10, allowed).rows, exact.search(queries, 10, allowed).rows)
    found, truth = index.search(queries, 10).rows.tolist(), exact.search(queries, 10).rows.tolist()
    assert np.mean([len(set(a) & set(b)) for a, b in zip(found, truth, strict=True)]) > 8
