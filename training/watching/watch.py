"""Watching a run: everything that looks at training without taking part in it.

The loop calls ``begin`` before the first step, and in each step ``observe`` when the gradients are there and not yet
clipped, ``record`` after the update and ``saved`` after a checkpoint; at the end ``finish``. Nothing here changes a
weight, a module's mode or the random state: a watched run gives the same weights, bit for bit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from torch import nn

from sightline.errors import TrainingStopped
from training.watching.board import open_board
from training.watching.canary import Canary, canary_figures
from training.watching.collapse import Collapse, CollapseDetector
from training.watching.explorer import write_explorer
from training.watching.figures import gradient_norms, vector_figures
from training.watching.held_out import Encode, HeldOut, Vectors
from training.watching.log import Log
from training.watching.settings import WatchSettings
from training.watching.trace import TraceWriter

FEWEST_MOMENTS, MOST_MOMENTS = 12, 48
"""Of a trace: fewer make no film, more only a larger file (64 pairs take 25 kB each)."""

MOST_CANARIES = 50


class LossLike(Protocol):
    """A loss as training has it: a scalar and its named parts."""

    @property
    def total(self) -> torch.Tensor:
        """What is minimised, ()."""
        ...

    @property
    def parts(self) -> Mapping[str, torch.Tensor]:
        """What it is made of, each (), by name."""
        ...


class StepLike(Protocol):
    """A step as the loop reports it: a dataclass, all of whose fields go into the log."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def step(self) -> int:
        """Counted from 1."""
        ...

    @property
    def epoch(self) -> int:
        """Counted from 0."""
        ...


class Watch:
    """Watches one run in one process; its files lie in one folder. Not thread-safe."""

    def __init__(
        self,
        settings: WatchSettings,
        folder: Path,
        *,
        num_steps: int,
        steps_per_epoch: int,
        warmup_steps: int = 0,
        done: int = 0,
        held_out: HeldOut | None = None,
        encode: Encode | None = None,
        warn: Callable[[str], None] | None = None,
        writes: bool = True,
        name: str = "Alignment explorer",
    ) -> None:
        """Open the files in ``folder``, to go on after ``done`` steps.

        ``held_out`` pairs feed the canary and the trace, by ``encode``, which gives vectors as training makes them;
        without them there is neither. ``writes`` is False for all processes but the first: they notice collapse and NaN
        too, but write and encode nothing. Raises StorageError, DependencyMissing.
        """
        self._settings = settings
        self._folder = folder
        self._name = name
        self._num_steps = num_steps
        self._warn = warn or (lambda sentence: None)
        self._collapse = CollapseDetector(settings, warmup_steps=warmup_steps)
        self._said_collapse = False
        self._saved: int | None = done or None
        self._figures: dict[str, float] = {}
        self._losses = [0.0, 0.0]  # sum and number since the trace's last moment
        self._canary = Canary()
        self._canary_every = settings.canary_every_steps or canary_period(num_steps, steps_per_epoch)
        self._trace_every = settings.trace_every_steps or trace_period(num_steps, steps_per_epoch)
        self._encode = encode
        self._canary_pairs = self._trace_pairs = None
        if writes and held_out is not None and encode is not None:
            self._canary_pairs = _pairs(held_out, settings.canary_pairs)
            self._trace_pairs = _pairs(held_out, settings.trace_pairs)
        self._log = Log(folder, done=done) if writes else None
        self._board = open_board(settings.tensorboard, folder, done=done) if writes else None
        self._trace: TraceWriter | None = None
        if self._trace_pairs is not None:
            thumbnails = self._trace_pairs.thumbnails()
            self._trace = TraceWriter(folder, self._trace_pairs.captions, thumbnails, done=done)

    def begin(self, model: nn.Module) -> dict[str, float]:
        """Before the first step: the canary's starting point and the trace's first moment."""
        return self._look(model, step=0, epoch=0)

    def observe(
        self,
        step: int,
        images: torch.Tensor | None,
        texts: torch.Tensor | None,
        loss: LossLike,
        model: nn.Module,
    ) -> dict[str, float]:
        """Look at a step, counted from 1, whose gradients are there and not yet clipped.

        ``images`` [B, D] and ``texts`` [T, D] are the batch's unit vectors, its own captions first. Gives the figures
        that ``record`` will write. Raises TrainingStopped, with the cause, when the loss or the gradients are not
        numbers or the vectors have collapsed.
        """
        named = {f"loss_{name}": part for name, part in loss.parts.items()} | gradient_norms(model)
        bias = getattr(model, "logit_bias", None)
        if isinstance(bias, torch.Tensor):
            named["logit_bias"] = bias
        total, *values = torch.stack([_scalar(value) for value in (loss.total, *named.values())]).tolist()
        figures = dict(zip(named, values, strict=True))
        self._stop_unless_numbers(step, total, figures)
        due = step == 1 or step % self._settings.figures_every_steps == 0
        if due and images is not None and texts is not None:
            vectors = vector_figures(images.detach(), texts.detach())
            figures |= vectors
            collapse = self._collapse.see(step, vectors, num_rows=len(images), logit_scale=_scale(model))
            if collapse is not None:
                self._stop_collapsed(step, collapse, figures, model)
        self._losses = [self._losses[0] + total, self._losses[1] + 1]
        self._figures = figures
        return figures

    def record(self, step: StepLike, model: nn.Module) -> dict[str, Any]:
        """After the update: look at the held-out pairs if it is their turn, and write the step's line of the log."""
        line: dict[str, Any] = {**asdict(step), **self._figures}
        line |= self._look(model, step=step.step, epoch=step.epoch)
        self._figures = {}
        if self._log is not None:
            self._log.write(line)
        if self._board is not None:
            self._board.write(line)
        return line

    def saved(self, step: int) -> None:
        """A checkpoint after ``step`` steps is on disk: what is said of a run that stops names it."""
        self._saved = step

    def finish(self) -> None:
        """The run is complete: write the explorer beside the trace and remove what only a resumed run needs."""
        if self._trace is not None:
            write_explorer(self._folder, self._trace.trace(), self._name)
            self._trace.finish()

    def close(self) -> None:
        """Close the files; the run may go on later."""
        if self._log is not None:
            self._log.close()
        if self._board is not None:
            self._board.close()

    def __enter__(self) -> Watch:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def state_dict(self) -> dict[str, Any]:
        """What belongs in a checkpoint: plain values."""
        return {
            "collapse": self._collapse.state_dict(),
            "canary": self._canary.state_dict(),
            "losses": list(self._losses),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from ``state_dict``."""
        self._collapse.load_state_dict(state["collapse"])
        self._canary.load_state_dict(state["canary"])
        self._losses = list(state["losses"])

    def _look(self, model: nn.Module, *, step: int, epoch: int) -> dict[str, float]:
        """The canary and the trace, each when it is due; both at the beginning and at the end."""
        values: dict[str, float] = {}
        if self._encode is None:
            return values
        ends = step == self._num_steps
        if self._canary_pairs is not None and (ends or step % self._canary_every == 0):
            figures = canary_figures(*self._encoded(self._canary_pairs, model, self._encode, step))
            values = figures.values()
            sentence = self._canary.see(step, figures)
            if sentence is not None:
                self._warn(sentence)
        if self._trace is not None and self._trace_pairs is not None and (ends or step % self._trace_every == 0):
            images, texts = self._encoded(self._trace_pairs, model, self._encode, step)
            recall = canary_figures(images, texts).text_to_image_recall_at_1
            total, num = self._losses
            self._trace.add(
                images, texts, step=step, epoch=epoch, loss=total / num if num else None, recall_at_1=recall
            )
            self._losses = [0.0, 0.0]
        return values

    def _encoded(self, pairs: HeldOut, model: nn.Module, encode: Encode, step: int) -> tuple[Vectors, Vectors]:
        """Vectors of held-out pairs; raises TrainingStopped when the update has left the model without numbers."""
        images, texts = pairs.encode(model, encode)
        if np.isfinite(images).all() and np.isfinite(texts).all():
            return images, texts
        raise TrainingStopped(
            f"Training stopped at step {step:,}: the vectors of held-out pairs are not a number "
            f"({self._last_good(step)}); lower learning_rate or lengthen warmup_steps.",
            step=step,
        )

    def _stop_unless_numbers(self, step: int, loss: float, figures: Mapping[str, float]) -> None:
        parts = [name.removeprefix("gradient_norm_") for name, value in figures.items() if not math.isfinite(value)]
        if math.isfinite(loss) and not parts:
            return
        what = f"gradients of {' and '.join(parts)} are" if math.isfinite(loss) else "loss is"
        raise TrainingStopped(
            f"Training stopped at step {step:,}: the {what} not a number ({self._last_good(step)}); "
            "lower learning_rate or lengthen warmup_steps.",
            step=step,
        )

    def _stop_collapsed(self, step: int, collapse: Collapse, figures: Mapping[str, float], model: nn.Module) -> None:
        remedy = _remedy(collapse, figures, model)
        if self._settings.stop_on_collapse:
            good = self._last_good(collapse.since)
            raise TrainingStopped(
                f"Training stopped at step {step:,}: {collapse.sentence()} ({good}); {remedy}.",
                step=step,
                since=collapse.since,
            )
        if not self._said_collapse:
            self._said_collapse = True
            self._warn(f"at step {step:,} {collapse.sentence()}; {remedy}.")

    def _last_good(self, before: int) -> str:
        if self._saved is None:
            return "there is no checkpoint yet"
        if self._saved >= before:
            return f"the last checkpoint, of step {self._saved:,}, is from after that"
        return f"the last good checkpoint is that of step {self._saved:,}"


def canary_period(num_steps: int, steps_per_epoch: int) -> int:
    """Steps between canaries: an epoch, or a few epochs where a run has more than ``MOST_CANARIES``."""
    return steps_per_epoch * max(1, math.ceil(num_steps / steps_per_epoch / MOST_CANARIES))


def trace_period(num_steps: int, steps_per_epoch: int) -> int:
    """Steps between moments: an epoch where that gives a film of a sensible length, else a share of the run."""
    moments = num_steps // steps_per_epoch
    if FEWEST_MOMENTS <= moments <= MOST_MOMENTS:
        return steps_per_epoch
    return math.ceil(num_steps / (2 * FEWEST_MOMENTS if moments < FEWEST_MOMENTS else MOST_MOMENTS))


def _pairs(held_out: HeldOut, num: int) -> HeldOut | None:
    """One pair alone tells nothing: its caption is always the nearest."""
    chosen = held_out.first(num)
    return chosen if len(chosen) > 1 else None


def _scalar(value: torch.Tensor) -> torch.Tensor:
    return value.detach().double().mean()


def _scale(model: nn.Module) -> float:
    return math.exp(float(model.logit_scale.detach().mean()))  # type: ignore[operator]


def _remedy(collapse: Collapse, figures: Mapping[str, float], model: nn.Module) -> str:
    """The most likely cause, from what else is seen, with what to do."""
    norm = figures.get(f"gradient_norm_{collapse.tower}")
    if norm is not None and norm < 1e-8:
        return f"the {collapse.tower} tower gets no gradient, it is dead: start it from other weights"
    scale, learnt = _scale(model), model.logit_scale.requires_grad
    if not learnt and not 2 <= scale <= 500:  # one that is learnt drifts away because of the collapse
        return f"the logit scale is fixed at {scale:.3g} where 10 to 100 is usual: change the temperature"
    return "lower learning_rate, and make sure that the objective has negatives"
