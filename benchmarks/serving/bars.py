"""Bars: what has to be reached, and whether it was. Pure arithmetic on the figures of a run."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class Spread:
    """The median of several repetitions with the smallest and the largest."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        if self.low == self.high:
            return short(self.median)
        return f"{short(self.median)} ({short(self.low)} to {short(self.high)})"


@dataclass(frozen=True)
class Bar:
    """One target. ``measured`` is None where the run could not measure it; then it counts as missed."""

    name: str
    measured: Spread | None
    bound: float
    direction: Literal["at least", "at most"]
    unit: str = ""

    @property
    def met(self) -> bool:
        if self.measured is None:
            return False
        return (
            self.measured.median >= self.bound if self.direction == "at least" else self.measured.median <= self.bound
        )

    def verdict(self) -> str:
        """met, or missed and by how much of the bound."""
        if self.measured is None:
            return "not measured"
        if self.met:
            return "met"
        return f"missed by {abs(self.measured.median - self.bound) / self.bound:.0%}" if self.bound else "missed"

    def as_json(self) -> dict[str, Any]:
        measured = None if self.measured is None else vars(self.measured)
        return {**vars(self), "measured": measured, "met": self.met, "verdict": self.verdict()}


def spread(values: Sequence[float]) -> Spread | None:
    """None when there is nothing, or something is missing: half a figure is none."""
    if not values:
        return None
    return Spread(statistics.median(values), min(values), max(values))


def ratios(numerators: Sequence[float | None], denominators: Sequence[float | None]) -> Spread | None:
    """Ratios within each repetition, so that a machine that changes speed between repetitions cancels out.

    Repetitions where either side is missing or the denominator is 0 are left out.
    """
    pairs = zip(numerators, denominators, strict=False)
    return spread([one / other for one, other in pairs if one is not None and other])


def short(value: float) -> str:
    """Three figures are more than these machines can promise."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def table(bars: Sequence[Bar]) -> str:
    """Markdown, ratios first."""
    lines = ["| bar | target | measured, median (range) | |", "|---|---|---|---|"]
    for bar in bars:
        measured = "not measured" if bar.measured is None else f"{bar.measured}{bar.unit}"
        lines.append(f"| {bar.name} | {bar.direction} {short(bar.bound)}{bar.unit} | {measured} | {bar.verdict()} |")
    return "\n".join(lines)
