"""Weighing negatives: against loops, and what it is for."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from tests.training.objectives import naive
from training.objectives import Kind, ObjectiveSettings, Pairs, make_loss

_SETTINGS = [
    {"hardness": 6.0},
    {"guard_margin": 0.05},
    {"guard_equal_texts": True},
    {"hardness": 3.0, "guard_margin": 0.0, "guard_equal_texts": True},
]


def _reference(kind: Kind, settings: dict[str, object]) -> Callable[[Pairs], torch.Tensor]:
    def loss(pairs: Pairs) -> torch.Tensor:
        negatives = naive.weights_of_negatives(
            pairs,
            hardness=float(settings.get("hardness", 0.0)),  # type: ignore[arg-type]
            margin=settings.get("guard_margin"),  # type: ignore[arg-type]
            equal_texts=bool(settings.get("guard_equal_texts", False)),
        )
        return (
            naive.softmax(pairs, negatives=negatives)
            if kind == "softmax"
            else naive.sigmoid(pairs, negatives=negatives)
        )

    return loss


@pytest.mark.parametrize("kind", ["softmax", "sigmoid"])
@pytest.mark.parametrize("settings", _SETTINGS, ids=str)
@pytest.mark.parametrize("chunk_size", [None, 16])
@pytest.mark.parametrize("masked", [False, True])
def test_follow_the_formula(kind: Kind, settings: dict[str, object], chunk_size: int | None, masked: bool) -> None:
    given = naive.leaves(20, 27, scale=10.0, bias=-3.0, dim=5)  # few dimensions: some negatives beat positives
    generator = torch.Generator().manual_seed(4)
    more: dict[str, object] = {"text_ids": torch.randint(0, 12, (27,), generator=generator)}
    if masked:
        mask = (torch.rand(20, 27, generator=generator) < 0.1) | torch.eye(20, 27, dtype=torch.bool)
        mask[0, :] = False
        more["positives"] = mask
    whole = ObjectiveSettings.model_validate({"chunk_size": chunk_size, "hard_negatives": settings})
    found = naive.value_and_gradients(make_loss(whole, kind=kind), given, **more)
    naive.assert_same(found, naive.value_and_gradients(_reference(kind, settings), given, **more), 1e-12)


@pytest.mark.parametrize("kind", ["softmax", "sigmoid"])
def test_a_vanishing_hardness_is_the_plain_loss(kind: Kind) -> None:
    given = naive.leaves(12, 12, scale=10.0, bias=-3.0)
    settings = ObjectiveSettings.model_validate({"hard_negatives": {"hardness": 1e-13}})
    found = naive.value_and_gradients(make_loss(settings, kind=kind), given)
    plain = naive.value_and_gradients(make_loss(ObjectiveSettings(), kind=kind), given)
    naive.assert_same(found, plain, 1e-11)


def test_hardness_moves_the_gradient_to_the_nearest_negative() -> None:
    """Of two negatives the nearer one gets a larger share of the push."""
    images = torch.tensor([[1.0, 0.0, 0.0]], dtype=torch.float64)
    texts = torch.tensor([[1.0, 0, 0], [0.8, 0.6, 0], [0.1, 0, 0.995]], dtype=torch.float64)

    def shares(hardness: float) -> float:
        moved = texts.clone().requires_grad_()
        settings = ObjectiveSettings.model_validate({"hard_negatives": {"hardness": hardness}})
        make_loss(settings, kind="softmax")(
            Pairs(images, moved, torch.tensor(2.0, dtype=torch.float64))
        ).total.backward()
        assert moved.grad is not None
        pushes = moved.grad[1:].norm(dim=1)
        return float(pushes[0] / pushes.sum())

    assert shares(0.0) < shares(2.0) < shares(8.0)


@pytest.mark.parametrize("kind", ["softmax", "sigmoid"])
@pytest.mark.parametrize("settings", [{"guard_margin": 0.05}, {"guard_equal_texts": True}], ids=str)
def test_a_false_negative_is_not_pushed_away(kind: Kind, settings: dict[str, object]) -> None:
    """Text 2 is a second caption of picture 0 that nobody marked; in row and column 0 it is left alone."""
    images = naive.unit_rows(2, 8, 1)
    texts = torch.stack([images[0] + 0.8 * naive.unit_rows(1, 8, 5)[0], images[1], images[0]])
    texts = torch.nn.functional.normalize(texts, dim=1).requires_grad_()
    whole = ObjectiveSettings.model_validate({"hard_negatives": settings})
    scale, bias = torch.tensor(5.0, dtype=torch.float64), torch.tensor(-2.0, dtype=torch.float64)
    pairs = Pairs(images[:1], texts, scale, bias, text_ids=torch.tensor([7, 8, 7]))
    make_loss(whole, kind=kind)(pairs).total.backward()
    assert texts.grad is not None
    push = float(texts.grad[2] @ images[0])
    if kind == "softmax":
        assert push == 0
    else:  # a sigmoid's pair is guarded by each direction for its half; text 2 has no picture of its own to judge by
        assert push >= 0
        unguarded = texts.detach().clone().requires_grad_()
        make_loss(ObjectiveSettings(), kind=kind)(Pairs(images[:1], unguarded, scale, bias)).total.backward()
        assert unguarded.grad is not None
        assert push <= 0.5 * float(unguarded.grad[2] @ images[0]) + 1e-12


def test_extras_are_guarded_too() -> None:
    given = naive.leaves(6, 6)
    loss = make_loss(ObjectiveSettings.model_validate({"hard_negatives": {"guard_equal_texts": True}}), kind="softmax")
    ids = torch.arange(6)
    same = {"extra_texts": naive.unit_rows(2, 16, 8), "extra_images": naive.unit_rows(2, 16, 9)}
    alone = naive.value_and_gradients(loss, given, text_ids=ids)
    for positives in (None, torch.eye(6, dtype=torch.bool)):
        some = naive.value_and_gradients(
            loss, given, text_ids=ids, positives=positives, **same, extra_ids=torch.tensor([3, 99])
        )
        unguarded = naive.value_and_gradients(
            loss, given, text_ids=ids, positives=positives, **same, extra_ids=torch.tensor([98, 99])
        )
        assert float(alone["loss"]) < float(some["loss"]) < float(unguarded["loss"])


def test_harder_extras_weigh_more_and_all_weights_sum_to_their_number() -> None:
    """With every negative at one score hardness changes nothing, extras included."""
    images = torch.eye(4, 8, dtype=torch.float64)
    extras = torch.eye(8, dtype=torch.float64)[5:7]
    pairs = Pairs(
        images, images.clone(), torch.tensor(3.0, dtype=torch.float64), extra_texts=extras, extra_images=extras
    )
    hard = make_loss(ObjectiveSettings.model_validate({"hard_negatives": {"hardness": 9.0}}), kind="softmax")
    plain = make_loss(ObjectiveSettings(), kind="softmax")
    assert float(hard(pairs).total) == pytest.approx(float(plain(pairs).total), rel=1e-12)


def test_the_guard_of_equal_texts_asks_for_ids() -> None:
    loss = make_loss(ObjectiveSettings.model_validate({"hard_negatives": {"guard_equal_texts": True}}), kind="softmax")
    vectors = naive.unit_rows(3, 4, 0)
    with pytest.raises(ValueError, match="text_ids"):
        loss(Pairs(vectors, vectors, torch.tensor(1.0)))
