"""The training loop: one device, one process, every step written out.

batch → loss → gradients → clip → AdamW → clamp the logit scale → log; a checkpoint every so often.
"""

from __future__ import annotations

import contextlib
import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from sightline.encoder.precision import has_bf16_matrix_units
from sightline.errors import TrainingStopped
from training.checkpoint import load_checkpoint, save_checkpoint
from training.data import Batches
from training.objective import Objective
from training.recipe import Training
from training.schedule import make_optimizers, rate_factor

LOG_NAME = "log.jsonl"


@dataclass(frozen=True, slots=True)
class Step:
    """One line of the log. ``step`` counts from 1; ``gradient_norm`` is that before clipping."""

    step: int
    epoch: int
    loss: float
    learning_rate: float
    gradient_norm: float
    logit_scale: float
    seconds: float


OnStep = Callable[[Step], None]


def train(
    objective: Objective,
    batches: Batches,
    training: Training,
    *,
    seed: int,
    run: str,
    folder: Path,
    device: torch.device,
    resume: bool = False,
    on_step: OnStep | None = None,
) -> Step:
    """Train the objective's model in place and return the last step.

    ``folder`` (which must exist) takes ``log.jsonl``, one ``Step`` a line, and a checkpoint every
    ``checkpoint_every_steps`` steps, at the end, and when interrupted from the keyboard. With ``resume`` the
    run goes on from that checkpoint; on a CPU the result is that of an unbroken run, bit for bit.
    ``on_step`` is called after each step.

    Raises TrainingStopped when the loss or the gradients are no longer numbers, or when there is nothing to
    resume.
    """
    torch.manual_seed(seed)
    model = objective.model.train()
    objective.to(device)
    optimizers = make_optimizers(model, training)
    max_log_scale = max(math.log(training.max_logit_scale), _log_scale(model))
    done = 0
    if resume:
        done = load_checkpoint(folder, run=run, model=model, optimizers=optimizers)
    groups = [group for optimizer in optimizers for group in optimizer.param_groups]  # resuming replaces them
    parameters = [p for group in groups for p in group["params"]]
    last = Step(done, 0, math.nan, 0.0, math.nan, math.exp(_log_scale(model)), 0.0)
    _cut_log(folder / LOG_NAME, done)
    with (folder / LOG_NAME).open("a", encoding="utf-8") as log:
        try:
            for step in range(done, training.num_steps):
                started = time.perf_counter()
                factor = rate_factor(step, training)
                for group in groups:
                    group["lr"] = factor * group["peak_learning_rate"]
                rate = factor * training.learning_rate
                batch = batches.at(step)
                pixels = torch.from_numpy(batch.pixels).to(device)  # [B, H, W, 3]
                tokens = torch.from_numpy(batch.tokens).to(device)  # [B, L]
                with arithmetic(training.precision, device):
                    loss = objective(pixels, tokens)
                model.zero_grad(set_to_none=True)
                loss.backward()
                norm = float(nn.utils.clip_grad_norm_(parameters, training.max_gradient_norm))
                value = loss.item()
                if not math.isfinite(value) or not math.isfinite(norm):
                    raise TrainingStopped(_not_a_number(step + 1, value, rate), step=step + 1)
                for optimizer in optimizers:
                    optimizer.step()
                with torch.no_grad():
                    model.logit_scale.clamp_(0.0, max_log_scale)  # type: ignore[operator]
                done = step + 1
                seconds = time.perf_counter() - started
                scale = math.exp(_log_scale(model))
                last = Step(done, batch.epoch, value, rate, norm, scale, seconds)
                log.write(json.dumps(asdict(last)) + "\n")
                if done % training.checkpoint_every_steps == 0 or done == training.num_steps:
                    save_checkpoint(folder, step=done, run=run, model=model, optimizers=optimizers)
                if on_step is not None:
                    on_step(last)
        except KeyboardInterrupt:
            save_checkpoint(folder, step=done, run=run, model=model, optimizers=optimizers)
            raise
    return last


@contextlib.contextmanager
def arithmetic(precision: str, device: torch.device) -> Iterator[None]:
    """The precision of the forward pass (see ``Training.precision``).

    In bf16 on a CPU torch's fused attention is slow backwards: that pass took 173 ms with it and 67 ms
    with plain matrix products (a small ViT, 128 pairs, two cores with AMX), so attention is
    done with those.
    """
    if precision == "auto":
        precision = "bf16" if device.type == "cuda" or has_bf16_matrix_units() else "fp32"
    if precision == "fp32":
        yield
        return
    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.autocast(device.type, torch.bfloat16))
        if device.type == "cpu":
            stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        yield


def _log_scale(model: nn.Module) -> float:
    return float(model.logit_scale.detach().mean())  # type: ignore[operator]


def _not_a_number(step: int, loss: float, rate: float) -> str:
    what = "gradients are" if math.isfinite(loss) else "loss is"
    return (
        f"Training stopped at step {step:,}: the {what} not a number (learning rate {rate:.2g}); "
        "lower learning_rate or lengthen warmup_steps."
    )


def _cut_log(path: Path, done: int) -> None:
    """Keep the log's first ``done`` lines: what came after the checkpoint is trained again."""
    if not path.is_file():
        return
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    path.write_text("".join(lines[:done]), encoding="utf-8")
