"""The peer: clip-retrieval (MIT) in an environment of its own, on the weights that Sightline encodes with.

What was learnt while getting version 2.45.0 to run:

* it imports ``pkg_resources``, which setuptools 80 no longer has in this form: ``setuptools<80``;
* weights of one's own are named ``open_clip:ARCHITECTURE//absolute/path.pt``, and ``--use_jit`` has to be off for them;
* with captions beside the pictures its folder reader fails (a KeyError), so both sides get pictures alone;
* on a CPU it computes in fp32; it has no option for less.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.indexing.watch import CommandFailed, Watched, watch

REQUIREMENTS = ("clip-retrieval==2.45.0", "setuptools<80", "torch==2.14.1", "torchvision==0.29.1")
"""torch as Sightline has it, so that both compute with the same library."""

DEFAULT_BATCH_SIZE, DEFAULT_WORKERS = 256, 4
"""clip-retrieval's own defaults."""


@dataclass(frozen=True)
class PeerOptions:
    """How clip-retrieval is run: its environment, the weights, pictures in a batch and processes that decode."""

    environment: Path
    weights: Path
    architecture: str
    batch_size: int
    num_workers: int


def ensure_environment(folder: Path) -> None:
    """Make a virtual environment with clip-retrieval in ``folder`` when it is not there: several GB.

    Raises CommandFailed when the installation fails.
    """
    if (folder / "bin" / "clip-retrieval").is_file():
        return
    python = str(folder / "bin" / "python")
    commands = (
        [sys.executable, "-m", "venv", str(folder)],
        [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *REQUIREMENTS],
    )
    for command in commands:
        if subprocess.run(command, check=False).returncode:
            raise CommandFailed(
                f"clip-retrieval's environment could not be made with: {' '.join(command)}; give one that works with "
                "--peer-env, or measure without the peer (--no-peer)."
            )


def run_peer(options: PeerOptions, source: Path, out: Path, log: Path) -> tuple[Watched, dict[str, Any]]:
    """``clip-retrieval inference`` over a folder into ``out``, and its own statistics. Raises CommandFailed."""
    command = [
        str(options.environment / "bin" / "clip-retrieval"), "inference", "--input_dataset", str(source),
        "--output_folder", str(out), "--enable_text", "False", "--use_jit", "False",
        "--clip_model", f"open_clip:{options.architecture}/{options.weights}",
        "--batch_size", str(options.batch_size), "--num_prepro_workers", str(options.num_workers),
    ]  # fmt: skip
    quiet = {
        "WANDB_MODE": "disabled", "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "true",
    }  # fmt: skip
    watched = watch(command, log, {**os.environ, **quiet})
    return watched, read_statistics(out)


def read_statistics(out: Path) -> dict[str, Any]:
    """The seconds that clip-retrieval counts from asking for the first batch to having the last one encoded.

    Loading the model and two warm-up batches come before, writing the vectors after; neither is in it.
    Raises CommandFailed when it left none.
    """
    found = [path for path in sorted((out / "stats").glob("*.json")) if not path.name.startswith("wip_")]
    if not found:
        raise CommandFailed(f"clip-retrieval left no statistics in {out}; see its log.")
    totals: dict[str, float] = {}
    for path in found:
        for name, value in json.loads(path.read_text(encoding="utf-8")).items():
            totals[name] = totals.get(name, 0.0) + value
    return {
        "num_images": int(totals["sample_count"]),
        "encode_seconds": totals["total_duration"],
        "stages": {
            "read and decode": totals["read_duration"], "encode": totals["inference_duration"],
            "write": totals["write_duration"],
        },
    }  # fmt: skip
