"""Training in memory for runs of seconds: the product's own loop, watched as the product watches.

What ``training.run`` does around it is left out: reading, checking the data, export.
"""

from __future__ import annotations

import math
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from torch import nn

from benchmarks.training.world.batches import DrawnBatches
from sightline.encoder.checkpoint import Checkpoint
from sightline.errors import TrainingStopped
from training.ema import Ema
from training.loop import Step, train
from training.objective import Objective
from training.objectives import ObjectiveSettings, Temperature
from training.recipe import Recipe, Training
from training.stages import WHOLE_MODEL, Part, StageSettings
from training.teacher import mean_teacher
from training.watching import Watch, WatchSettings

WATCHED = WatchSettings(canary_pairs=0, trace_pairs=0, tensorboard="off")


@dataclass(frozen=True)
class Fitted:
    """How a run went. ``alarm_step``: the step at which the watch stopped it (collapse, or no numbers), 0 for never."""

    steps: int
    loss: float
    seconds: float
    pairs_per_second: float
    num_trained: int
    alarm_step: int

    def as_json(self) -> dict[str, float]:
        return asdict(self)


def fit(
    checkpoint: Checkpoint,
    batches: DrawnBatches,
    training: Training,
    *,
    seed: int,
    settings: ObjectiveSettings | None = None,
    criterion: nn.Module | None = None,
    parts: tuple[Part, ...] = WHOLE_MODEL,
) -> Fitted:
    """Train a checkpoint's model in place on the CPU and leave it in eval mode.

    ``parts`` move, the rest is frozen. ``criterion`` replaces the product's loss. With a distillation in ``settings``
    the model's running mean teaches it.
    """
    model, num_steps = checkpoint.model, training.num_steps
    assert num_steps is not None
    stage = StageSettings(name="fit", num_steps=num_steps, train=parts)
    recipe = Recipe.model_validate(
        {
            "name": "fit", "seed": seed, "model": {"encoder": "none"}, "stages": [stage], "watch": WATCHED,
            "training": training.model_copy(update={"num_steps": None, "checkpoint_every_steps": num_steps}),
            "objective": settings or ObjectiveSettings(),
        }
    )  # fmt: skip
    distillation = recipe.objective.distillation
    kind = recipe.objective.kind_for(has_bias=getattr(model, "logit_bias", None) is not None)
    temperature = Temperature(recipe.objective.temperature, model, kind=kind, num_steps=num_steps)
    emas = {"teacher": Ema(model, distillation.ema_decay, warm_up=True)} if distillation.alpha else {}
    teacher = mean_teacher(checkpoint, emas["teacher"], precision=training.precision) if emas else None
    pixels = checkpoint.pixels
    objective = Objective(
        model, pixels.mean, pixels.std, recipe.objective, precision=training.precision, teacher=teacher
    )
    if criterion is not None:
        objective.criterion = criterion  # type: ignore[assignment]
    seen: list[Step] = []
    started, alarm = time.perf_counter(), 0
    with tempfile.TemporaryDirectory() as folder:
        watch = Watch(
            WATCHED, Path(folder), num_steps=num_steps, steps_per_epoch=batches.steps_per_epoch,
            warmup_steps=training.warmup_steps,
        )  # fmt: skip
        with watch:
            try:
                train(
                    objective, batches, recipe, run="fit", folder=Path(folder), watch=watch, temperature=temperature,
                    emas=emas, on_step=seen.append,
                )  # fmt: skip
            except TrainingStopped as stopped:
                alarm = int(str(stopped.details["step"]))
    seconds = time.perf_counter() - started
    num_trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    model.eval().requires_grad_(False)
    loss = seen[-1].loss if seen else math.nan
    return Fitted(len(seen), loss, seconds, len(seen) * batches.batch_size / seconds, num_trained, alarm)
