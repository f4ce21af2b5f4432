"""open_clip's own trainer (``open_clip_train.main`` of the installed open_clip_torch) as a user would run it.

Checked on open_clip_torch 3.3.0. Its trainer imports webdataset and braceexpand, which the package does not ask for:
they are installed into a folder of their own, so that both sides compute with the same torch. (It fails with webdataset
1.0, which names a key differently.)

What it does and offers on a CPU:

* ``--dataset-type csv`` reads a table of (path, caption); a picture with five captions is five rows, so a batch may
  hold a picture twice. ``webdataset`` reads tars with one caption for each sample. Pictures are decoded and cropped at
  random (0.9 to 1 of the area, unless told otherwise) again in each epoch by ``--workers`` processes;
* ``--precision amp_bf16`` computes in bf16 under autocast, ``fp32`` without;
* texts are always padded to the context length;
* the learning rate warms up and falls as half a cosine over ``epochs`` × rows / batch steps: with
  ``--save-frequency 0`` one checkpoint is written, at the end.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import statistics
import subprocess
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.indexing.watch import CommandFailed, Watched, watch
from training.model import build_checkpoint
from training.recipe import Recipe

REQUIREMENTS = {"webdataset": "webdataset==0.2.86", "braceexpand": "braceexpand==0.1.7", "pandas": "pandas"}
MODEL_NAME = "benchmark"
_START = (
    "import sys, open_clip; open_clip.add_model_config(sys.argv[1]); from open_clip_train.main import main; "
    "main(sys.argv[2:])"
)
_BATCH_SECONDS = re.compile(r"Batch \(t\): ([0-9.]+)")
_WARM_UP_LINES = 6


@dataclass(frozen=True)
class PeerSettings:
    """How the peer is run; what is not here is its default. ``crop_scale``: the least share of the area of its random
    crop."""

    dataset: str = "csv"
    workers: int = 2
    precision: str = "amp_bf16"
    batch_size: int = 256
    learning_rate: float = 1e-3
    warmup_steps: int = 50
    weight_decay: float = 0.1
    max_gradient_norm: float = 1.0
    crop_scale: float = 0.9

    def name(self) -> str:
        return f"{self.dataset}, {self.workers} workers, {self.precision}"

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class PeerJob:
    """One training of the peer: rows of the table in an epoch times epochs pairs, into ``logs/name``."""

    data: str
    num_rows: int
    epochs: int
    seed: int
    name: str
    log_every_steps: int = 100


def ensure_requirements(folder: Path) -> None:
    """Install what the trainer imports beyond open_clip_torch into ``folder``: well below 1 MB but for pandas.

    Raises CommandFailed.
    """
    missing = [
        requirement
        for module, requirement in REQUIREMENTS.items()
        if importlib.util.find_spec(module) is None and not (folder / module).is_dir()
    ]
    if not missing:
        return
    command = [
        sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", "--target",
        str(folder), *missing,
    ]  # fmt: skip
    if subprocess.run(command, check=False).returncode:
        raise CommandFailed(f"What open_clip's trainer imports could not be installed with: {' '.join(command)}")


def write_architecture(recipe: Recipe, folder: Path) -> None:
    """The recipe's architecture as a model config under the name that the peer is told."""
    checkpoint = build_checkpoint(recipe)
    folder.mkdir(parents=True, exist_ok=True)
    config = {name: value for name, value in checkpoint.model_cfg.items() if name != "quick_gelu"}
    (folder / f"{MODEL_NAME}.json").write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")


def arguments(recipe: Recipe, settings: PeerSettings, job: PeerJob, logs: Path) -> list[str]:
    """The trainer's command line."""
    source = [
        "--train-data", job.data, "--dataset-type", settings.dataset, "--train-num-samples", str(job.num_rows),
        "--workers", str(settings.workers), "--epochs", str(job.epochs), "--batch-size", str(settings.batch_size),
        "--aug-cfg", f"scale=({settings.crop_scale},1.0)",
    ]  # fmt: skip
    optimiser = [
        "--lr", str(settings.learning_rate), "--warmup", str(settings.warmup_steps), "--wd", str(settings.weight_decay),
        "--grad-clip-norm", str(settings.max_gradient_norm), "--precision", settings.precision, "--seed", str(job.seed),
    ]  # fmt: skip
    model = [
        "--model", MODEL_NAME, "--image-mean", *map(str, recipe.model.mean), "--image-std",
        *map(str, recipe.model.std), "--device", "cpu",
    ]  # fmt: skip
    output = [
        "--logs", str(logs), "--name", job.name, "--save-frequency", "0", "--log-every-n-steps",
        str(job.log_every_steps),
    ]  # fmt: skip
    return [*source, *optimiser, *model, *output]


def run_peer(recipe: Recipe, settings: PeerSettings, job: PeerJob, out: Path, log: Path) -> Watched:
    """Train with the peer's command to its end. Raises CommandFailed."""
    command = [sys.executable, "-c", _START, str(out / "architecture"), *arguments(recipe, settings, job, out / "logs")]
    paths = [str(out / "peer-packages"), *filter(None, [os.environ.get("PYTHONPATH")])]
    return watch(command, log, {**os.environ, "PYTHONPATH": os.pathsep.join(paths)})


def checkpoint_of(job: PeerJob, out: Path) -> Path:
    """Where the trainer leaves its weights. Raises CommandFailed when it left none."""
    path = out / "logs" / job.name / "checkpoints" / f"epoch_{job.epochs}.pt"
    if not path.is_file():
        raise CommandFailed(f"open_clip's trainer left no weights at {path}; see its log beside it.")
    return path


def pairs_per_second(text: str, batch_size: int) -> float:
    """The rate in the steady state by the trainer's own log with a line for each step.

    From the median time between batches, waits for data included, without the first lines, in which worker processes
    start and what they have made ahead is used up. Raises CommandFailed.
    """
    seconds = [float(found) for found in _BATCH_SECONDS.findall(text)]
    if len(seconds) < 2 * _WARM_UP_LINES:
        raise CommandFailed("open_clip's trainer logged too few steps to tell its rate.")
    return batch_size / statistics.median(seconds[_WARM_UP_LINES:])


def candidates(settings: PeerSettings, num_cores: int) -> list[PeerSettings]:
    """What is tried to find the peer's fastest settings on this machine."""
    workers = sorted({1, num_cores, 2 * num_cores})
    found = [replace(settings, workers=count, precision="amp_bf16") for count in workers]
    return [*found, replace(settings, workers=1, precision="fp32"), replace(settings, dataset="webdataset", workers=1)]
