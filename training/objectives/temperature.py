"""The logit scale over a run: learned, held, or moved on a schedule; and its bounds."""

from __future__ import annotations

import math

import torch
from torch import nn

from training.objectives.settings import Kind, TemperatureSettings


class Temperature:
    """Steers the parameter ``logit_scale`` of a model, the logarithm of the factor on inner products.

    A learnable scale is clamped after each step. CLIP's bounds, 1 and 100, hold for softmax models only: pretrained
    SigLIP stands at 112, and clamping it, as open_clip does with every model (#746), changes its probabilities at the
    first step even at a learning rate of 0. For the same reason a scale that starts outside the bounds keeps its place.

    Make it before a checkpoint is restored: the bounds come from where the model starts.
    """

    def __init__(self, settings: TemperatureSettings, model: nn.Module, *, kind: Kind, num_steps: int) -> None:
        self._settings, self._num_steps = settings, num_steps
        parameter = _logit_scale(model)
        if settings.initial_scale is not None:
            _fill(parameter, math.log(settings.initial_scale))
        self._start = float(parameter.detach().mean())
        if settings.mode != "learnable":
            parameter.requires_grad_(False)
        lowest, highest = settings.min_scale, settings.max_scale
        if kind == "softmax":
            lowest, highest = lowest or 1.0, highest or 100.0
        self._lowest = -math.inf if lowest is None else min(math.log(lowest), self._start)
        self._highest = math.inf if highest is None else max(math.log(highest), self._start)

    def before_step(self, model: nn.Module, step: int) -> None:
        """Put a scheduled scale where it belongs at a step, counted from 0; the last step has ``final_scale``."""
        final = self._settings.final_scale
        if self._settings.mode != "scheduled" or final is None:
            return
        progress = min(1.0, step / max(1, self._num_steps - 1))
        _fill(_logit_scale(model), self._start + progress * (math.log(final) - self._start))

    @torch.no_grad()
    def clamp(self, model: nn.Module) -> None:
        """Bring a learnable scale back into its bounds after a step."""
        bounded = math.isfinite(self._lowest) or math.isfinite(self._highest)
        if self._settings.mode == "learnable" and bounded:
            _logit_scale(model).clamp_(self._lowest, self._highest)


def _logit_scale(model: nn.Module) -> nn.Parameter:
    parameter = model.logit_scale
    assert isinstance(parameter, nn.Parameter)
    return parameter


@torch.no_grad()
def _fill(parameter: nn.Parameter, value: float) -> None:
    parameter.fill_(value)
