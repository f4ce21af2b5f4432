"""Search and filters in Milvus against exact search on the same data, with adversarial questions."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sightline.collection import Counts, EncoderRecord, Generation, GenerationWriter, NewItem, open_collection
from sightline.errors import QueryError
from sightline.filters import Filter, parse_filter
from sightline.index import Hits, VectorIndex
from sightline.milvus import MilvusGeneration, generation, vector_set
from tests.milvus import pushed
from tests.sightline.index.worlds import Vectors, brute_force, unit

ROWS = 800
DIM = 16
ODD: list[dict[str, Any]] = [
    {},
    {"year": [1999, 2005]},
    {"year": [2019.5, 2020.5]},
    {"year": "2020"},
    {"year": True},
    {"year": 2**53 + 1},
    {"year": -(10**30)},
    {"year": math.inf},
    {"year": math.nan},
    {"year": [math.nan, 2020]},
    {"year": None, "label": None},
    {"label": ["cat", "dog", 'a "quoted" \\ name'], "ünï.cöde": "ß"},
    {"label": "x" * 5000},
    {"label": 'cat") or (row >= 0', "a=b": 1, "a": "b=1"},
    {"scene": {"things": [{"hue": "red", "size": 3}, {"hue": "blue", "size": 9}]}},
    {"year": 2020, "many": [f"tag {number}" for number in range(5000)]},
    {"flag": False, "one": 1, "true": True, "half": 0.5, "tiny": 5e-324, "minus zero": -0.0},
]


def metadata(row: int) -> dict[str, Any]:
    """Odd rows among ordinary ones."""
    if row < len(ODD):
        return ODD[row]
    return {"year": 1990 + row % 40, "label": ("cat", "dog", "bird")[row % 3], "share": row / ROWS, "n": row}


@pytest.fixture(scope="module")
def vectors() -> Vectors:
    """Some rows are equal to one another: what comes first of them is the first."""
    given = unit(ROWS, DIM)
    given[100:140] = given[100]
    return given


@pytest.fixture(scope="module")
def built(vectors: Vectors, tmp_path_factory: pytest.TempPathFactory) -> Generation:
    encoder = EncoderRecord(
        spec="fake:x", name="fake", fingerprint="f" * 64, dim=DIM, precision="fp32", licence="MIT", untrained=True
    )
    path = tmp_path_factory.mktemp("built") / "photos"
    with GenerationWriter(path, encoder) as writer:
        for row, vector in enumerate(vectors):
            num_captions = row % 3
            writer.add(
                NewItem(
                    item_id=f'{row}/"{row}\\é', uri=f"{row}.png", sha256=hashlib.sha256(b"%d" % row).hexdigest(),
                    width_px=1, height_px=1, vector=vector, captions=("a", "b")[:num_captions],
                    caption_vectors=np.stack([-vector, vector[::-1]][:num_captions]) if num_captions else None,
                    metadata=metadata(row), thumbnail=b"",
                )
            )  # fmt: skip
        captions = sum(row % 3 for row in range(ROWS))
        counts = Counts(
            seen=ROWS, indexed=ROWS, duplicates=0, skipped=0, failed=0, captions_seen=captions,
            captions_indexed=captions, captions_skipped=0, reasons={},
        )  # fmt: skip
        writer.publish(counts, source="made up", index={})
    return open_collection(path)


@pytest.fixture(scope="module")
def remote(built: Generation, tmp_path_factory: pytest.TempPathFactory) -> Iterator[MilvusGeneration]:
    there = pushed(built, tmp_path_factory.mktemp("milvus"))
    yield there
    there.server.close()


@pytest.fixture(scope="module")
def exact(built: Generation) -> VectorIndex:
    return VectorIndex(built.image_vectors())


def same(found: Hits, expected: Hits) -> None:
    np.testing.assert_array_equal(found.rows, expected.rows)
    np.testing.assert_allclose(found.scores, expected.scores, atol=1e-6)


@pytest.mark.parametrize("k", [1, 10, 500])
def test_search_is_exact_search(remote: MilvusGeneration, exact: VectorIndex, k: int) -> None:
    queries = unit(7, DIM, seed=1)
    same(remote.images.search(queries, k), exact.search(queries, k))
    same(remote.search_images(queries, k, None), exact.search(queries, k))


@pytest.mark.parametrize("k", [1, 10, 39, 41])
def test_of_equal_rows_the_first_come_first(
    remote: MilvusGeneration, exact: VectorIndex, vectors: Vectors, k: int
) -> None:
    found = remote.images.search(vectors[120:121], k)
    assert found.rows[0, : min(k, 40)].tolist() == list(range(100, 100 + min(k, 40)))
    assert len(set(found.scores[0, : min(k, 40)].tolist())) == 1
    same(found, exact.search(vectors[120:121], k))


@pytest.mark.parametrize("share", [0.0001, 0.01, 0.5, 0.999])
@pytest.mark.parametrize("ids_at_once", [10_000, 100])
def test_rows_that_are_allowed(
    remote: MilvusGeneration, exact: VectorIndex, vectors: Vectors, share: float, ids_at_once: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(vector_set, "_MAX_IDS", ids_at_once)
    allowed = np.random.default_rng(3).random(ROWS) < share
    allowed[7] = True
    for query in unit(2, DIM, seed=4):
        found = remote.images.search(query[None], 10, allowed)
        assert found.rows[0].tolist() == brute_force(vectors, query, 10, allowed)


def test_only_the_farthest_and_nothing(remote: MilvusGeneration, vectors: Vectors) -> None:
    query = unit(1, DIM, seed=1)
    allowed = np.zeros(ROWS, np.bool_)
    assert remote.images.search(query, 3, allowed).rows.shape == (1, 0)
    farthest = int(np.argmin(vectors @ query[0]))
    allowed[farthest] = True
    assert remote.images.search(query, 10, allowed).rows.tolist() == [[farthest]]


def test_k_beyond_the_rows(remote: MilvusGeneration, exact: VectorIndex) -> None:
    queries = unit(1, DIM, seed=2)
    same(remote.images.search(queries, ROWS + 5), exact.search(queries, ROWS))
    with pytest.raises(QueryError, match="at most"):
        remote.search_images(queries, 20_000, None)


def test_bad_queries_are_refused(remote: MilvusGeneration) -> None:
    for queries, k in ((unit(1, 8), 1), (np.full((1, DIM), np.nan, np.float32), 1), (unit(1, DIM), 0)):
        with pytest.raises(QueryError):
            remote.images.search(queries, k)


FILTERS: list[dict[str, Any]] = [
    {"key": "year", "match": 2020},
    {"key": "year", "match": 2020.0},
    {"key": "year", "match": "2020"},
    {"key": "year", "match": True},
    {"key": "one", "match": True},
    {"key": "true", "match": 1},
    {"key": "flag", "match": False},
    {"key": "half", "any": [0.5, "0.5"]},
    {"key": "tiny", "match": 5e-324},
    {"key": "minus zero", "match": 0},
    {"key": "year", "match": 2**53 + 1},
    {"key": "year", "match": 2**53},
    {"key": "year", "match": -(10**30)},
    {"key": "year", "any": []},
    {"key": "year", "any": [1995, 2005, "2020", True]},
    {"key": "label", "any": ["cat", "bird"]},
    {"key": "label", "match": 'a "quoted" \\ name'},
    {"key": "label", "match": 'cat") or (row >= 0'},
    {"key": 'label"] == 1 or row >= 0 or numbers["x', "match": 1},
    {"key": 'year"] > 0 or numbers["x', "range": {"gte": 0}},
    {"key": "label", "match": "x" * 5000},
    {"key": "label", "match": "x" * 4999},
    {"key": "ünï.cöde", "match": "ß"},
    {"key": "a=b", "match": 1},
    {"key": "a", "match": "b=1"},
    {"key": "many", "match": "tag 4999"},
    {"key": "many", "any": [f"tag {number}" for number in range(20)]},
    {"key": "scene.things.hue", "match": "red"},
    {"key": "scene.things.size", "range": {"gt": 3, "lt": 9}},
    {"key": "scene.things.size", "range": {"gte": 9}},
    {"key": "no such key", "match": 1},
    {"key": "no such key", "range": {"gte": 0}},
    {"key": "year", "range": {"gte": 2020}},
    {"key": "year", "range": {"gt": 2000, "lt": 2004}},
    {"key": "year", "range": {"gte": 2019.5, "lte": 2019.5}},
    {"key": "year", "range": {"gt": 2**53}},
    {"key": "year", "range": {"lte": 2**60}},
    {"key": "year", "range": {"lt": -(2**60)}},
    {"key": "year", "range": {"gte": -(10**400)}},
    {"key": "year", "range": {"gt": 1e308}},
    {"key": "share", "range": {"gte": 0.1, "lt": 0.1003}},
    {"key": "share", "range": {"lt": 1e-7}},
    {"key": "ünï.cöde", "range": {"gt": 1}},
    {"must": []},
    {"should": []},
    {"must": [{"key": "label", "match": "cat"}, {"key": "year", "range": {"gte": 2010}}]},
    {"should": [{"key": "label", "match": "bird"}, {"key": "year", "range": {"lt": 1995}}]},
]


@pytest.fixture(scope="module")
def nearest() -> Vectors:
    return unit(2, DIM, seed=9)


def check(remote: MilvusGeneration, exact: VectorIndex, built: Generation, queries: Vectors, where: Filter) -> None:
    mask = where.mask(built.columns)
    for k in (10, ROWS):
        same(remote.search_images(queries, k, where), exact.search(queries, k, mask))


@pytest.mark.parametrize("raw", FILTERS, ids=str)
def test_a_filter_keeps_what_it_keeps_on_disk(
    remote: MilvusGeneration, exact: VectorIndex, built: Generation, nearest: Vectors, raw: dict[str, Any]
) -> None:
    check(remote, exact, built, nearest, parse_filter(raw))
    check(remote, exact, built, nearest, parse_filter({"must_not": [raw]}))


def random_filter(rng: np.random.Generator, depth: int = 0) -> dict[str, Any]:
    if depth == 2 or rng.random() < 0.4:
        return FILTERS[int(rng.integers(len(FILTERS) - 4))]
    parts = {name: [random_filter(rng, depth + 1) for _ in range(int(rng.integers(1, 3)))]
             for name in ("must", "should", "must_not") if rng.random() < 0.6}  # fmt: skip
    return parts or {"must": []}


@pytest.mark.parametrize("seed", range(12))
def test_filters_within_filters(
    remote: MilvusGeneration, exact: VectorIndex, built: Generation, nearest: Vectors, seed: int
) -> None:
    raw = random_filter(np.random.default_rng(seed))
    check(remote, exact, built, nearest, parse_filter({"must": [raw]}))


@pytest.mark.parametrize("raw", [FILTERS[0], FILTERS[32], {"must_not": [FILTERS[15]]}], ids=str)
def test_captions_follow_the_filter_of_their_pictures(
    remote: MilvusGeneration, built: Generation, nearest: Vectors, raw: dict[str, Any]
) -> None:
    where = parse_filter(raw)
    allowed = where.mask(built.columns)[built.caption_items()]
    same(remote.search_captions(nearest, 20, where), VectorIndex(built.caption_vectors()).search(nearest, 20, allowed))


def test_a_filter_for_more_odd_rows_than_can_be_fetched_is_refused(
    remote: MilvusGeneration, nearest: Vectors, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generation, "MAX_EVALUATED_ROWS", 3)
    with pytest.raises(QueryError, match="cannot compare"):
        remote.search_images(nearest, 3, parse_filter({"key": "year", "range": {"gte": 0}}))
    remote.search_images(nearest, 3, parse_filter({"key": "year", "match": 2020}))


def test_everything_is_read_back(remote: MilvusGeneration, built: Generation) -> None:
    for row in (0, 5, 11, 15, 700, ROWS - 1):
        there, here = remote.item(row), built.item(row)
        assert repr(there) == repr(here), "NaN is not equal to itself"
        assert remote.row_of(here.item_id) == row
    assert remote.caption(7) == built.caption(7)
    assert remote.find_row("no such id") is None
    np.testing.assert_array_equal(remote.image_vectors(), built.image_vectors())


@pytest.mark.parametrize("index_type", ["IVF_SQ8", "HNSW"])
def test_an_approximate_index_gives_exact_scores_and_as_many_rows(
    built: Generation, exact: VectorIndex, tmp_path: Path, index_type: str
) -> None:
    there = pushed(built, tmp_path, index_type=index_type)
    assert not there.images.capabilities.exact
    queries = unit(5, DIM, seed=1)
    found, expected = there.search_images(queries, 10, None), exact.search(queries, 10)
    common = [len(set(a) & set(b)) for a, b in zip(found.rows.tolist(), expected.rows.tolist(), strict=True)]
    assert np.mean(common) > 5
    vectors = built.image_vectors().astype(np.float32)
    np.testing.assert_allclose(found.scores, np.einsum("bkd,bd->bk", vectors[found.rows], queries), atol=1e-6)
    where = parse_filter({"key": "year", "range": {"gte": 2028}})
    mask = where.mask(built.columns)
    found = there.search_images(queries, 200, where)
    assert found.rows.shape == (5, int(mask.sum()))
    assert mask[found.rows].all()
    same(
        there.images.search(queries, 10, mask & (np.arange(ROWS) > ROWS - 100)),
        exact.search(queries, 10, mask & (np.arange(ROWS) > ROWS - 100)),
    )
    there.server.close()
