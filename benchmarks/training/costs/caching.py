"""Gradient caching beside the dense step: the same gradients with the memory of a micro-batch, for one more forward."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from benchmarks.serving.bars import Bar, ratios
from benchmarks.training.costs.steps import in_turns, made_up_batch, median
from training.gradient_cache import backward
from training.model import build_checkpoint
from training.objective import Objective
from training.recipe import Recipe
from training.schedule import make_optimizers

BOUND = 1.40
RECIPE = {
    "name": "caching",
    "model": {
        "embed_dim": 256,
        "vision": {"image_size": 112, "patch_size": 16, "layers": 8, "width": 384, "head_width": 64},
        "text": {"context_length": 77, "layers": 6, "width": 256, "heads": 4},
    },
    "training": {"num_steps": 1, "batch_size": 2, "learning_rate": 1e-4},
}


def measure_caching(batch_size: int, micro_batch: int, rounds: int, precision: str = "auto") -> dict[str, Any]:
    """Seconds of whole steps (both passes, clipping, AdamW), dense and cached, on the same batch of noise."""
    recipe = Recipe.model_validate(RECIPE)
    checkpoint = build_checkpoint(recipe)
    objective = Objective(checkpoint.model, checkpoint.pixels.mean, checkpoint.pixels.std, precision=precision)
    checkpoint.model.train()
    parameters = dict(checkpoint.model.named_parameters())
    optimizers = make_optimizers(parameters, recipe.training)
    batch = made_up_batch(batch_size, checkpoint.pixels.width_px, checkpoint.texts.context_length)

    def step(micro: int | None) -> None:
        checkpoint.model.zero_grad(set_to_none=True)
        backward(objective, batch, micro)
        nn.utils.clip_grad_norm_(parameters.values(), 1.0)
        for optimizer in optimizers:
            optimizer.step()

    seconds = in_turns({"dense": lambda: step(None), "cached": lambda: step(micro_batch)}, rounds)
    return {
        "batch_size": batch_size, "micro_batch": micro_batch, "precision": precision, "seconds": seconds,
        "parameters": sum(parameter.numel() for parameter in parameters.values()), "threads": torch.get_num_threads(),
    }  # fmt: skip


def caching_bar(measured: dict[str, Any]) -> Bar:
    """At most 1.40 times the dense step; arithmetic alone says 4/3."""
    seconds = measured["seconds"]
    return Bar(
        "gradient cache: a step against the dense step", ratios(seconds["cached"], seconds["dense"]), BOUND, "at most"
    )


def caching_row(measured: dict[str, Any]) -> str:
    """A sentence with the absolute figures."""
    dense, cached = (median(measured["seconds"][name]) for name in ("dense", "cached"))
    return (
        f"Gradient cache: a batch of {measured['batch_size']} in micro-batches of {measured['micro_batch']}, "
        f"{measured['parameters'] / 1e6:.1f} M parameters: {cached:.2f} s a step, dense {dense:.2f} s."
    )
