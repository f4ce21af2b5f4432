from __future__ import annotations

import itertools

import numpy as np
import pytest

from tests.training.evaluation.vectors import captioned, unit
from training.evaluation.measure import measure_vectors
from training.evaluation.places import Vectors
from training.evaluation.similarity import Histogram, bin_edges, covariance_gap, geometry, similarities, uniformity


def all_scores(images: Vectors, texts: Vectors, rows: np.ndarray) -> tuple[Vectors, Vectors]:
    """(matched, unmatched) cosines by hand."""
    scores = texts @ images.T
    own = rows[:, None] == np.arange(len(images))
    return scores[own], scores[~own]


def test_distributions_equal_brute_force() -> None:
    images, texts, rows = captioned(np.random.default_rng(0), 40, 5, noise=1.0)
    matched, unmatched = all_scores(images, texts, rows)
    found = measure_vectors(images, texts, rows).similarities
    assert found.matched_counts.sum() == len(matched)
    assert found.unmatched_counts.sum() == len(unmatched)
    assert np.abs(found.matched_counts - np.histogram(matched, bin_edges())[0]).sum() <= 2  # of rounding at an edge
    assert np.abs(found.unmatched_counts - np.histogram(unmatched, bin_edges())[0]).sum() <= 4
    assert found.matched_mean == pytest.approx(matched.mean(), abs=1e-6)
    assert found.unmatched_mean == pytest.approx(unmatched.mean(), abs=1e-3)
    assert found.unmatched_std == pytest.approx(unmatched.std(), abs=1e-3)
    auc = (matched[:, None] > unmatched[None]).mean()
    assert found.auc == pytest.approx(auc, abs=1e-3)


def test_overlap_is_one_for_equal_and_zero_for_apart() -> None:
    rng = np.random.default_rng(1)
    scores = np.sort(rng.normal(0.2, 0.05, 20_000).astype(np.float32))
    everything = Histogram()
    everything.add_sorted(np.sort(np.concatenate([scores, scores]))[None])
    same = similarities(everything, scores)
    assert same.overlap == pytest.approx(1) and same.auc == pytest.approx(0.5)
    apart = Histogram()
    apart.add_sorted(np.concatenate([scores - 0.6, scores])[None])
    assert similarities(apart, scores).overlap == 0
    assert similarities(apart, scores).auc == pytest.approx(1)
    # Two normal distributions two standard deviations apart share 2Φ(-1) = 0.3173 of their area.
    shifted = Histogram()
    shifted.add_sorted(np.sort(np.concatenate([scores - 0.1, scores]))[None])
    assert similarities(shifted, scores).overlap == pytest.approx(0.3173, abs=0.02)


def test_one_picture_has_no_unmatched_pairs() -> None:
    found = measure_vectors(unit(np.random.default_rng(0), 1), unit(np.random.default_rng(1), 2), np.zeros(2, np.int64))
    assert np.isnan(found.similarities.auc) and np.isnan(found.similarities.unmatched_mean)
    assert found.text_to_image.recall[1] == 1


def test_alignment_and_uniformity_equal_their_definitions() -> None:
    images, texts, rows = captioned(np.random.default_rng(2), 30, 3)
    found = measure_vectors(images, texts, rows).geometry
    assert found.alignment == pytest.approx(((images[rows] - texts) ** 2).sum(axis=1).mean(), abs=1e-5)
    pairs = [np.exp(-2 * ((a - b) ** 2).sum()) for a, b in itertools.combinations(images.astype(np.float64), 2)]
    assert found.image_uniformity == pytest.approx(np.log(np.mean(pairs)))
    assert found.modality_gap == pytest.approx(np.linalg.norm(images.mean(axis=0) - texts.mean(axis=0)), abs=1e-6)


def test_a_collapsed_modality_has_uniformity_zero() -> None:
    assert uniformity(np.tile(unit(np.random.default_rng(0), 1), (20, 1)).astype(np.float64)) == pytest.approx(0)


def gaps(images: Vectors, texts: Vectors) -> tuple[float, float]:
    means = images.mean(axis=0), texts.mean(axis=0)
    clouds = covariance_gap(images - means[0], texts - means[1], np.arange(len(texts)))
    return float(np.linalg.norm(means[0] - means[1])), clouds


def test_the_distribution_gap_sees_what_means_do_not() -> None:
    rng = np.random.default_rng(3)
    images, texts = unit(rng, 3000, 16), unit(rng, 3000, 16)
    assert gaps(images, texts)[1] < 0.1
    away = np.zeros(16, np.float32)
    away[0] = 0.8
    means, clouds = gaps(images, texts + away)  # the same cloud elsewhere: a gap of means alone
    assert means > 0.7 and clouds == pytest.approx(gaps(images, texts)[1], abs=0.01)
    flat = texts.copy()
    flat[:, 8:] = 0
    flat /= np.linalg.norm(flat, axis=1, keepdims=True)
    # Covariances I/16 and, in half of the directions, I/8: 1 - 2 (1/16) / (1/16 + 1/8) = 1/3.
    assert gaps(images, flat)[1] == pytest.approx(np.sqrt(1 / 3), abs=0.02)
    other = images.copy()
    other[:, :8] = 0
    assert gaps(other, flat)[1] == pytest.approx(1, abs=0.01)


def test_small_samples_and_matched_pairs_do_not_look_like_a_gap_or_its_absence() -> None:
    found = [
        gaps(unit(np.random.default_rng(n), 40, 64), unit(np.random.default_rng(n + 99), 40, 64))[1] for n in range(20)
    ]
    assert np.mean(found) < 0.25  # over all pairs, of a vector with itself too, it would be 0.75
    images, texts = unit(np.random.default_rng(5), 40, 64), unit(np.random.default_rng(6), 40, 64)
    measured = geometry(images, texts, np.arange(40), np.ones(1, np.float32))
    assert (measured.modality_gap, measured.distribution_gap) == pytest.approx(gaps(images, texts), abs=1e-4)
    assert gaps(images, images)[1] == pytest.approx(0, abs=1e-3)


def test_the_covariance_gap_equals_its_definition() -> None:
    rng = np.random.default_rng(4)
    x, y = (
        (rng.standard_normal((7, 3)) + np.arange(3)).astype(np.float32),
        rng.standard_normal((9, 3)).astype(np.float32),
    )
    rows = np.array([0, 0, 1, 2, 3, 4, 5, 6, 6])
    first, second = (
        np.mean([(a @ b) ** 2 for a, b in itertools.permutations(one.astype(np.float64), 2)]) for one in (x, y)
    )
    across = np.mean([float(x[i] @ y[j]) ** 2 for i in range(7) for j in range(9) if rows[j] != i])
    assert covariance_gap(x, y, rows) == pytest.approx(np.sqrt(max(0, 1 - 2 * across / (first + second))), abs=1e-5)
    assert covariance_gap(x * 2, x, np.arange(7)) > 0.5
    assert np.isnan(covariance_gap(x[:1], y, np.zeros(9, np.int64)))
    assert np.isnan(covariance_gap(np.zeros((4, 3), np.float32), np.zeros((4, 3), np.float32), np.arange(4)))
