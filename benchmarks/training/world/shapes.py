"""What an experiment is: variants that are run, and shapes that their figures must have."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from benchmarks.training.world.lab import Lab

Figures = dict[str, float]
ByVariant = Mapping[str, Figures]


@dataclass(frozen=True)
class Shape:
    """One published shape as a number with a bound. ``of`` takes the figures of all variants of one seed."""

    name: str
    published: str
    of: Callable[[ByVariant], float]
    bound: float
    direction: Literal["at least", "at most"] = "at least"


@dataclass(frozen=True)
class Experiment:
    """``variants`` are run one after the other for each seed; ``columns`` of their figures are shown."""

    name: str
    question: str
    variants: tuple[str, ...]
    run: Callable[[Lab, str], Figures]
    shapes: tuple[Shape, ...]
    columns: tuple[str, ...]
