"""A running mean of the weights: a steadier model than the last step's, and a teacher for it (Tarvainen & Valpola
2017; ALBEF, Li et al. 2021)."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn


class Ema:
    """An exponential moving average of a model's weights and buffers.

    After n updates it holds d^n w₀ + (1 − d) Σ d^(n−i) wᵢ. Floating-point buffers (batch norm's statistics) are
    averaged like weights, because they describe what the averaged weights compute; whole numbers are copied.
    ``warm_up`` uses min(decay, (1 + n) / (10 + n)) at update n, so that the random start is forgotten even in a
    short run.
    Not thread-safe.
    """

    def __init__(self, model: nn.Module, decay: float, *, warm_up: bool = False) -> None:
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self.decay = decay
        self.warm_up = warm_up
        self.num_updates = 0

    def decay_at(self, update: int) -> float:
        """The decay of an update, counted from 0."""
        return min(self.decay, (1 + update) / (10 + update)) if self.warm_up else self.decay

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Move towards the model's present weights."""
        # The state has the buffers that are learnt and not those that are made anew, as a causal mask of infinities.
        pairs = [*zip(self.model.state_dict().values(), model.state_dict().values(), strict=True)]
        averaged = [(old, new) for old, new in pairs if old.is_floating_point()]
        weight = 1 - self.decay_at(self.num_updates)
        torch._foreach_lerp_([old for old, _ in averaged], [new for _, new in averaged], weight)
        for old, new in pairs:
            if not old.is_floating_point():
                old.copy_(new)
        self.num_updates += 1

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs."""
        return {"model": self.model.state_dict(), "num_updates": self.num_updates}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from ``state_dict``."""
        self.model.load_state_dict(state["model"])
        self.num_updates = int(state["num_updates"])
