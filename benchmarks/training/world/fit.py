"""Training in memory for runs of seconds: the product's objective, losses, optimisers and detector in a bare loop.

``training.loop`` adds what such runs do not need: reading, checkpoints, logs, a folder for each.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

import torch
from torch import nn

from benchmarks.training.world.batches import DrawnBatches
from training.batch import Batch
from training.ema import Ema
from training.objective import Objective, kind_of
from training.objectives import Loss, ObjectiveSettings, Pairs, make_loss
from training.recipe import Training
from training.schedule import make_optimizers, rate_factor, set_rates
from training.stages import WHOLE_MODEL, Part, StageSettings, begin
from training.watching.collapse import CollapseDetector
from training.watching.figures import vector_figures
from training.watching.settings import WatchSettings

MEAN = STD = (0.5, 0.5, 0.5)
MAX_LOG_SCALE = math.log(100.0)
FIGURES_EVERY_STEPS = 5

Criterion = Callable[[Pairs], Loss]


@dataclass(frozen=True)
class Fitted:
    """How a run went. ``alarm_step``: the step at which the collapse detector fired or the loss was no number, 0 for
    never; a run ends there."""

    steps: int
    loss: float
    seconds: float
    pairs_per_second: float
    num_trained: int
    alarm_step: int

    def as_json(self) -> dict[str, float]:
        return asdict(self)


def fit(
    model: nn.Module,
    batches: DrawnBatches,
    training: Training,
    *,
    seed: int,
    settings: ObjectiveSettings | None = None,
    criterion: Criterion | None = None,
    parts: tuple[Part, ...] = WHOLE_MODEL,
) -> Fitted:
    """Train an open_clip model in place, on one thread of the CPU, and leave it in eval mode.

    ``parts`` move, the rest is frozen. ``criterion`` replaces the product's loss. With a distillation in ``settings``
    the model's running mean teaches it.
    """
    num_steps = training.num_steps
    assert num_steps is not None
    torch.manual_seed(seed)
    settings = settings or ObjectiveSettings()
    loss_of = criterion or make_loss(settings, kind=kind_of(model))
    objective = Objective(model, MEAN, STD, loss_of)
    names = begin(model, StageSettings(name="fit", num_steps=num_steps, train=parts))
    parameters = {name: parameter for name, parameter in model.named_parameters() if name in set(names)}
    optimizers = make_optimizers(parameters, training)
    teacher = Ema(model, settings.distillation.ema_decay, warm_up=True) if settings.distillation.alpha else None
    detector = CollapseDetector(WatchSettings(), warmup_steps=training.warmup_steps)
    started, alarm, value, step = time.perf_counter(), 0, math.nan, 0
    for step in range(1, num_steps + 1):
        factor = rate_factor(step - 1, num_steps=num_steps, warmup_steps=training.warmup_steps)
        set_rates(optimizers, factor)
        pairs = _pairs(objective, batches.at(step - 1), teacher, step)
        loss = loss_of(pairs).total
        model.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(parameters.values(), training.max_gradient_norm)
        for optimizer in optimizers:
            optimizer.step()
        if kind_of(model) == "softmax" and "logit-scale" in parts:
            with torch.no_grad():
                model.logit_scale.clamp_(0.0, MAX_LOG_SCALE)  # type: ignore[operator]
        if teacher is not None:
            teacher.update(model)
        value = loss.item()
        if not math.isfinite(value) or _collapsed(detector, step, pairs):
            alarm = step
            break
    seconds = time.perf_counter() - started
    model.eval().requires_grad_(False)
    num_trained = sum(parameter.numel() for parameter in parameters.values())
    return Fitted(step, value, seconds, step * training.batch_size / seconds, num_trained, alarm)


def _pairs(objective: Objective, batch: Batch, teacher: Ema | None, step: int) -> Pairs:
    images, tokens = objective.inputs(batch)
    model = objective.model
    vectors = {
        "images": objective.encode_images(images),
        "texts": objective.encode_texts(tokens),
        "logit_scale": model.logit_scale.exp(),  # type: ignore[operator]
        "logit_bias": getattr(model, "logit_bias", None),
    }
    if teacher is not None:
        teaching = Objective(teacher.model, MEAN, STD, objective.criterion)
        with torch.no_grad():
            vectors |= {
                "teacher_images": teaching.encode_images(images),
                "teacher_texts": teaching.encode_texts(tokens),
                "teacher_logit_scale": teacher.model.logit_scale.exp(),  # type: ignore[operator]
                "teacher_logit_bias": getattr(teacher.model, "logit_bias", None),
            }
    return Pairs(**vectors, step=step - 1)


def _collapsed(detector: CollapseDetector, step: int, pairs: Pairs) -> bool:
    if step != 1 and step % FIGURES_EVERY_STEPS:
        return False
    return detector.see(step, vector_figures(pairs.images.detach(), pairs.texts.detach())) is not None
