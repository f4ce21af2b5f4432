"""TensorBoard files of a run: every number of the log as a curve. The library is an extra."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from sightline.errors import DependencyMissing

FOLDER_NAME = "tensorboard"

_NOT_CURVES = frozenset({"step"})


class Board:
    """Writes event files that ``tensorboard --logdir`` shows. Flushed every two minutes and at the end."""

    def __init__(self, folder: Path, *, done: int = 0) -> None:
        """Write to ``folder``; what an earlier part of the run wrote after ``done`` steps is hidden."""
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder), purge_step=done + 1 if done else None)

    def write(self, values: Mapping[str, Any]) -> None:
        """Add the numbers of one line of the log at its ``step``."""
        for name, value in values.items():
            if name not in _NOT_CURVES and isinstance(value, int | float) and math.isfinite(value):
                self._writer.add_scalar(_tag(name), value, values["step"])

    def close(self) -> None:
        """Write what is left and close."""
        self._writer.close()


def open_board(mode: Literal["auto", "on", "off"], folder: Path, *, done: int = 0) -> Board | None:
    """A board in ``folder/tensorboard``, or None when none is wanted.

    Raises DependencyMissing when it is required and the library is not installed.
    """
    installed = importlib.util.find_spec("tensorboard") is not None
    if mode == "off" or (mode == "auto" and not installed):
        return None
    if not installed:
        raise DependencyMissing(
            'TensorBoard files need the library tensorboard; install it with: pip install "sightline[tensorboard]", '
            'or set tensorboard = "auto" in [watch].'
        )
    return Board(folder / FOLDER_NAME, done=done)


def _tag(name: str) -> str:
    """Groups of curves by what they are about: ``loss/…``, ``canary/…``, ``gradients/…``, ``vectors/…``, ``run/…``."""
    groups = {"loss": "loss", "canary": "canary", "gradient": "gradients", "image": "vectors", "text": "vectors"}
    first = name.split("_", 1)[0]
    if name in ("modality_gap", "matched_cosine", "unmatched_cosine"):
        return f"vectors/{name}"
    return f"{groups.get(first, 'run')}/{name}"
