"""Label smoothing against torch's cross_entropy, and its rules where torch has none."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from open_clip.loss import ClipLoss

from tests.training.objectives import naive
from training.objectives import ObjectiveSettings, Pairs, make_loss


def _loss(smoothing: float, **more: object) -> torch.nn.Module:
    return make_loss(ObjectiveSettings.model_validate({"label_smoothing": smoothing, **more}), kind="softmax")


def _cross_entropy(pairs: Pairs, smoothing: float) -> torch.Tensor:
    logits = pairs.logit_scale * pairs.images @ pairs.texts.T
    own = torch.arange(len(logits))
    of_pictures, of_texts = (F.cross_entropy(side, own, label_smoothing=smoothing) for side in (logits, logits.T))
    return 0.5 * (of_pictures + of_texts)


def _formula(pairs: Pairs, smoothing: float, denominators: torch.Tensor | None = None) -> torch.Tensor:
    """Row by row with targets written out; ``denominators`` [2, B, T] are 0 where a logit is left out of them."""
    logits = pairs.logit_scale * pairs.images @ pairs.texts.T
    weights = naive.positives_of(pairs).to(logits.dtype)
    belongs = weights.any(0).to(logits.dtype)
    if pairs.weights is not None:
        weights = weights * pairs.weights
    sides = [
        (logits, weights, naive.positives_of(pairs), belongs, pairs.images, pairs.extra_texts),
        (
            logits.T,
            weights.T,
            naive.positives_of(pairs).T,
            logits.new_ones(len(logits)),
            pairs.texts,
            pairs.extra_images,
        ),
    ]
    found = []
    for side, (some, graded, mask, shared, vectors, extras) in enumerate(sides):
        total, says = some.new_zeros(()), some.new_zeros(())
        for row in range(len(some)):
            if not float(graded[row].sum()):
                continue
            target = (1 - smoothing) * graded[row] / graded[row].sum() + smoothing * shared / shared.sum()
            assert float(target.sum()) == pytest.approx(1.0)
            compared = some[row]
            if denominators is not None:
                compared = compared[(denominators[0] if side == 0 else denominators[1].T)[row] > 0]
            if extras is not None:
                compared = torch.cat([compared, pairs.logit_scale * extras @ vectors[row]])
            say = graded[row].sum() / mask[row].sum()
            total, says = total + say * (compared.logsumexp(0) - target @ some[row]), says + say
        found.append(total / says)
    return 0.5 * (found[0] + found[1])


@pytest.mark.parametrize("size", [2, 7, 64])
@pytest.mark.parametrize("chunk_size", [None, 16])
@pytest.mark.parametrize("smoothing", [0.1, 0.6])
@pytest.mark.parametrize("bias", [None, -3.0])
def test_is_torchs(size: int, chunk_size: int | None, smoothing: float, bias: float | None) -> None:
    given = naive.leaves(size, size, bias=bias)
    found = naive.value_and_gradients(_loss(smoothing, chunk_size=chunk_size), given)
    expected = naive.value_and_gradients(lambda pairs: _cross_entropy(pairs, smoothing), given)
    naive.assert_same(found, expected, 1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_none_is_the_plain_loss_bit_for_bit(dtype: torch.dtype) -> None:
    given = naive.leaves(33, 33, dtype=dtype)
    found = naive.value_and_gradients(_loss(0.0), given)
    expected = naive.value_and_gradients(lambda p: ClipLoss()(p.images, p.texts, p.logit_scale), given)
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize("chunk_size", [None, 16])
@pytest.mark.parametrize("weighted", [False, True])
def test_several_positives_share_what_smoothing_leaves(chunk_size: int | None, weighted: bool) -> None:
    given = naive.leaves(18, 25)
    generator = torch.Generator().manual_seed(3)
    mask = (torch.rand(18, 25, generator=generator) < 0.2) | torch.eye(18, 25, dtype=torch.bool)
    mask[0, :] = False  # a picture of which nothing is known
    mask[:, -2:] = False  # two supplied negatives: they are known to be wrong, and get nothing
    weights = torch.rand(18, 25, generator=generator, dtype=torch.float64) if weighted else None
    found = naive.value_and_gradients(_loss(0.1, chunk_size=chunk_size), given, positives=mask, weights=weights)
    expected = naive.value_and_gradients(lambda p: _formula(p, 0.1), given, positives=mask, weights=weights)
    naive.assert_same(found, expected, 1e-12)


@pytest.mark.parametrize("chunk_size", [None, 16])
def test_supplied_negatives_and_a_queue_stand_in_denominators_alone(chunk_size: int | None) -> None:
    given = naive.leaves(18, 23)
    extras = {"extra_texts": naive.unit_rows(9, 16, 5), "extra_images": naive.unit_rows(9, 16, 6)}
    found = naive.value_and_gradients(_loss(0.1, chunk_size=chunk_size), given, **extras)
    naive.assert_same(found, naive.value_and_gradients(lambda p: _formula(p, 0.1), given, **extras), 1e-12)


@pytest.mark.parametrize("chunk_size", [None, 16])
def test_a_negative_that_is_left_out_keeps_its_share(chunk_size: int | None) -> None:
    given = naive.leaves(20, 20)
    ids = torch.arange(20) // 2  # each caption twice
    others = ids[:, None] == ids[None, :]
    kept = (~others | torch.eye(20, dtype=torch.bool)).double()
    loss = _loss(0.1, chunk_size=chunk_size, hard_negatives={"guard_equal_texts": True})
    found = naive.value_and_gradients(loss, given, text_ids=ids)
    expected = naive.value_and_gradients(lambda p: _formula(p, 0.1, torch.stack([kept, kept])), given, text_ids=ids)
    naive.assert_same(found, expected, 1e-12)


def test_pictures_without_positives_give_a_loss_of_nothing() -> None:
    found = naive.value_and_gradients(_loss(0.1), naive.leaves(5, 5), positives=torch.zeros(5, 5, dtype=torch.bool))
    assert all(bool((tensor == 0).all()) for tensor in found.values())


def test_a_teachers_targets_are_not_smoothed() -> None:
    given, teacher = naive.leaves(12, 12), naive.leaves(12, 12, seed=9)
    taught = {f"teacher_{name}": tensor.detach() for name, tensor in teacher.items()}
    mixed = _loss(0.1, distillation={"alpha": 0.4})(Pairs(**given, **taught))  # type: ignore[arg-type]
    alone = _loss(0.0, distillation={"alpha": 1.0})(Pairs(**given, **taught)).total  # type: ignore[arg-type]
    contrast = _cross_entropy(Pairs(**given), 0.1)  # type: ignore[arg-type]
    assert float(mixed.total.detach()) == pytest.approx(float((0.6 * contrast + 0.4 * alone).detach()), rel=1e-12)
    assert float(mixed.parts["contrast"]) == pytest.approx(float(contrast.detach()), rel=1e-12)
