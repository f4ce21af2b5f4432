"""The adversary and the encoders pull in opposite directions."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from sightline.errors import RecipeError
from tests.training.objectives import naive
from training.objectives import Adversary, ObjectiveSettings, Pairs, make_loss, reverse_gradient


def _apart() -> tuple[torch.Tensor, torch.Tensor]:
    """Two clouds with a gap between them."""
    shift = naive.unit_rows(1, 8, 7)
    return (
        F.normalize(naive.unit_rows(64, 8, 1) + 0.4 * shift, dim=1).float(),
        F.normalize(naive.unit_rows(64, 8, 2) - 0.4 * shift, dim=1).float(),
    )


def _adversary(strength: float = 1.0) -> Adversary:
    torch.manual_seed(0)
    return Adversary(8, width=16, strength=strength)


def test_reversal_is_the_identity_forwards_and_minus_the_strength_backwards() -> None:
    vectors = naive.unit_rows(3, 4, 1).requires_grad_()
    seen = reverse_gradient(vectors, 0.7)
    assert torch.equal(seen, vectors)
    (plain,) = torch.autograd.grad(vectors.pow(3).sum(), vectors)
    (reversed_,) = torch.autograd.grad(reverse_gradient(vectors, 0.7).pow(3).sum(), vectors)
    assert torch.allclose(reversed_, -0.7 * plain, rtol=1e-14)


def test_reversed_gradients_are_minus_the_finite_differences() -> None:
    adversary = _adversary(strength=0.5).double()
    images, texts = (part.double() for part in _apart())
    images = images[:3].clone().requires_grad_()
    (found,) = torch.autograd.grad(adversary(images, texts), images)
    step = 1e-6
    for row, column in ((0, 0), (2, 5)):
        moved = [images.detach().clone() for _ in range(2)]
        moved[0][row, column] += step
        moved[1][row, column] -= step
        with torch.no_grad():
            slope = float(adversary(moved[0], texts) - adversary(moved[1], texts)) / (2 * step)
        assert float(found[row, column]) == pytest.approx(-0.5 * slope, rel=1e-5)


def test_the_adversarys_step_lowers_the_loss_and_the_encoders_step_raises_it() -> None:
    adversary = _adversary()
    images, texts = (part.requires_grad_() for part in _apart())
    for _ in range(50):  # until it knows something
        _descend(adversary, adversary(images, texts), 1.0)
    loss = adversary(images, texts)
    parameters = list(adversary.parameters())
    of_images, of_texts, *of_parameters = torch.autograd.grad(loss, (images, texts, *parameters))
    with torch.no_grad():
        rate = 0.5 / float(of_images.norm())
        encoders_moved = adversary(images - rate * of_images, texts - rate * of_texts)
        for parameter, gradient in zip(parameters, of_parameters, strict=True):
            parameter.sub_(0.1 * gradient)
        adversary_moved = adversary(images, texts)
    assert float(adversary_moved) < float(loss.detach()) < float(encoders_moved)


def _descend(adversary: Adversary, loss: torch.Tensor, rate: float) -> None:
    parameters = list(adversary.parameters())
    for parameter, gradient in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
        parameter.data -= rate * gradient


def test_it_learns_to_tell_clouds_apart_but_not_one_cloud() -> None:
    images, texts = _apart()
    told_apart, same = _adversary(), _adversary()
    for _ in range(300):
        _descend(told_apart, told_apart(images, texts), 1.0)
        _descend(same, same(images, images), 1.0)
    assert float(told_apart(images, texts).detach()) < 0.4
    assert float(same(images, images).detach()) == pytest.approx(math.log(2), abs=1e-3)


def test_it_joins_the_loss_with_its_own_parameters() -> None:
    given = naive.leaves(6, 8, dim=8, dtype=torch.float32)
    settings = ObjectiveSettings.model_validate({"adversary": {"strength": 0.2, "width": 4}})
    loss = make_loss(settings, kind="softmax", dim=8)
    names = {name for name, _ in loss.named_parameters()}
    assert names and all(name.startswith("adversary.") for name in names)
    found = loss(Pairs(**given))  # type: ignore[arg-type]
    assert set(found.parts) == {"contrast", "adversary"}
    found.total.backward()
    assert all(parameter.grad is not None for parameter in loss.parameters())
    assert not list(make_loss(ObjectiveSettings(), kind="softmax", dim=8).parameters())


def test_it_needs_to_know_the_dimension() -> None:
    with pytest.raises(RecipeError, match="strength"):
        make_loss(ObjectiveSettings.model_validate({"adversary": {"strength": 0.2}}), kind="softmax")
