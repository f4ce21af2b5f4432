from __future__ import annotations

import numpy as np
import pytest

from training.evaluation import bootstrap as module
from training.evaluation.bootstrap import Bootstrap, mean_intervals, median_interval


def naive_resamples(values: np.ndarray, groups: np.ndarray, num_groups: int, bootstrap: Bootstrap) -> list[np.ndarray]:
    """The values of each resample, written out: all queries of each drawn picture, as often as it was drawn."""
    rng = np.random.default_rng(bootstrap.seed)
    draws = rng.integers(0, num_groups, (bootstrap.num_resamples, num_groups))
    return [np.concatenate([values[groups == one] for one in draw]) for draw in draws]


@pytest.mark.parametrize("chunk_bytes", [2**24, 3000])
def test_intervals_equal_resampling_by_hand(chunk_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_CHUNK_BYTES", chunk_bytes)
    rng = np.random.default_rng(0)
    groups = rng.permutation(np.repeat(np.arange(20), rng.integers(1, 6, 20)))
    values = rng.integers(1, 40, len(groups)).astype(np.float64)
    settings = Bootstrap(num_resamples=50, seed=3)
    samples = naive_resamples(values, groups, 20, settings)
    means = np.percentile([one.mean() for one in samples], [2.5, 97.5])
    assert mean_intervals(values[:, None], groups, 20, settings)[0] == pytest.approx(means)
    medians = np.percentile([np.median(one) for one in samples], [2.5, 97.5])
    assert median_interval(values, groups, 20, settings) == pytest.approx(medians)


def test_captions_of_one_picture_are_not_independent() -> None:
    """Five copies of each value must not make the interval narrower than the values alone give."""
    rng = np.random.default_rng(1)
    values = rng.random(50)
    alone = mean_intervals(values[:, None], np.arange(50), 50, Bootstrap())[0]
    copied = mean_intervals(np.repeat(values, 5)[:, None], np.repeat(np.arange(50), 5), 50, Bootstrap())[0]
    assert copied == pytest.approx(alone)


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(2)
    covered = 0
    for trial in range(200):
        values = (rng.random(80) < 0.4).astype(np.float64)
        low, high = mean_intervals(values[:, None], np.arange(80), 80, Bootstrap(num_resamples=300, seed=trial))[0]
        covered += low <= 0.4 <= high
    assert 0.88 <= covered / 200 <= 0.99
