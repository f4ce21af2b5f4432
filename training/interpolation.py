"""Between an encoder and its fine-tuned self: ``(1 - alpha) · base + alpha · tuned``, weight by weight.

WiSE-FT (Wortsman et al. 2021, arXiv 2109.01903): a point in between often keeps most of what tuning gained on the
target data and most of what it forgot elsewhere. ``sweep`` measures points on several data sets and chooses one.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from sightline.encoder.checkpoint import Checkpoint
from sightline.errors import EncoderUnsuitable, SettingError
from sightline.licences import NON_COMMERCIAL

Measure = Callable[[Checkpoint], Mapping[str, float]]
"""An encoder's figures on one data set, by name."""


@dataclass(frozen=True, slots=True)
class Point:
    """``figures`` holds, by the name of the data set, what was measured there; ``mean`` is the chosen figure's mean
    over the data sets."""

    alpha: float
    figures: dict[str, dict[str, float]]
    mean: float


@dataclass(frozen=True, slots=True)
class Sweep:
    """Points in the order of ``alpha`` and the best of them by the mean of ``metric``."""

    metric: str
    points: tuple[Point, ...]
    best: Point

    def table(self) -> dict[str, Any]:
        """The sweep for JSON."""
        return {
            "metric": self.metric,
            "best_alpha": self.best.alpha,
            "points": [{"alpha": p.alpha, "mean": round(p.mean, 6), **p.figures} for p in self.points],
        }


def interpolate(base: Checkpoint, tuned: Checkpoint, alpha: float) -> Checkpoint:
    """A new checkpoint between two of the same architecture; at 0 and 1 it has the weights of either, bit for bit.

    Counters and other whole numbers are taken from the nearer one. Raises SettingError for an alpha outside [0, 1] and
    EncoderUnsuitable for two encoders that do not fit.
    """
    if not 0 <= alpha <= 1:
        raise SettingError(f"alpha is {alpha:g}; give a number from 0 (the base) to 1 (the tuned encoder).")
    _require_kin(base, tuned)
    model = copy.deepcopy(tuned.model)
    start, end = base.model.state_dict(), tuned.model.state_dict()
    model.load_state_dict({name: _between(start[name], end[name], alpha) for name in end})
    forbids = base.licence in NON_COMMERCIAL
    return Checkpoint(
        name=f"{tuned.name} at {alpha:g}",
        model=model,
        model_cfg=tuned.model_cfg,
        pixels=tuned.pixels,
        texts=tuned.texts,
        licence=base.licence if forbids else tuned.licence,
        untrained=base.untrained and tuned.untrained,
        tokenizer_source=tuned.tokenizer_source,
        provenance={
            "interpolated": {"alpha": alpha, "base": base.name, "tuned": tuned.name},
            "base": base.provenance,
            "tuned": tuned.provenance,
        },
    )


def sweep(
    base: Checkpoint, tuned: Checkpoint, alphas: Sequence[float], measures: Mapping[str, Measure], *, metric: str
) -> Sweep:
    """Measure points between two encoders on named data sets; the best has the highest mean of ``metric``.

    Of equally good points the one nearest to the base is taken. Raises what ``interpolate`` raises, and SettingError
    when a data set does not give the metric.
    """
    points: list[Point] = []
    for alpha in sorted(set(alphas)):
        checkpoint = interpolate(base, tuned, alpha)
        figures = {name: dict(measure(checkpoint)) for name, measure in measures.items()}
        for name, found in figures.items():
            if metric not in found:
                raise SettingError(f"There is no figure '{metric}' for {name}; it has: {', '.join(sorted(found))}.")
        mean = sum(found[metric] for found in figures.values()) / len(figures)
        points.append(Point(alpha, figures, mean))
    return Sweep(metric, tuple(points), max(points, key=lambda point: (point.mean, -point.alpha)))


def _between(start: torch.Tensor, end: torch.Tensor, alpha: float) -> torch.Tensor:
    if alpha in (0.0, 1.0) or not start.is_floating_point():
        return (start if alpha < 0.5 else end).clone()
    return torch.lerp(start, end, alpha)


def _require_kin(base: Checkpoint, tuned: Checkpoint) -> None:
    shapes = [{name: tuple(t.shape) for name, t in c.model.state_dict().items()} for c in (base, tuned)]
    activations = [bool(c.model_cfg.get("quick_gelu")) for c in (base, tuned)]
    for what, same in (
        ("weights", shapes[0] == shapes[1]),
        ("activation", activations[0] == activations[1]),
        ("preprocessing", base.pixels == tuned.pixels),
        ("text handling", base.texts.context_length == tuned.texts.context_length),
    ):
        if not same:
            raise EncoderUnsuitable(
                f"{base.name} and {tuned.name} differ in their {what}, so there is nothing between them; name an "
                "encoder and one that was fine-tuned from it."
            )
