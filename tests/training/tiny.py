"""Models and batches small enough for exact comparisons in a second."""

from __future__ import annotations

from typing import Any

import numpy as np
import open_clip
import torch
from open_clip.model import CLIPTextCfg, CLIPVisionCfg
from torch import nn

from training.batch import Batch
from training.objective import Objective
from training.objectives import ObjectiveSettings

DIM, SIDE, CONTEXT, VOCABULARY = 16, 16, 8, 50
MEAN = STD = (0.5, 0.5, 0.5)
RESNET: dict[str, Any] = {"layers": (1, 1, 1, 1), "width": 8, "head_width": 64, "image_size": 32}


def tiny_model(*, bias: float | None = None, dropout: float = 0.0, vision: dict[str, Any] | None = None) -> Any:
    """A CLIP of 40,000 parameters, always the same weights; a ``bias`` makes it a sigmoid model."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        shape = {"image_size": SIDE, "patch_size": 8, "layers": 2, "width": 32, "head_width": 16, **(vision or {})}
        model: Any = open_clip.CLIP(
            DIM,
            CLIPVisionCfg(**shape),
            CLIPTextCfg(context_length=CONTEXT, vocab_size=VOCABULARY, layers=2, width=32, heads=2),
            init_logit_scale=2.0,
            init_logit_bias=bias,
        )
    if dropout:
        model.ln_final = nn.Sequential(model.ln_final, nn.Dropout(dropout))
        model.visual.ln_pre = nn.Sequential(model.visual.ln_pre, nn.Dropout(dropout))
    return model.train()


def objective_of(model: nn.Module, precision: str = "fp32", **settings: Any) -> Objective:
    """An objective over a tiny model, with the keys of ``[objective]``."""
    return Objective(model, MEAN, STD, ObjectiveSettings.model_validate(settings), precision=precision, dim=DIM)


def random_batch(num_images: int = 8, num_texts: int | None = None, *, step: int = 0, side: int = SIDE) -> Batch:
    """Random pictures, and texts of several lengths that end with the highest token; a function of the step."""
    rng = np.random.default_rng([7, step])
    num_texts = num_texts or num_images
    tokens = rng.integers(1, VOCABULARY - 1, (num_texts, CONTEXT))
    for row, end in enumerate(rng.integers(2, CONTEXT, num_texts)):
        tokens[row, end] = VOCABULARY - 1
        tokens[row, end + 1 :] = 0
    return Batch(
        step=step,
        epoch=0,
        rows=np.arange(num_images),
        pixels=rng.integers(0, 256, (num_images, side, side, 3), dtype=np.uint8),
        features=None,
        tokens=tokens,
    )


def gradients(objective: Objective) -> dict[str, torch.Tensor]:
    """A copy of every gradient, by the parameter's name."""
    return {name: p.grad.clone() for name, p in objective.named_parameters() if p.grad is not None}


def worst_difference(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    """The largest difference of any gradient, relative to that gradient's own norm."""
    assert one.keys() == other.keys()
    return max(float((one[name] - other[name]).norm() / one[name].norm().clamp_min(1e-30)) for name in one)
