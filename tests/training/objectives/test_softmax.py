"""The softmax loss against open_clip's and against its formula written as loops."""

from __future__ import annotations

import pytest
import torch
from open_clip.loss import ClipLoss

from tests.training.objectives import naive
from training.objectives import ObjectiveSettings, Pairs, make_loss

_SIZES = [2, 7, 64, 257]


def _open_clip(pairs: Pairs) -> torch.Tensor:
    found: torch.Tensor = ClipLoss()(pairs.images, pairs.texts, pairs.logit_scale, pairs.logit_bias)
    return found


@pytest.mark.parametrize("size", _SIZES)
@pytest.mark.parametrize("chunk_size", [None, 16, 100])
@pytest.mark.parametrize("bias", [None, -3.0])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-6)])
def test_is_open_clips(
    size: int, chunk_size: int | None, bias: float | None, dtype: torch.dtype, tolerance: float
) -> None:
    given = naive.leaves(size, size, dtype=dtype, bias=bias)
    loss = make_loss(ObjectiveSettings(chunk_size=chunk_size), kind="softmax")
    found = naive.value_and_gradients(loss, given)
    expected = naive.value_and_gradients(_open_clip, given)
    naive.assert_same(found, expected, tolerance)


def test_float32_holds_at_the_highest_scale() -> None:
    given = naive.leaves(64, 64, dtype=torch.float32, scale=100.0)
    exact = {name: tensor.detach().double() for name, tensor in given.items()}
    loss = make_loss(ObjectiveSettings(chunk_size=16), kind="softmax")
    ours = naive.value_and_gradients(loss, given)
    naive.assert_same(ours, naive.value_and_gradients(_open_clip, exact), 2e-5)


@pytest.mark.parametrize("size", _SIZES)
@pytest.mark.parametrize("multi_positive", ["out", "in"])
@pytest.mark.parametrize("chunk_size", [None, 16])
def test_one_positive_each_is_infonce(size: int, multi_positive: str, chunk_size: int | None) -> None:
    given = naive.leaves(size, size)
    loss = make_loss(ObjectiveSettings(multi_positive=multi_positive, chunk_size=chunk_size), kind="softmax")  # type: ignore[arg-type]
    found = naive.value_and_gradients(loss, given, positives=torch.eye(size, dtype=torch.bool))
    naive.assert_same(found, naive.value_and_gradients(_open_clip, given), 1e-12)


def _positives(num_images: int, num_texts: int, seed: int) -> torch.Tensor:
    """Some pictures with several texts, picture 0 and the last text with none."""
    drawn = torch.rand(num_images, num_texts, generator=torch.Generator().manual_seed(seed)) < 0.2
    mask = drawn | torch.eye(num_images, num_texts, dtype=torch.bool)
    mask[0, :] = False
    mask[:, -1] = False
    return mask


@pytest.mark.parametrize("multi_positive", ["out", "in"])
@pytest.mark.parametrize("chunk_size", [None, 16])
@pytest.mark.parametrize("weighted", [False, True])
def test_several_positives_follow_the_formula(multi_positive: str, chunk_size: int | None, weighted: bool) -> None:
    given = naive.leaves(18, 25)
    mask = _positives(18, 25, seed=4)
    weights = torch.rand(18, 25, generator=torch.Generator().manual_seed(5), dtype=torch.float64) if weighted else None
    if weights is not None:
        weights[3, :] = 0.0  # a picture with nothing of relevance
    loss = make_loss(ObjectiveSettings(multi_positive=multi_positive, chunk_size=chunk_size), kind="softmax")  # type: ignore[arg-type]
    found = naive.value_and_gradients(loss, given, positives=mask, weights=weights)
    expected = naive.value_and_gradients(
        lambda pairs: naive.softmax(pairs, inside=multi_positive == "in"), given, positives=mask, weights=weights
    )
    naive.assert_same(found, expected, 1e-12)


@pytest.mark.parametrize("multi_positive", ["out", "in"])
def test_no_positives_at_all_are_a_loss_of_nothing(multi_positive: str) -> None:
    given = naive.leaves(5, 5)
    loss = make_loss(ObjectiveSettings(multi_positive=multi_positive), kind="softmax")  # type: ignore[arg-type]
    found = naive.value_and_gradients(loss, given, positives=torch.zeros(5, 5, dtype=torch.bool))
    assert all(bool((tensor == 0).all()) for tensor in found.values())


@pytest.mark.parametrize("mask", [None, torch.eye(9, dtype=torch.bool)])
def test_equal_weights_are_no_weights(mask: torch.Tensor | None) -> None:
    given = naive.leaves(9, 9)
    weights = torch.full((9, 9), 0.4, dtype=torch.float64)
    loss = make_loss(ObjectiveSettings(), kind="softmax")
    found = naive.value_and_gradients(loss, given, positives=mask, weights=weights)
    naive.assert_same(found, naive.value_and_gradients(_open_clip, given), 1e-12)


def test_a_pair_of_weight_0_is_a_negative_and_nothing_else() -> None:
    given = naive.leaves(6, 6)
    weights = torch.ones(6, 6, dtype=torch.float64)
    weights[2, 2] = 0.0
    found = naive.value_and_gradients(make_loss(ObjectiveSettings(), kind="softmax"), given, weights=weights)
    expected = naive.value_and_gradients(naive.softmax, given, weights=weights)
    naive.assert_same(found, expected, 1e-12)
    logits = (given["logit_scale"] * given["images"] @ given["texts"].T).detach()
    terms = -(logits.log_softmax(1).diagonal() + logits.log_softmax(0).diagonal()) / 2
    assert float(found["loss"]) == pytest.approx(float(terms[[0, 1, 3, 4, 5]].mean()), rel=1e-12)


def test_supplied_negatives_stand_in_the_pictures_denominators_only() -> None:
    given = naive.leaves(8, 13)
    loss = make_loss(ObjectiveSettings(chunk_size=16), kind="softmax")
    found = naive.value_and_gradients(loss, given)
    logits = (given["logit_scale"] * given["images"] @ given["texts"].T).detach()
    of_pictures = torch.nn.functional.cross_entropy(logits, torch.arange(8))
    of_texts = torch.nn.functional.cross_entropy(logits[:, :8].T, torch.arange(8))
    assert float(found["loss"]) == pytest.approx(float(of_pictures + of_texts) / 2, rel=1e-12)
    naive.assert_same(found, naive.value_and_gradients(naive.softmax, given), 1e-12)


@pytest.mark.parametrize("chunk_size", [None, 16])
def test_extras_stand_in_both_denominators_without_gradient(chunk_size: int | None) -> None:
    given = naive.leaves(20, 20)
    extras = {
        "extra_texts": naive.unit_rows(33, 16, 8).requires_grad_(),
        "extra_images": naive.unit_rows(5, 16, 9),
    }
    loss = make_loss(ObjectiveSettings(chunk_size=chunk_size), kind="softmax")
    found = naive.value_and_gradients(loss, given, **extras)
    naive.assert_same(found, naive.value_and_gradients(naive.softmax, given, **extras), 1e-12)


@pytest.mark.parametrize("chunk_size", [None, 16])
def test_no_extras_are_the_plain_loss(chunk_size: int | None) -> None:
    given = naive.leaves(20, 20)
    nothing = torch.zeros(0, 16, dtype=torch.float64)
    loss = make_loss(ObjectiveSettings(chunk_size=chunk_size), kind="softmax")
    found = naive.value_and_gradients(loss, given, extra_texts=nothing, extra_images=nothing)
    naive.assert_same(found, naive.value_and_gradients(_open_clip, given), 1e-12)


def test_accumulating_in_parts_would_multiply_the_scales_gradient() -> None:
    """open_clip's --accum-freq calls backward once for each part, each with the whole loss (#761, #957): every part
    brings the whole gradient of the scale. One backward of the whole loss, as here, brings it once."""
    given = naive.leaves(8, 8)
    whole = naive.value_and_gradients(make_loss(ObjectiveSettings(chunk_size=16), kind="softmax"), given)
    scale = given["logit_scale"].detach().clone().requires_grad_()
    for part in range(4):
        own = slice(2 * part, 2 * part + 2)
        images, texts = given["images"].detach().clone(), given["texts"].detach().clone()
        some = images[own].requires_grad_()
        images = torch.cat([images[: own.start], some, images[own.stop :]])
        ClipLoss()(images, texts, scale).backward()
        assert some.grad is not None
        assert torch.allclose(some.grad, whole["images"][own], rtol=1e-12, atol=1e-15)
    assert scale.grad is not None
    assert float(scale.grad / whole["logit_scale"]) == pytest.approx(4.0, rel=1e-12)


def test_half_precision_vectors_are_computed_in_float32() -> None:
    given = naive.leaves(9, 9, dtype=torch.float32)
    halves = {name: tensor.detach().bfloat16() for name, tensor in given.items()}
    widened = {name: tensor.float() for name, tensor in halves.items()}
    loss = make_loss(ObjectiveSettings(chunk_size=16), kind="softmax")
    mixed = Pairs(halves["images"], halves["texts"], widened["logit_scale"])
    assert torch.equal(loss(mixed).total, loss(Pairs(**widened)).total)  # type: ignore[arg-type]
