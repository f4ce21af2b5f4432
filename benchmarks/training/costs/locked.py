"""LiT with the locked tower's features cached beside LiT that computes them at every step."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from benchmarks.serving.bars import Bar, ratios
from benchmarks.training.costs.steps import in_turns, made_up_batch, median
from sightline.encoder.checkpoint import load_checkpoint
from sightline.encoder.spec import parse_spec
from training.batch import Batch
from training.features import cached_features
from training.gradient_cache import backward
from training.objective import Objective
from training.recipe import Training
from training.schedule import make_optimizers
from training.stages import StageSettings, begin

BOUND = 10.0
ARCHITECTURE = "ViT-L-14"
EPOCH = 10_000


def measure_locked(batch_size: int, rounds: int, architecture: str = ARCHITECTURE) -> dict[str, Any]:
    """Seconds of whole steps of LiT, the image tower locked and the text tower trained, on the same pictures.

    Each in fp32, as the features are, and in bf16; the product's own cache makes them once, before the first step.
    """
    checkpoint = load_checkpoint(parse_spec(f"{architecture}:random"))
    model = checkpoint.model
    batch = made_up_batch(batch_size, checkpoint.pixels.width_px, checkpoint.texts.context_length)
    assert batch.pixels is not None
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        features = np.array(cached_features(checkpoint, batch.pixels, Path(folder), data_sha256="noise"))
        caching_seconds = time.perf_counter() - started
    stage = StageSettings(name="locked", num_steps=1, train=("text", "text-head", "logit-scale"))
    names = set(begin(model, stage))
    pixels = checkpoint.pixels
    fp32, bf16 = (Objective(model, pixels.mean, pixels.std, precision=name) for name in ("fp32", "bf16"))
    parameters = {name: parameter for name, parameter in model.named_parameters() if name in names}
    optimizers = make_optimizers(parameters, Training(num_steps=1, batch_size=2, learning_rate=1e-4))
    cached = Batch(batch.step, batch.epoch, batch.rows, None, features, batch.tokens)

    def step(objective: Objective, chosen: Batch) -> None:
        model.zero_grad(set_to_none=True)
        backward(objective, chosen, None)
        nn.utils.clip_grad_norm_(parameters.values(), 1.0)
        for optimizer in optimizers:
            optimizer.step()

    seconds = in_turns(
        {
            "computed": lambda: step(fp32, batch),
            "cached": lambda: step(fp32, cached),
            "computed_bf16": lambda: step(bf16, batch),
            "cached_bf16": lambda: step(bf16, cached),
        },
        rounds,
    )
    return {
        "architecture": architecture, "batch_size": batch_size, "seconds": seconds,
        "caching_seconds_per_picture": caching_seconds / batch_size,
    }  # fmt: skip


def locked_bars(measured: dict[str, Any]) -> list[Bar]:
    """At least ten times the epochs an hour, in fp32 and in bf16."""
    seconds = measured["seconds"]
    name = f"LiT, {measured['architecture']}: epochs an hour with cached features against without, in"
    return [
        Bar(f"{name} {precision}", ratios(seconds[f"computed{key}"], seconds[f"cached{key}"]), BOUND, "at least")
        for precision, key in (("fp32", ""), ("bf16", "_bf16"))
    ]


def locked_row(measured: dict[str, Any]) -> str:
    """A sentence with the absolute figures for an epoch of ``EPOCH`` pairs."""
    steps = EPOCH / measured["batch_size"]
    computed, cached, computed_bf16, cached_bf16 = (
        3600 / (steps * median(measured["seconds"][name]))
        for name in ("computed", "cached", "computed_bf16", "cached_bf16")
    )
    once = measured["caching_seconds_per_picture"] * EPOCH / 60
    return (
        f"LiT, {measured['architecture']} untrained, batches of {measured['batch_size']}, epochs of {EPOCH:,} pairs: "
        f"{cached:.2f} epochs an hour with cached features, {computed:.3f} without (in bf16 {cached_bf16:.2f} and "
        f"{computed_bf16:.3f}); caching takes {once:.0f} minutes, once."
    )
