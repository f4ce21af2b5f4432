from __future__ import annotations

import numpy as np
import pytest

from training.watching.canary import Canary, CanaryFigures, canary_figures
from training.watching.held_out import Vectors


def unit(num: int, dim: int, seed: int) -> Vectors:
    vectors = np.random.default_rng(seed).normal(size=(num, dim)).astype(np.float32)
    unit: Vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return unit


def recall_of(value: float, num_pairs: int = 500) -> CanaryFigures:
    return CanaryFigures(num_pairs, 0.1, value, 0.1, value)


def test_the_figures_equal_a_count_by_hand() -> None:
    images, texts = unit(40, 6, 0), unit(40, 6, 1)
    found = canary_figures(images, texts)
    scores = texts @ images.T
    ranks = [int((scores[i] > scores[i, i]).sum()) for i in range(40)]
    assert found.text_to_image_recall_at_1 == sum(rank < 1 for rank in ranks) / 40
    assert found.text_to_image_recall_at_10 == sum(rank < 10 for rank in ranks) / 40
    back = [int((scores[:, i] > scores[i, i]).sum()) for i in range(40)]
    assert found.image_to_text_recall_at_10 == pytest.approx(sum(rank < 10 for rank in back) / 40)
    assert found.recall_at_10 == (found.text_to_image_recall_at_10 + found.image_to_text_recall_at_10) / 2


def test_a_collapsed_encoder_scores_chance() -> None:
    same = np.repeat(unit(1, 6, 0), 50, axis=0)
    assert canary_figures(same, same).values() == {
        "canary_text_to_image_recall_at_1": 0.02,
        "canary_text_to_image_recall_at_10": 0.2,
        "canary_image_to_text_recall_at_1": 0.02,
        "canary_image_to_text_recall_at_10": 0.2,
    }


def test_a_fall_is_said_once_and_again_after_a_recovery() -> None:
    canary = Canary()
    said = [canary.see(step, recall_of(value)) for step, value in enumerate([0.6, 0.8, 0.5, 0.4, 0.81, 0.3])]
    assert [bool(sentence) for sentence in said] == [False, False, True, False, False, True]
    assert said[2] is not None
    assert "0.800 after step 1" in said[2]
    assert "0.500 after step 2" in said[2]


def test_noise_is_not_a_fall() -> None:
    canary = Canary()
    canary.see(0, recall_of(0.5, num_pairs=100))
    assert canary.see(1, recall_of(0.36, num_pairs=100)) is None  # three standard errors are 0.15
    assert canary.see(2, recall_of(0.34, num_pairs=100)) is not None
    perfect = Canary()
    perfect.see(0, recall_of(1.0))
    assert perfect.see(1, recall_of(0.985)) is None


def test_the_start_counts_so_that_forgetting_is_seen() -> None:
    canary = Canary()
    canary.see(0, recall_of(0.9))
    assert canary.see(100, recall_of(0.5)) is not None


def test_a_resumed_canary_remembers() -> None:
    first, again = Canary(), Canary()
    first.see(0, recall_of(0.9))
    again.load_state_dict(first.state_dict())
    assert again.see(100, recall_of(0.5)) == first.see(100, recall_of(0.5))
