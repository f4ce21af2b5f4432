"""The canary: retrieval on a few hundred held-out pairs while training goes on, so that a run that forgets is seen.

A loss can fall while retrieval dies: fine-tuning CoCa on captions alone took open_clip's published weights to a recall
of 0.3 %. It costs one forward pass over the pairs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from training.evaluation.retrieval import image_to_text, text_to_image
from training.watching.held_out import Vectors

SMALLEST_FALL = 0.02
NUM_ERRORS = 3.0


@dataclass(frozen=True, slots=True)
class CanaryFigures:
    """Recall in [0, 1] among ``num_pairs`` held-out pairs, ties broken fairly; chance at 1 is 1/num_pairs."""

    num_pairs: int
    text_to_image_recall_at_1: float
    text_to_image_recall_at_10: float
    image_to_text_recall_at_1: float
    image_to_text_recall_at_10: float

    def values(self) -> dict[str, float]:
        """The figures by their names in the log."""
        return {
            "canary_text_to_image_recall_at_1": round(self.text_to_image_recall_at_1, 4),
            "canary_text_to_image_recall_at_10": round(self.text_to_image_recall_at_10, 4),
            "canary_image_to_text_recall_at_1": round(self.image_to_text_recall_at_1, 4),
            "canary_image_to_text_recall_at_10": round(self.image_to_text_recall_at_10, 4),
        }

    @property
    def recall_at_10(self) -> float:
        """The mean of both directions: the steadiest of the figures."""
        return (self.text_to_image_recall_at_10 + self.image_to_text_recall_at_10) / 2


def canary_figures(images: Vectors, texts: Vectors) -> CanaryFigures:
    """Retrieval both ways over unit vectors [N, D]; row i of one belongs to row i of the other."""
    rows = np.arange(len(images))
    forward, backward = text_to_image(texts, images, rows), image_to_text(images, texts, rows)
    return CanaryFigures(len(images), forward.recall[1], forward.recall[10], backward.recall[1], backward.recall[10])


class Canary:
    """Remembers the best figures and says once when retrieval has fallen clearly below them."""

    def __init__(self) -> None:
        self._best: float | None = None
        self._best_step = 0
        self._fallen = False

    def see(self, step: int, figures: CanaryFigures) -> str | None:
        """Take the figures after ``step`` steps; gives a sentence when they have newly fallen.

        A fall is a recall at 10 that lies below the best by three standard errors and by 0.02. The first figures are
        those before the first step: for a fine-tuned encoder the warning means that it forgets.
        """
        now = figures.recall_at_10
        if self._best is None or now >= self._best:
            self._best, self._best_step, self._fallen = now, step, False
            return None
        error = math.sqrt(self._best * (1 - self._best) / figures.num_pairs)
        fallen = self._best - now > max(NUM_ERRORS * error, SMALLEST_FALL)
        newly, self._fallen = fallen and not self._fallen, fallen
        if not newly:
            return None
        return (
            f"retrieval on held-out pairs has fallen: recall at 10 was {self._best:.3f} after step {self._best_step:,} "
            f"and is {now:.3f} after step {step:,}; lower learning_rate, train fewer steps or freeze more."
        )

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs to go on."""
        return {"best": self._best, "best_step": self._best_step, "fallen": self._fallen}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from ``state_dict``."""
        self._best, self._best_step, self._fallen = state["best"], state["best_step"], state["fallen"]
