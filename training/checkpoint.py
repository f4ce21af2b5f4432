"""What a run needs to go on after it was cut off: written whole or not at all, and read without
unpickling code."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sightline.errors import TrainingStopped
from sightline.storage import replace_file

FILE_NAME = "checkpoint.pt"


def save_checkpoint(
    folder: Path, *, step: int, run: str, model: nn.Module, optimizers: Sequence[torch.optim.Optimizer]
) -> None:
    """Write the state after ``step`` steps; ``run`` names recipe and data, so that no other run continues it.

    The random state of torch is part of it: dropout goes on as if nothing had happened. Raises StorageError.
    """
    state = {
        "step": step,
        "run": run,
        "model": model.state_dict(),
        "optimizers": [optimizer.state_dict() for optimizer in optimizers],
        "random": torch.get_rng_state(),
    }
    buffer = io.BytesIO()
    torch.save(state, buffer)
    replace_file(folder / FILE_NAME, buffer.getvalue())


def load_checkpoint(folder: Path, *, run: str, model: nn.Module, optimizers: Sequence[torch.optim.Optimizer]) -> int:
    """Restore a run and return the number of steps done. Raises TrainingStopped when there is nothing to
    resume.

    Only tensors and plain values are read (``weights_only``): a checkpoint cannot run code.
    """
    path = folder / FILE_NAME
    if not path.is_file():
        raise TrainingStopped(f"There is nothing to resume in {folder}; run the command without --resume.")
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        same_run = state["run"] == run
    except Exception as error:
        raise TrainingStopped(f"{path} is damaged; remove it and train again without --resume.") from error
    if not same_run:
        raise TrainingStopped(f"{path} belongs to another recipe or other data; remove it or train without --resume.")
    model.load_state_dict(state["model"])
    for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
        optimizer.load_state_dict(saved)
    torch.set_rng_state(state["random"])
    return int(state["step"])
