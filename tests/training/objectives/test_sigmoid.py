"""The sigmoid loss against open_clip's and against its formula written plainly."""

from __future__ import annotations

import math

import pytest
import torch
from open_clip.loss import SigLipLoss

from tests.training.objectives import naive
from training.objectives import ObjectiveSettings, Pairs, initial_bias, make_loss


def _open_clip(pairs: Pairs) -> torch.Tensor:
    found: torch.Tensor = SigLipLoss()(pairs.images, pairs.texts, pairs.logit_scale, pairs.logit_bias)
    return found


@pytest.mark.parametrize("size", [2, 7, 64, 257])
@pytest.mark.parametrize("chunk_size", [None, 16, 100])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-6)])
def test_is_open_clips(size: int, chunk_size: int | None, dtype: torch.dtype, tolerance: float) -> None:
    given = naive.leaves(size, size, dtype=dtype, scale=10.0, bias=initial_bias(size))
    loss = make_loss(ObjectiveSettings(chunk_size=chunk_size), kind="sigmoid")
    found = naive.value_and_gradients(loss, given)
    naive.assert_same(found, naive.value_and_gradients(_open_clip, given), tolerance)


@pytest.mark.parametrize("chunk_size", [None, 16])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("extras", [False, True])
def test_masks_weights_and_extras_follow_the_formula(chunk_size: int | None, weighted: bool, extras: bool) -> None:
    given = naive.leaves(18, 25, scale=10.0, bias=-3.0)
    generator = torch.Generator().manual_seed(4)
    mask = (torch.rand(18, 25, generator=generator) < 0.2) | torch.eye(18, 25, dtype=torch.bool)
    mask[0, :] = False
    more: dict[str, object] = {"positives": mask}
    if weighted:
        more["weights"] = torch.rand(18, 25, generator=generator, dtype=torch.float64)
    if extras:
        more |= {"extra_texts": naive.unit_rows(33, 16, 8), "extra_images": naive.unit_rows(5, 16, 9)}
    loss = make_loss(ObjectiveSettings(chunk_size=chunk_size), kind="sigmoid")
    found = naive.value_and_gradients(loss, given, **more)
    naive.assert_same(found, naive.value_and_gradients(naive.sigmoid, given, **more), 1e-12)


def test_equal_weights_and_a_diagonal_mask_are_the_plain_loss() -> None:
    given = naive.leaves(9, 9, scale=10.0, bias=-2.0)
    loss = make_loss(ObjectiveSettings(), kind="sigmoid")
    weights = torch.full((9, 9), 0.4, dtype=torch.float64)
    for more in ({"positives": torch.eye(9, dtype=torch.bool)}, {"weights": weights}):
        found = naive.value_and_gradients(loss, given, **more)
        naive.assert_same(found, naive.value_and_gradients(_open_clip, given), 1e-12)


def test_the_bias_says_how_rare_positives_are() -> None:
    """At the start inner products are about 0, so that sigmoid(bias) is the probability given to every pair."""
    for size in (2, 64, 22_027):
        assert 1 / (1 + math.exp(-initial_bias(size))) == pytest.approx(1 / size)
    assert initial_bias(22_027) == pytest.approx(-10, abs=1e-4)
    assert initial_bias(1) == 0.0


def test_the_bias_for_the_batch_starts_at_half_the_loss() -> None:
    """Vectors that know nothing, at a batch of 64: 10.0 with the published -10, 5.2 with the fitting bias."""
    vectors = torch.zeros(64, 4)
    loss = make_loss(ObjectiveSettings(), kind="sigmoid")
    fitting = loss(Pairs(vectors, vectors, torch.tensor(10.0), torch.tensor(initial_bias(64)))).total
    published = loss(Pairs(vectors, vectors, torch.tensor(10.0), torch.tensor(-10.0))).total
    assert float(fitting) == pytest.approx(5.15, abs=0.01)
    assert float(published) == pytest.approx(10.0, abs=0.01)
