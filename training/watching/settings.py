"""The ``[watch]`` table of a recipe: what is looked at during training, how often, and what ends a run."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class WatchSettings(BaseModel):
    """How a run is watched.

    ``figures_every_steps``: spread, effective rank, modality gap and cosines of the batch are taken at these steps.
    Loss, gradient norms and temperature are taken at each step.

    A run stops as collapsed after ``patience_steps`` steps below ``min_spread`` or ``min_effective_rank``, when it has
    learnt something, and below a fifth of ``min_spread`` before that (``training.watching.collapse`` has the
    measurements). 0 for either switches that rule off; ``stop_on_collapse = false`` turns the stop into a warning.

    The canary is retrieval on up to ``canary_pairs`` held-out pairs, each epoch or every ``canary_every_steps``. The
    trace for the explorer keeps up to ``trace_pairs`` of them, each epoch or every ``trace_every_steps``. 0 pairs
    switch either off.

    ``tensorboard``: "auto" writes event files when the library is installed, "on" requires it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    figures_every_steps: int = Field(default=5, ge=1)
    stop_on_collapse: bool = True
    min_spread: float = Field(default=0.25, ge=0, lt=1)
    min_effective_rank: float = Field(default=2.0, ge=0)
    patience_steps: int = Field(default=20, ge=1)
    canary_pairs: int = Field(default=512, ge=0)
    canary_every_steps: int | None = Field(default=None, ge=1)
    trace_pairs: int = Field(default=64, ge=0, le=256)
    trace_every_steps: int | None = Field(default=None, ge=1)
    tensorboard: Literal["auto", "on", "off"] = "auto"

    @property
    def looks(self) -> bool:
        """Whether held-out pairs are looked at, where there are any."""
        return self.canary_pairs > 0 or self.trace_pairs > 0
