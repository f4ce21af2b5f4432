"""What a worker process does: train a base, or run an experiment. Importable by name, as spawned processes need it."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import torch

from benchmarks.training.world.experiments import EXPERIMENTS
from benchmarks.training.world.lab import Lab, Size
from benchmarks.training.world.results import Finished, Results


def make_base(seed: int, out: Path, size: Size) -> None:
    """Train the base of a seed, in a process of its own, unless it is there."""
    torch.set_num_threads(1)
    if not (out / f"base-{seed}.pt").is_file():
        started = time.monotonic()
        Lab(seed, out, size).base()
        print(f"base of seed {seed}: {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)


def run_experiment(name: str, seed: int, variants: list[str], out: Path, size: Size) -> None:
    """Run these variants of an experiment, in a process of its own, and keep each as soon as it is finished."""
    torch.set_num_threads(1)
    experiment = next(one for one in EXPERIMENTS if one.name == name)
    lab, results = Lab(seed, out, size), Results(out / "runs.jsonl")
    for variant in variants:
        started = time.monotonic()
        figures = experiment.run(lab, variant)
        seconds = time.monotonic() - started
        results.add(Finished(name, variant, seed, round(seconds, 2), figures))
        shown = ", ".join(f"{key} {figures[key]:.3f}" for key in experiment.columns if key in figures)
        print(f"{name}, {variant}, seed {seed}: {shown} ({seconds:.0f} s)", file=sys.stderr, flush=True)
