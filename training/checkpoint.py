"""What a run needs to go on after it was cut off: written whole or not at all, and read without
unpickling code."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch

from sightline.errors import TrainingStopped
from sightline.storage import replace_file

FILE_NAME = "checkpoint.pt"


class Resumable(Protocol):
    """Anything that survives in a checkpoint: tensors and plain values out, the same in."""

    def state_dict(self) -> Mapping[str, Any]:
        """What it needs to go on."""
        ...

    def load_state_dict(self, state: Any, /) -> Any:
        """Go on from ``state_dict``."""
        ...


class RunState:
    """Everything that a resumed run must have and cannot compute again from the recipe and the step's number.

    ``parts`` are the model, the loss with its queue, running means of the weights and what watches the run, by
    name; the optimisers are those of the present stage. Random numbers are no part of it: those of a step are a
    function of the recipe's seed and the step.
    """

    def __init__(self, parts: Mapping[str, Resumable]) -> None:
        self.parts = dict(parts)
        self.step = 0
        self.stage = -1
        self.whole = True  # False while a step moves one part after the other: such a state must not be saved
        self._optimizers: list[torch.optim.Optimizer] = []
        self._waiting: Sequence[Any] | None = None  # read from a checkpoint, for optimisers that are yet to be made

    def begin_stage(self, stage: int, optimizers: list[torch.optim.Optimizer]) -> None:
        """Take new optimisers; they go on where those of the checkpoint stood if it is of the same stage.

        Loading replaces the optimisers' groups: take them from the optimisers afterwards.
        """
        if self._waiting is not None and stage == self.stage:
            for optimizer, saved in zip(optimizers, self._waiting, strict=True):
                optimizer.load_state_dict(saved)
        self.stage, self._optimizers, self._waiting = stage, optimizers, None

    def state_dict(self) -> dict[str, Any]:
        """All of it, in tensors and plain values."""
        return {
            "step": self.step,
            "stage": self.stage,
            "parts": {name: part.state_dict() for name, part in self.parts.items()},
            "optimizers": [optimizer.state_dict() for optimizer in self._optimizers],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from ``state_dict``; ``begin_stage`` must follow."""
        for name, part in self.parts.items():
            part.load_state_dict(state["parts"][name])
        self.step, self.stage, self._waiting = int(state["step"]), int(state["stage"]), state["optimizers"]


def save_checkpoint(folder: Path, *, run: str, state: RunState) -> None:
    """Write the state; ``run`` names recipe and data, so that no other run continues it. Raises StorageError."""
    buffer = io.BytesIO()
    torch.save({"run": run, "state": state.state_dict()}, buffer)
    replace_file(folder / FILE_NAME, buffer.getvalue())


def read_checkpoint(folder: Path, *, run: str) -> dict[str, Any]:
    """The state of a run that was cut off (``RunState.state_dict``). Raises TrainingStopped when there is nothing to
    resume.

    Only tensors and plain values are read (``weights_only``): a checkpoint cannot run code.
    """
    path = folder / FILE_NAME
    if not path.is_file():
        raise TrainingStopped(f"There is nothing to resume in {folder}; run the command without --resume.")
    try:
        saved: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        same_run = saved["run"] == run
    except Exception as error:
        raise TrainingStopped(f"{path} is damaged; remove it and train again without --resume.") from error
    if not same_run:
        raise TrainingStopped(f"{path} belongs to another recipe or other data; remove it or train without --resume.")
    state: dict[str, Any] = saved["state"]
    return state
