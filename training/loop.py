"""The training loop, every step written out; one process or several (``training.distributed``).

batch → vectors → loss → gradients → mean over processes → look → clip → optimisers → temperature, queue, running
means → log; a checkpoint every so often. Stages follow one another, each with optimisers and a schedule of its own.
"""

from __future__ import annotations

import contextlib
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch
from torch import nn

from sightline.errors import TrainingStopped
from training import distributed
from training.batch import BatchSource
from training.checkpoint import Resumable, RunState, save_checkpoint
from training.data import Prefetched
from training.ema import Ema
from training.gradient_cache import backward
from training.objective import Objective
from training.objectives import Temperature
from training.recipe import Recipe
from training.schedule import make_optimizers, rate_factor, set_rates
from training.stages import StageSettings, begin, rate_factors
from training.watching import Watch


@dataclass(frozen=True, slots=True)
class Step:
    """A step in figures. ``step`` counts from 1; ``gradient_norm`` is that before clipping; ``learning_rate`` that of a
    part without a factor of its own."""

    step: int
    epoch: int
    stage: str
    loss: float
    learning_rate: float
    gradient_norm: float
    logit_scale: float
    seconds: float


@dataclass(frozen=True, slots=True)
class StageBegun:
    """A stage that begins now: its number counted from 0, and how many parameters move and do not."""

    number: int
    settings: StageSettings
    num_trained: int
    num_frozen: int


OnStep = Callable[[Step], None]
OnStage = Callable[[StageBegun], None]


def train(
    objective: Objective,
    batches: BatchSource,
    recipe: Recipe,
    *,
    run: str,
    folder: Path,
    watch: Watch,
    temperature: Temperature,
    emas: dict[str, Ema] | None = None,
    saved: Mapping[str, Any] | None = None,
    on_step: OnStep | None = None,
    on_stage: OnStage | None = None,
) -> Step:
    """Train the objective's model in place, on the device that it is on, and return the last step.

    ``folder`` (which must exist) takes a checkpoint every ``checkpoint_every_steps`` steps, at the end, and when
    interrupted from the keyboard. With what was ``saved`` there the run goes on; on a CPU the result is that of an
    unbroken run, bit for bit. ``emas`` are running means of the model to keep. ``on_step`` is called after
    each step, ``on_stage`` before the first of a stage.

    Raises TrainingStopped when the loss or the gradients are no longer numbers, or when the vectors collapse.
    """
    model, training, plan = objective.model, recipe.training, recipe.plan
    emas = emas or {}
    held: dict[str, Resumable] = {"model": model, "criterion": objective.criterion, "queue": objective.queue}
    state = RunState({**held, **emas, "watch": watch})
    if saved is not None:
        state.load_state_dict(saved)
    distributed.copy_from_first(objective)
    last = Step(state.step, 0, plan[-1].name, math.nan, 0.0, math.nan, _scale(model), 0.0)
    first = 0  # of the stage
    with _interruptible(folder, run, state) as stop_if_asked, Prefetched(batches) as ahead:
        for number, stage in enumerate(plan):
            stop = first + stage.num_steps
            if state.step < stop:
                trained = begin_stage(objective, stage, fixed_scale=not recipe.objective.temperature.learnt)
                optimizers = make_optimizers(trained, training, rate_factors(model, stage))
                state.begin_stage(number, optimizers)
                if on_stage is not None:
                    on_stage(_begun(number, stage, objective, trained))
                if state.step == 0:
                    watch.begin(model)
            for step in range(state.step, stop):
                started = time.perf_counter()
                batch = ahead.at(step)
                torch.manual_seed(step_seed(recipe.seed, step))
                warmth = rate_factor(step - first, num_steps=stage.num_steps, warmup_steps=training.warmup_steps)
                set_rates(optimizers, warmth)
                temperature.before_step(model, step)

                objective.zero_grad(set_to_none=True)
                loss = backward(objective, batch, training.micro_batch_size)  # vectors [B, D] and [T, D], and a scalar
                distributed.average_gradients(trained.values())
                watch.observe(step + 1, loss.images, loss.texts, loss, model)
                norm = nn.utils.clip_grad_norm_(trained.values(), training.max_gradient_norm)
                state.whole = False
                for optimizer in optimizers:
                    optimizer.step()
                temperature.clamp(model)
                distributed.average_statistics(model)
                objective.remember(loss)
                for ema in emas.values():
                    ema.update(model)
                state.step, state.whole = step + 1, True
                rate = warmth * training.learning_rate * stage.learning_rate_factor
                seconds = time.perf_counter() - started
                last = Step(
                    step + 1, batch.epoch, stage.name, loss.total.item(), rate, float(norm), _scale(model), seconds
                )
                watch.record(last, model)
                if (step + 1) % training.checkpoint_every_steps == 0 or step + 1 == recipe.num_steps:
                    _save(folder, run, state)
                    watch.saved(step + 1)
                if on_step is not None:
                    on_step(last)
                stop_if_asked()
            first = stop
    return last


def begin_stage(objective: Objective, stage: StageSettings, *, fixed_scale: bool) -> dict[str, nn.Parameter]:
    """Freeze and free what a stage says, and return what it trains by name: the model's part and the loss's own.

    Raises RecipeError when nothing is left to train.
    """
    names = set(begin(objective.model, stage, fixed_scale=fixed_scale))
    trained = {name: p for name, p in objective.model.named_parameters() if name in names}
    return trained | {f"criterion.{name}": p for name, p in objective.criterion.named_parameters()}


def step_seed(seed: int, step: int) -> int:
    """The seed of a step's random numbers (dropout): other ones for each step and process, the same after a resume."""
    return int(np.random.SeedSequence([seed, step, distributed.rank()]).generate_state(1, np.uint64)[0] >> 1)


@contextlib.contextmanager
def _interruptible(folder: Path, run: str, state: RunState) -> Iterator[Callable[[], None]]:
    """Ctrl-C waits for the end of the step and then saves the run; a second one does not wait.

    Yields what ends the run between two steps if that was asked for.
    """
    asked = False

    def ask(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        if asked:
            raise KeyboardInterrupt
        asked = True

    def stop_if_asked() -> None:
        if asked:
            raise KeyboardInterrupt

    ours = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGINT, ask) if ours else None
    try:
        yield stop_if_asked
    except KeyboardInterrupt:
        if state.whole:
            _save(folder, run, state)
        raise
    finally:
        if ours:
            signal.signal(signal.SIGINT, before)


def _begun(number: int, stage: StageSettings, objective: Objective, trained: dict[str, nn.Parameter]) -> StageBegun:
    every = [*objective.model.parameters(), *objective.criterion.parameters()]
    num_trained = sum(parameter.numel() for parameter in trained.values())
    return StageBegun(number, stage, num_trained, sum(parameter.numel() for parameter in every) - num_trained)


def _save(folder: Path, run: str, state: RunState) -> None:
    """Write the checkpoint, unless the last update has ruined the weights: then the one before it is kept."""
    weights = [tensor for tensor in state.parts["model"].state_dict().values() if tensor.is_floating_point()]
    if not all(bool(tensor.isfinite().all()) for tensor in weights):
        raise TrainingStopped(
            f"Training stopped at step {state.step:,}: the weights are not a number; "
            "lower learning_rate or lengthen warmup_steps.",
            step=state.step,
        )
    if distributed.rank() == 0:
        save_checkpoint(folder, run=run, state=state)


def _scale(model: nn.Module) -> float:
    return math.exp(float(model.logit_scale.detach().mean()))  # type: ignore[operator]
