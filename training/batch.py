"""What one optimiser step sees, and what gives it: the seam between the data and the loop."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from sightline.images import Pixels

Rows = npt.NDArray[np.int64]
Tokens = npt.NDArray[np.int64]
Features = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Batch:
    """B pictures and T texts, T ≥ B.

    ``rows`` int64 [B] are the pictures' rows in the data. ``pixels`` uint8 [B, H, W, 3] or, where the image tower is
    locked and its outputs are cached, ``features`` float32 [B, D], which count where both are there; one process of
    several may get only those of its own share. ``tokens`` int64 [T, L]: rows 0..B-1 are the pictures' own captions
    in order; then further positives; then supplied negatives.

    ``positives`` bool [B, T] says which texts belong to which picture; None means that caption i belongs to picture i
    and every other text is a negative. ``weights`` float32 [B, T] grades the positives in [0, 1]; None means all 1.
    """

    step: int
    epoch: int
    rows: Rows
    pixels: Pixels | None
    features: Features | None
    tokens: Tokens
    positives: npt.NDArray[np.bool_] | None = None
    weights: Features | None = None


class BatchSource(Protocol):
    """Anything that gives batches. ``at`` is a pure function of the step (and of the seed the source was made with),
    so that a resumed run needs nothing but the number of its step."""

    @property
    def steps_per_epoch(self) -> int:
        """How many batches show the data once."""
        ...

    def at(self, step: int) -> Batch:
        """The batch of a step, counted from 0."""
        ...
