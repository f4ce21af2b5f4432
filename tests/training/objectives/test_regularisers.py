"""Each regulariser against its formula, and that a step down its gradient does what it is for."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F

from tests.training.objectives import naive
from training.objectives import ObjectiveSettings, Pairs, covariance_gap, diversity_loss, make_loss, modality_gap


@pytest.mark.parametrize("chunk_size", [None, 4])
def test_diversity_is_wang_and_isolas_uniformity(chunk_size: int | None) -> None:
    vectors = naive.unit_rows(11, 6, 1).requires_grad_()
    found = diversity_loss(vectors, chunk_size=chunk_size)
    expected = torch.pdist(vectors.detach(), p=2).square().mul(-2).exp().mean().log()
    assert float(found.detach()) == pytest.approx(float(expected), rel=1e-12)
    assert torch.autograd.gradcheck(lambda v: diversity_loss(v, chunk_size=chunk_size), (vectors,))


def test_diversity_of_one_point_is_0_and_of_one_vector_too() -> None:
    assert float(diversity_loss(naive.unit_rows(1, 6, 1).expand(5, -1))) == pytest.approx(0.0, abs=1e-12)
    assert float(diversity_loss(naive.unit_rows(1, 6, 1))) == 0.0


def test_gaps_follow_their_formulas() -> None:
    images, texts = naive.unit_rows(9, 5, 1), naive.unit_rows(12, 5, 2)
    assert float(modality_gap(images, texts)) == pytest.approx(float((images.mean(0) - texts.mean(0)).norm() ** 2))
    assert float(modality_gap(images, images)) == 0.0
    assert float(covariance_gap(images, images)) == 0.0
    assert float(covariance_gap(images, images + 3.0)) == pytest.approx(0.0, abs=1e-12)  # a shift is no change of form
    assert float(covariance_gap(images[:1], texts[:1])) == 0.0


def _crowded(seed: int) -> torch.Tensor:
    """Vectors of one cone: what a collapsing encoder gives."""
    return F.normalize(0.3 * naive.unit_rows(32, 16, seed) + naive.unit_rows(1, 16, seed + 100), dim=1)


_QUANTITIES: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "diversity": lambda images, texts: diversity_loss(images) + diversity_loss(texts),
    "modality_gap": modality_gap,
    "covariance_gap": covariance_gap,
}


@pytest.mark.parametrize("name", list(_QUANTITIES))
def test_a_step_down_the_gradient_lowers_it(name: str) -> None:
    quantity = _QUANTITIES[name]
    images, texts = _crowded(1).requires_grad_(), _crowded(2).requires_grad_()
    before = quantity(images, texts)
    of_images, of_texts = torch.autograd.grad(before, (images, texts))
    assert float(of_images.norm()) > 1e-3  # a gradient that says something
    rate = 0.05 / float(of_images.norm())
    moved = (F.normalize(v.detach() - rate * g, dim=1) for v, g in ((images, of_images), (texts, of_texts)))
    assert float(quantity(*moved)) < float(before.detach()) - 1e-4


@pytest.mark.parametrize("chunk_size", [None, 16])
@pytest.mark.parametrize("name", list(_QUANTITIES))
def test_the_loss_adds_it_by_its_factor(name: str, chunk_size: int | None) -> None:
    given = naive.leaves(20, 24)
    settings = ObjectiveSettings.model_validate({"chunk_size": chunk_size, "regularisers": {name: 0.3}})
    found = naive.value_and_gradients(make_loss(settings, kind="softmax"), given)

    def formula(pairs: Pairs) -> torch.Tensor:
        own = _QUANTITIES[name](pairs.images, pairs.texts[:20])
        return naive.softmax(pairs) + 0.3 * (0.5 * own if name == "diversity" else own)

    naive.assert_same(found, naive.value_and_gradients(formula, given), 1e-12)
    assert set(make_loss(settings, kind="softmax")(Pairs(**given)).parts) == {"contrast", name}  # type: ignore[arg-type]
