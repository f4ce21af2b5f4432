"""Sightline's training step on a GPU, on pictures of noise and captions of usual lengths, both in memory."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.training.costs.steps import made_up_batch
from sightline.encoder.checkpoint import load_checkpoint
from sightline.encoder.spec import parse_spec
from training.gradient_cache import backward
from training.objective import Objective
from training.recipe import Training
from training.schedule import make_optimizers
from training.stages import WHOLE_MODEL, StageSettings, begin

NUM_BATCHES = 4
PEAK_FLOPS = {"H200": 989e12, "H100": 989e12, "A100": 312e12, "L40S": 362e12, "A10G": 70e12, "L4": 121e12, "T4": 65e12}
"""Of dense matrix products in half precision, as NVIDIA's data sheets have them (H100: the SXM one)."""


@dataclass(frozen=True)
class Speed:
    """``flops_per_pair`` are those that a step really does: texts are cut to the batch's longest."""

    pairs_per_second: float
    flops_per_pair: float
    peak_bytes: int

    def utilisation(self, peak_flops: float) -> float:
        """The share of the GPU's arithmetic that went into the model, 0 to 1."""
        return self.pairs_per_second * self.flops_per_pair / peak_flops

    def as_json(self) -> dict[str, Any]:
        return dict(vars(self))


def measure_ours(
    architecture: str, batch_size: int, micro_batch: int | None, steps: int, warm_up: int, device: torch.device
) -> Speed:
    """Whole steps in bf16: pixels to the GPU, both towers, loss, gradients, clipping, AdamW."""
    checkpoint = load_checkpoint(parse_spec(f"{architecture}:random"))
    model = checkpoint.model
    objective = Objective(model, checkpoint.pixels.mean, checkpoint.pixels.std, precision="bf16").to(device)
    begin(model, StageSettings(name="all", num_steps=1, train=WHOLE_MODEL))
    parameters = dict(model.named_parameters())
    optimizers = make_optimizers(parameters, Training(num_steps=1, batch_size=2, learning_rate=1e-4))
    side, length = checkpoint.pixels.width_px, checkpoint.texts.context_length
    batches = [made_up_batch(batch_size, side, length, seed) for seed in range(NUM_BATCHES)]

    def step(number: int) -> None:
        model.zero_grad(set_to_none=True)
        backward(objective, batches[number % NUM_BATCHES], micro_batch)
        nn.utils.clip_grad_norm_(parameters.values(), 1.0)
        for optimizer in optimizers:
            optimizer.step()

    counter = FlopCounterMode(display=False)
    with counter:
        for number in range(NUM_BATCHES):
            step(number)
    flops = counter.get_total_flops() / (NUM_BATCHES * batch_size)
    if micro_batch is not None and micro_batch < batch_size:
        flops *= 3 / 4  # the second forward pass is not the model's
    for number in range(warm_up):
        step(number)
    on_gpu = device.type == "cuda"
    if on_gpu:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    started = time.perf_counter()
    for number in range(steps):
        step(number)
    if on_gpu:
        torch.cuda.synchronize()
    seconds = time.perf_counter() - started
    return Speed(steps * batch_size / seconds, flops, torch.cuda.max_memory_allocated() if on_gpu else 0)


def peak_flops(name: str) -> float | None:
    """What a GPU of this name can do at most, None when it is not in the table."""
    return next((flops for part, flops in PEAK_FLOPS.items() if part in name.replace(" ", "-").split("-")), None)
