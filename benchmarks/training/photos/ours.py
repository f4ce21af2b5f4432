"""``sightline train`` as a user starts it, measured."""

from __future__ import annotations

import json
import os
import re
import shutil
import statistics
import sys
from pathlib import Path

from benchmarks.indexing.watch import CommandFailed, Watched, watch

RECIPE = Path(__file__).with_name("photos.toml")
_WARM_UP_STEPS = 5


def write_recipe(source: Path, out: Path, *, num_steps: int, seed: int) -> Path:
    """The recipe with another number of steps and another seed, each of which it must name exactly once."""
    text = source.read_text(encoding="utf-8")
    for key, value in (("num_steps", num_steps), ("seed", seed)):
        text, count = re.subn(rf"(?m)^{key} = \d+", f"{key} = {value}", text)
        if count != 1:
            raise CommandFailed(f"{source} must set {key} once, on a line of its own.")
    out.write_text(text, encoding="utf-8")
    return out


def run_ours(recipe: Path, data: str, bundle: Path, log: Path) -> Watched:
    """Train with ``sightline train`` to a bundle, from starting Python to its end. Raises CommandFailed."""
    for left in (bundle, bundle.with_name(f"{bundle.name}.training")):
        shutil.rmtree(left, ignore_errors=True)
    command = [
        sys.executable, "-m", "sightline", "train", str(recipe), "--data", data, "--out", str(bundle), "--device",
        "cpu", "--json",
    ]  # fmt: skip
    return watch(command, log, environment())


def environment() -> dict[str, str]:
    """That of this process without Sightline's own variables."""
    return {name: value for name, value in os.environ.items() if not name.startswith("SIGHTLINE_")}


def log_of(bundle: Path) -> Path:
    """Where a training of this bundle leaves a line for each step."""
    return bundle.with_name(f"{bundle.name}.training") / "log.jsonl"


def pairs_per_second(log: Path, batch_size: int) -> float:
    """The rate in the steady state by our own log, as the peer's is taken from its own. Raises CommandFailed."""
    lines = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    seconds = [float(line["seconds"]) for line in lines if "seconds" in line and "loss" in line]
    if len(seconds) <= 2 * _WARM_UP_STEPS:
        raise CommandFailed(f"{log} has too few steps to tell a rate.")
    return batch_size / statistics.median(seconds[_WARM_UP_STEPS:])
