"""open_clip's own trainer on its synthetic data set, as fast as its options make it."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path

from benchmarks.indexing.watch import watch
from benchmarks.training.photos.peer import ensure_requirements, pairs_per_second


@dataclass(frozen=True)
class Options:
    """``compiled``: with ``--torchcompile``."""

    workers: int
    compiled: bool

    def name(self) -> str:
        return f"{self.workers} workers{', compiled' if self.compiled else ''}"


def candidates(num_cores: int) -> list[Options]:
    """What is tried: its synthetic pictures go through the whole transform, so workers matter."""
    return [Options(workers, compiled) for workers in sorted({num_cores, 2 * num_cores}) for compiled in (False, True)]


def measure_theirs(architecture: str, batch_size: int, steps: int, options: Options, out: Path) -> float:
    """Pairs/s in the steady state by its own log with a line for each step. Raises CommandFailed."""
    ensure_requirements(out / "peer-packages")
    name = f"{architecture}-{options.name().replace(', ', '-').replace(' ', '-')}-{os.getpid()}"
    command = [
        sys.executable, "-m", "open_clip_train.main", "--dataset-type", "synthetic", "--train-num-samples",
        str(steps * batch_size), "--model", architecture, "--batch-size", str(batch_size), "--workers",
        str(options.workers), "--epochs", "1", "--precision", "amp_bf16", "--lr", "1e-4", "--warmup", "10",
        "--grad-clip-norm", "1.0", "--log-every-n-steps", "1", "--save-frequency", "0", "--logs", str(out / "logs"),
        "--name", name, *(["--torchcompile"] if options.compiled else []),
    ]  # fmt: skip
    paths = [str(out / "peer-packages"), *filter(None, [os.environ.get("PYTHONPATH")])]
    log = out / f"{name}.log"
    watch(command, log, {**os.environ, "PYTHONPATH": os.pathsep.join(paths)})
    return pairs_per_second(log.read_text(encoding="utf-8", errors="replace"), batch_size)
