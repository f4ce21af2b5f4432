"""The loss of a batch whose matrix of logits would not fit: seconds and memory in blocks, both passes, one thread.

Run as a module it measures itself in a fresh process and prints one JSON object.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, get_args

from benchmarks.indexing.watch import CommandFailed, status_fields
from benchmarks.serving.bars import Bar, spread
from training.objectives.settings import Kind

NUM_PAIRS, DIM, SCALE = 262_144, 64, 14.3
MEGABYTES_BOUND = 1000.0
KINDS: tuple[Kind, ...] = get_args(Kind)
STATUS = Path("/proc/self/status")


def measure_large_batch(kind: Kind, num_pairs: int = NUM_PAIRS) -> dict[str, Any]:
    """Once, in a process of its own, since the peak of memory counts. Raises CommandFailed."""
    command = [sys.executable, "-m", "benchmarks.training.costs.large_batch", kind, str(num_pairs)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    if ended.returncode:
        raise CommandFailed(f"The loss of {num_pairs} pairs failed: {ended.stderr[-500:]}")
    found: dict[str, Any] = json.loads(ended.stdout)
    return found


def large_batch_bar(measured: dict[str, Any]) -> Bar:
    """Below 1 GB beside the vectors and their gradients."""
    name = f"{measured['kind']} loss of {measured['num_pairs']:,} pairs in blocks: memory beside vectors and gradients"
    return Bar(name, spread([measured["extra_bytes"] / 1e6]), MEGABYTES_BOUND, "at most", " MB")


def large_batch_row(measured: dict[str, Any]) -> str:
    """A sentence with the absolute figures."""
    forward, backward = measured["forward_seconds"], measured["backward_seconds"]
    matrix_bytes = 4 * measured["num_pairs"] ** 2
    return (
        f"The {measured['kind']} loss of {measured['num_pairs']:,} pairs of {measured['dim']} dimensions, in blocks of "
        f"{measured['block']}: {(forward + backward) / 60:.1f} minutes of one thread ({forward:.0f} s forward, "
        f"{backward:.0f} s backward; {measured['cpu_seconds']:.0f} s of the processor); its matrix of logits would "
        f"take {matrix_bytes / 1e9:,.1f} GB."
    )


def _main() -> None:
    import torch
    from torch.nn.functional import normalize

    from training.objectives import ObjectiveSettings, Pairs, initial_bias, make_loss
    from training.objectives.compose import CHUNK_SIZE

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("num_pairs", type=int)
    options = parser.parse_args()
    torch.set_num_threads(1)
    loss = make_loss(ObjectiveSettings(), kind=options.kind)

    def pairs_of(num_pairs: int) -> Pairs:
        """Pairs on the sphere whose captions lie near their pictures, and the scalars of an untrained model."""
        generator = torch.Generator().manual_seed(0)
        images = normalize(torch.randn(num_pairs, DIM, generator=generator), dim=1)  # [B, D]
        noise = torch.randn(num_pairs, DIM, generator=generator)  # [B, D]
        texts = normalize(noise.div_(math.sqrt(DIM)).add_(images), dim=1)  # [B, D]
        bias = torch.tensor(initial_bias(num_pairs)).requires_grad_() if options.kind == "sigmoid" else None
        return Pairs(images.requires_grad_(), texts.requires_grad_(), torch.tensor(SCALE).requires_grad_(), bias)

    # What Python, torch and its libraries take once does not count; small, or its freed memory would be used again.
    make_loss(ObjectiveSettings(chunk_size=16), kind=options.kind)(pairs_of(64)).total.backward()
    pairs = pairs_of(options.num_pairs)
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak counts from here
    before = status_fields(STATUS.read_text(encoding="utf-8"))["VmRSS"]
    started, cpu_started = time.perf_counter(), time.process_time()
    total = loss(pairs).total
    between = time.perf_counter()
    total.backward()
    ended, cpu_ended = time.perf_counter(), time.process_time()
    peak = status_fields(STATUS.read_text(encoding="utf-8"))["VmHWM"]
    gradients = [vectors.grad for vectors in (pairs.images, pairs.texts)]
    assert all(gradient is not None and bool(gradient.isfinite().all()) for gradient in gradients)
    gradient_bytes = sum(gradient.nbytes for gradient in gradients if gradient is not None)
    print(
        json.dumps(
            {
                "kind": options.kind, "num_pairs": options.num_pairs, "dim": DIM, "block": CHUNK_SIZE["cpu"],
                "loss": float(total.detach()), "forward_seconds": between - started,
                "backward_seconds": ended - between, "cpu_seconds": cpu_ended - cpu_started,
                "gradient_bytes": gradient_bytes, "extra_bytes": peak - before - gradient_bytes,
            }
        )
    )  # fmt: skip


if __name__ == "__main__":
    _main()
