"""The collapse detector: induced causes and healthy runs."""

from __future__ import annotations

import math

import torch
from torch import nn

from benchmarks.training.world.fit import fit
from benchmarks.training.world.lab import Lab
from benchmarks.training.world.shapes import ByVariant, Experiment, Figures, Shape
from training.objectives import Loss, Pairs
from training.stages import WHOLE_MODEL, Part

CAUSES = ("learning rate", "no negatives", "dead tower")


def _collapse(lab: Lab, variant: str) -> Figures:
    """Each cause sets in at step 1 of a healthy model; "healthy" goes on as before. Without negatives a fresh model is
    trained: one whose pairs lie together already only comes to rest (100 steps left it healthy)."""
    checkpoint, before = lab.base()
    training = lab.training(100, warmup_steps=0)
    criterion: nn.Module | None = None
    parts: tuple[Part, ...] = WHOLE_MODEL
    if variant == "learning rate":
        training = training.model_copy(update={"learning_rate": 1.0, "muon_learning_rate": 5.0})
    elif variant == "no negatives":
        checkpoint, criterion = lab.fresh(), _Attraction()
    elif variant == "dead tower":
        _kill(checkpoint.model.visual)  # type: ignore[arg-type]
        parts = ("text", "text-head", "logit-scale")
    batches = lab.batches(lab.train, training)
    fitted = fit(checkpoint, batches, training, seed=lab.seed, criterion=criterion, parts=parts)
    return fitted.as_json() | {"alarm_of_base": before["alarm_step"]}


class _Attraction(nn.Module):
    """Pulls each pair together and pushes nothing apart."""

    def forward(self, pairs: Pairs) -> Loss:
        total = 1 - (pairs.images * pairs.texts[: len(pairs.images)]).sum(dim=1).mean()
        return Loss(total, {"attraction": total.detach()})


@torch.no_grad()
def _kill(tower: nn.Module) -> None:
    """Let the last norm give the same for every picture."""
    tower.ln_post.weight.zero_()  # type: ignore[union-attr,operator]
    tower.ln_post.bias.fill_(1.0)  # type: ignore[union-attr,operator]


def _steps_until(cause: str) -> Shape:
    def steps(found: ByVariant) -> float:
        return found[cause]["alarm_step"] or math.inf

    return Shape(f"steps until the alarm: {cause}", "the detector's own bar", steps, 50, "at most")


COLLAPSE = Experiment(
    "collapse",
    "Does the collapse detector fire, and only then?",
    (*CAUSES, "healthy"),
    _collapse,
    (
        *map(_steps_until, CAUSES),
        Shape(
            "false alarms of two healthy runs", "the detector's own bar",
            lambda found: float(
                (found["healthy"]["alarm_step"] > 0) + (found["healthy"]["alarm_of_base"] > 0)
            ), 0, "at most",
        ),
    ),
    ("alarm_step",),
)  # fmt: skip
