from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from training.objectives import Kind, Temperature, TemperatureSettings


class _Model(nn.Module):
    def __init__(self, scale: float) -> None:
        super().__init__()
        self.logit_scale = nn.Parameter(torch.tensor(math.log(scale)))

    @property
    def scale(self) -> float:
        return math.exp(float(self.logit_scale.detach()))


def _temperature(model: _Model, kind: Kind = "softmax", num_steps: int = 11, **settings: object) -> Temperature:
    return Temperature(TemperatureSettings.model_validate(settings), model, kind=kind, num_steps=num_steps)


def _push(model: _Model, temperature: Temperature, scale: float) -> float:
    model.logit_scale.data.fill_(math.log(scale))
    temperature.clamp(model)
    return model.scale


def test_a_softmax_model_keeps_clips_bounds() -> None:
    model = _Model(14.3)
    temperature = _temperature(model)
    assert _push(model, temperature, 250.0) == pytest.approx(100.0)
    assert _push(model, temperature, 0.5) == pytest.approx(1.0)
    assert _push(model, temperature, 50.0) == pytest.approx(50.0)


def test_a_sigmoid_model_is_not_clamped_to_100() -> None:
    """Pretrained SigLIP SO400M stands at exp(4.7215) = 112.3; a step at a learning rate of 0 must leave it there
    (open_clip #746 clamps it to 100)."""
    model = _Model(1.0)
    model.logit_scale.data.fill_(4.7215)
    before = model.logit_scale.detach().clone()
    temperature = _temperature(model, "sigmoid")
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.0)
    model.logit_scale.sum().backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    temperature.clamp(model)
    assert torch.equal(model.logit_scale.detach(), before)
    assert _push(model, temperature, 150.0) == pytest.approx(150.0)


def test_a_model_that_starts_outside_keeps_its_place() -> None:
    model = _Model(112.3)
    temperature = _temperature(model)
    temperature.clamp(model)
    assert model.scale == pytest.approx(112.3)
    assert _push(model, temperature, 130.0) == pytest.approx(112.3)


def test_bounds_can_be_given() -> None:
    model = _Model(20.0)
    temperature = _temperature(model, "sigmoid", min_scale=5.0, max_scale=40.0)
    assert _push(model, temperature, 90.0) == pytest.approx(40.0)
    assert _push(model, temperature, 2.0) == pytest.approx(5.0)


def test_a_fixed_one_is_not_trained() -> None:
    model = _Model(14.3)
    temperature = _temperature(model, mode="fixed", initial_scale=20.0)
    temperature.before_step(model, 5)
    temperature.clamp(model)
    assert model.scale == pytest.approx(20.0)
    assert not model.logit_scale.requires_grad


def test_a_scheduled_one_moves_evenly_in_the_logarithm() -> None:
    model = _Model(14.3)
    temperature = _temperature(model, mode="scheduled", initial_scale=1.0, final_scale=1000.0, num_steps=4)
    seen = []
    for step in (0, 1, 2, 3, 9):
        temperature.before_step(model, step)
        temperature.clamp(model)
        seen.append(model.scale)
    assert seen == pytest.approx([1.0, 10.0, 100.0, 1000.0, 1000.0], rel=1e-5)
    assert not model.logit_scale.requires_grad


def test_a_scheduled_one_starts_where_the_model_stands() -> None:
    model = _Model(14.3)
    temperature = _temperature(model, mode="scheduled", final_scale=50.0)
    temperature.before_step(model, 0)
    assert model.scale == pytest.approx(14.3)


@pytest.mark.parametrize(
    "settings",
    [
        {"mode": "scheduled"},
        {"final_scale": 10.0},
        {"mode": "fixed", "max_scale": 10.0},
        {"min_scale": 10.0, "max_scale": 5.0},
        {"initial_scale": 0.0},
    ],
    ids=str,
)
def test_settings_that_contradict_themselves_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"scale|greater"):
        TemperatureSettings.model_validate(settings)
