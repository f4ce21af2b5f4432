"""The setting that is chosen reaches the target on the queries that it must, and the curve says what others give."""

from __future__ import annotations

import numpy as np
import pytest

from sightline.errors import QueryError
from sightline.index import Hits
from sightline.index.approximate import ApproximateIndex
from sightline.index.plans import PLANS, num_lists, settings_of
from sightline.index.store import MemoryVectors
from sightline.index.training import centroids, train
from sightline.index.tuning import recall, tune
from tests.sightline.index.worlds import Vectors, unit

ROWS = 12_000


def shifted(count: int, seed: int) -> Vectors:
    """Queries from another place than the vectors, as texts are."""
    queries = unit(count, 32, seed) + 0.5
    return np.asarray(queries / np.linalg.norm(queries, axis=1, keepdims=True), dtype=np.float32)


@pytest.mark.parametrize("name", ["ivf-sq8", "hnsw", "codes", "ivf-codes"])
def test_the_target_is_reached_on_text_queries(name: str) -> None:
    store = MemoryVectors(unit(ROWS, 32).astype(np.float16))
    index = ApproximateIndex(PLANS[name], train(PLANS[name], store), store, 1)
    queries = {"text": shifted(60, 1), "image": unit(60, 32, 2)}
    tuned = tune(index, store, queries, "text", 0.95)
    point = tuned.at("text")
    assert tuned.reached and point is not None and point.recall_at_10 >= 0.95
    assert {p.queries for p in tuned.curve} == {"text", "image"}
    assert all(p.latency_ms > 0 for p in tuned.curve)
    cheaper = [p for p in tuned.curve if p.queries == "text" and p.setting < tuned.setting]
    assert all(p.recall_at_10 < 0.95 for p in cheaper)


def test_a_target_out_of_reach_is_said() -> None:
    vectors = MemoryVectors(unit(ROWS, 32).astype(np.float16))
    far = MemoryVectors(unit(ROWS, 32, seed=9).astype(np.float16))  # the candidates of other vectors: luck at best
    index = ApproximateIndex(PLANS["codes"], train(PLANS["codes"], far), vectors, 1)
    tuned = tune(index, vectors, {"text": shifted(20, 1)}, "text", 0.95)
    assert not tuned.reached
    assert max(p.recall_at_10 for p in tuned.curve) < 0.95
    assert tuned.at("image") is None


def test_equal_scores_in_anothers_place_count_as_found() -> None:
    truth = Hits(np.array([[0.9, 0.5]], np.float32), np.array([[1, 2]], np.int64))
    assert recall(Hits(np.array([[0.9, 0.5]], np.float32), np.array([[1, 7]], np.int64)), truth) == 1.0
    assert recall(Hits(np.array([[0.9, 0.4]], np.float32), np.array([[1, 8]], np.int64)), truth) == 0.5


def test_settings_rise_and_end_with_everything() -> None:
    for name in ("ivf-sq8", "hnsw", "codes"):
        settings = settings_of(PLANS[name], 1_000_000)
        assert settings == sorted(set(settings)) and settings[0] > 0
    assert settings_of(PLANS["ivf-sq8"], 1_000_000)[-1] == num_lists(1_000_000) == 1024


def test_centroids_find_well_separated_clusters() -> None:
    generator = np.random.default_rng(0)
    centres = 10 * unit(8, 32)
    points = np.repeat(centres, 200, axis=0) + generator.standard_normal((1600, 32)).astype(np.float32)
    generator.shuffle(points)
    found = centroids(points, 16)
    nearest = ((centres[:, None] - found[None]) ** 2).sum(axis=2).min(axis=1)
    assert found.shape == (16, 32)
    assert (nearest < 16).all()  # a cluster's own noise is 32


def test_what_cannot_be_trained_is_refused() -> None:
    with pytest.raises(QueryError, match="cannot be trained on 5"):
        train(PLANS["ivf-sq8"], MemoryVectors(unit(5).astype(np.float16)))
    with pytest.raises(QueryError, match="even number"):
        train(PLANS["codes"], MemoryVectors(unit(2000, 15).astype(np.float16)))
