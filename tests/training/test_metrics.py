from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from training import metrics
from training.metrics import Vectors, chance_of_hit, image_to_text, pairs_ranked_rightly, text_to_image


def unit(rng: np.random.Generator, count: int, dim: int = 8) -> Vectors:
    vectors: Vectors = rng.standard_normal((count, dim)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors


@pytest.mark.parametrize("chunk_bytes", [1, 4000, 2**24])
def test_recall_equals_brute_force_with_several_captions(chunk_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "CHUNK_BYTES", chunk_bytes)
    rng = np.random.default_rng(0)
    counts = rng.integers(1, 5, 40)
    rows = np.repeat(np.arange(40), counts)
    images, texts = unit(rng, 40), unit(rng, len(rows))
    texts = 0.3 * texts + 0.7 * images[rows]
    texts /= np.linalg.norm(texts, axis=1, keepdims=True)
    by_text, by_image = text_to_image(texts, images, rows), image_to_text(images, texts, rows)
    for k in (1, 5, 10):
        hits = [rows[t] in np.argsort(-(images @ texts[t]))[:k] for t in range(len(rows))]
        assert by_text.recall[k] == pytest.approx(np.mean(hits))
        hits = [n in rows[np.argsort(-(texts @ images[n]))[:k]] for n in range(40)]
        assert by_image.recall[k] == pytest.approx(np.mean(hits))
    ranks = [1 + int((images @ texts[t] > images[rows[t]] @ texts[t] + 1e-6).sum()) for t in range(len(rows))]
    assert by_text.median_rank == pytest.approx(np.median(ranks))
    assert (by_text.num_queries, by_text.num_candidates) == (len(rows), 40)


def test_a_collapsed_encoder_scores_one_in_n() -> None:
    images = np.tile(unit(np.random.default_rng(1), 1), (50, 1))
    texts = np.tile(images[:1], (150, 1))
    rows = np.repeat(np.arange(50), 3)
    for retrieval in (text_to_image(texts, images, rows), image_to_text(images, texts, rows)):
        assert retrieval.recall[1] == pytest.approx(1 / 50)
    assert text_to_image(texts, images, rows).recall[10] == pytest.approx(10 / 50)
    assert text_to_image(texts, images, rows).median_rank == pytest.approx(25.5)


def test_a_perfect_encoder_scores_one() -> None:
    images = np.eye(12, dtype=np.float32)
    rows = np.arange(12)
    assert text_to_image(images, images, rows).recall == {1: 1.0, 5: 1.0, 10: 1.0}
    assert image_to_text(images, images, rows).median_rank == 1


@pytest.mark.parametrize(("above", "level", "own", "k"), [(0, 3, 1, 1), (0, 3, 2, 2), (2, 2, 2, 3), (5, 1, 1, 5)])
def test_ties_are_the_mean_over_all_orders(above: int, level: int, own: int, k: int) -> None:
    orders = set(itertools.permutations([0] * level + [1] * own))
    expected = np.mean([sum(order[: max(k - above, 0)]) > 0 for order in orders])
    found = chance_of_hit(np.array([above]), np.array([level]), np.array([own]), k)
    assert found[0] == pytest.approx(expected)


def test_swaps_that_tie_count_half() -> None:
    image = np.eye(3, dtype=np.float32)
    good, bad = np.roll(image, 0, axis=0), np.roll(image, 1, axis=0)
    assert pairs_ranked_rightly(image, good, bad) == 1
    assert pairs_ranked_rightly(image, bad, good) == 0
    assert pairs_ranked_rightly(image, good, good) == 0.5


def test_class_vectors_are_unit_means() -> None:
    vectors = metrics.class_vectors([np.eye(2, dtype=np.float32)])
    assert vectors[0] == pytest.approx([math.sqrt(0.5)] * 2)
    assert metrics.classify(np.eye(2, dtype=np.float32), np.eye(2, dtype=np.float32), np.array([0, 1])) == 1
