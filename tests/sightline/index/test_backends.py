"""One suite for every backend: what a filter, a k or an odd set must not do to an answer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sightline.errors import QueryError
from sightline.index import SearchIndex
from tests.sightline.index.worlds import BACKENDS, Vectors, brute_force, built, unit

ROWS = 12_000


@pytest.fixture(scope="module")
def vectors() -> Vectors:
    return unit(ROWS)


@pytest.fixture(scope="module", params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def index(backend: str, vectors: Vectors, tmp_path_factory: pytest.TempPathFactory) -> SearchIndex:
    return built(backend, vectors, tmp_path_factory.mktemp("shards"))


@pytest.mark.parametrize("share", [0.0001, 0.01, 0.5])
def test_a_filter_gives_what_brute_force_gives(index: SearchIndex, vectors: Vectors, share: float) -> None:
    allowed = np.random.default_rng(3).random(ROWS) < share
    allowed[7] = True
    for query in unit(5, seed=1):
        hits = index.search(query[None], 10, allowed)
        assert hits.rows[0].tolist() == brute_force(vectors, query, 10, allowed)
        assert allowed[hits.rows].all()


def test_only_the_farthest_row_is_allowed(index: SearchIndex, vectors: Vectors) -> None:
    query = unit(1, seed=1)
    farthest = int(np.argmin(vectors @ query[0]))
    allowed = np.zeros(ROWS, np.bool_)
    allowed[farthest] = True
    hits = index.search(query, 10, allowed)
    assert hits.rows.tolist() == [[farthest]]
    assert hits.scores[0, 0] == pytest.approx(vectors[farthest] @ query[0], abs=1e-3)


def test_nothing_is_allowed(index: SearchIndex) -> None:
    assert index.search(unit(2, seed=1), 3, np.zeros(ROWS, np.bool_)).rows.shape == (2, 0)


def test_k_beyond_the_allowed_rows_gives_them_all(index: SearchIndex, vectors: Vectors) -> None:
    allowed = np.zeros(ROWS, np.bool_)
    allowed[100:2100] = True
    query = unit(1, seed=2)
    hits = index.search(query, 5_000, allowed)
    assert hits.rows.shape == (1, 2_000)
    assert sorted(hits.rows[0].tolist()) == list(range(100, 2_100))
    assert (np.diff(hits.scores[0]) <= 0).all()


def test_k_of_every_row_gives_every_row(index: SearchIndex) -> None:
    assert sorted(index.search(unit(1, seed=2), ROWS + 5).rows[0].tolist()) == list(range(ROWS))


def test_a_few_deleted_rows_never_come_back(index: SearchIndex, vectors: Vectors) -> None:
    """The nearest of every query are deleted, fewer than a hundredth of all: as tombstones are."""
    for query in unit(4, seed=5):
        nearest = brute_force(vectors, query, 60)
        allowed = np.ones(ROWS, np.bool_)
        allowed[nearest] = False
        hits = index.search(query[None], 10, allowed)
        assert hits.rows.shape == (1, 10)
        assert not set(hits.rows[0].tolist()) & set(nearest)
        found = set(hits.rows[0].tolist()) & set(brute_force(vectors, query, 10, allowed))
        assert len(found) >= 8 or not index.capabilities.exact


def test_more_neighbours_deleted_than_there_are_candidates(index: SearchIndex, vectors: Vectors) -> None:
    query = unit(1, seed=6)[0]
    allowed = np.ones(ROWS, np.bool_)
    allowed[brute_force(vectors, query, 110)] = False
    assert index.search(query[None], 40, allowed).rows.shape == (1, 40)
    found = index.search(query[None], 10, allowed).rows[0].tolist()
    assert len(set(found)) == 10 and allowed[found].all()


def test_scores_are_exact_and_best_first(index: SearchIndex, vectors: Vectors) -> None:
    queries = unit(3, seed=7)
    hits = index.search(queries, 20)
    stored = vectors.astype(np.float16).astype(np.float32)
    expected = np.einsum("bkd,bd->bk", stored[hits.rows], queries)
    np.testing.assert_allclose(hits.scores, expected, atol=1e-6)
    assert (np.diff(hits.scores, axis=1) <= 0).all()
    assert all(len(set(row)) == 20 for row in hits.rows.tolist())


def test_recall_is_what_the_plan_is_for(index: SearchIndex, vectors: Vectors) -> None:
    queries = unit(40, seed=8)
    rows = index.search(queries, 10).rows
    found = [
        len(set(row.tolist()) & set(brute_force(vectors, query, 10))) for row, query in zip(rows, queries, strict=True)
    ]
    assert np.mean(found) == 10 if index.capabilities.exact else np.mean(found) > 3


def test_a_batch_is_its_queries_one_by_one(index: SearchIndex) -> None:
    queries = unit(17, seed=9)
    together = index.search(queries, 10).rows
    alone = np.concatenate([index.search(query[None], 10).rows for query in queries])
    np.testing.assert_array_equal(together, alone)


def test_duplicates_come_in_row_order(backend: str, tmp_path: Path) -> None:
    vectors = np.repeat(unit(400, seed=4), 30, axis=0)
    index = built(backend, vectors, tmp_path)
    query = vectors[300:301]
    hits = index.search(query, 10)
    assert len(set(hits.rows[0].tolist())) == 10
    assert hits.rows[0].tolist() == sorted(hits.rows[0].tolist())
    np.testing.assert_allclose(hits.scores, 1.0, atol=2e-3)
    if index.capabilities.exact:
        assert hits.rows[0].tolist() == list(range(300, 310))


@pytest.mark.parametrize("rows", [0, 1, 2])
def test_hardly_anything_to_find(backend: str, tmp_path: Path, rows: int) -> None:
    index = built(backend, unit(max(rows, 1))[:rows], tmp_path)
    assert index.search(unit(2, seed=1), 5).rows.shape == (2, rows)
    assert index.search(unit(2, seed=1), 5, np.ones(rows, np.bool_)).rows.shape == (2, rows)
    assert index.search(unit(1)[:0], 5).rows.shape[0] == 0


def test_bad_queries_are_refused(index: SearchIndex) -> None:
    with pytest.raises(QueryError, match="dimensions"):
        index.search(unit(1, dim=8), 1)
    with pytest.raises(QueryError, match="not numbers"):
        index.search(np.full((1, 16), np.nan, np.float32), 1)
    with pytest.raises(QueryError, match="at least 1"):
        index.search(unit(1), 0)
    with pytest.raises(QueryError, match="filter"):
        index.search(unit(1), 1, np.ones(4, dtype=np.bool_))


def test_vectors_that_are_no_numbers_are_refused(backend: str, tmp_path: Path) -> None:
    vectors = unit(ROWS).copy()
    vectors[ROWS - 1, 3] = np.nan
    with pytest.raises(QueryError, match="not numbers"):
        built(backend, vectors, tmp_path)
