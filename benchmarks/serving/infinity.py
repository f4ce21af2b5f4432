"""The peer: Infinity (``infinity_emb``, MIT) in an environment of its own, on the weights that Sightline serves.

What was learnt while getting version 0.0.78 to run:

* its image route needs ``aiohttp``, which has to be installed beside it;
* ``--dtype bfloat16`` reaches CLIP on CUDA only: on a CPU the vectors are the same to the last bit with it and without;
* with transformers 4 its CLIP texts are cut to 20 tokens (``config.max_length`` is the generation default), which
  shortens long texts and so works in its favour here.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from benchmarks.serving.servers import Server, ServerFailed, free_port, running

REQUIREMENTS = (
    "infinity_emb[all]==0.0.78",
    "aiohttp==3.14.5",
    "torch==2.14.1",
    "torchvision==0.29.1",
    "transformers==4.47.1",
    "tokenizers==0.21.4",
    "huggingface_hub==0.36.2",
    "optimum==2.1.0",
    "optimum-onnx==0.1.0",
    "sentence-transformers==3.4.1",
    "colpali-engine==0.3.8",
    "fastapi==0.165.0",
    "starlette==1.10.0",
    "uvicorn==0.32.1",
    "typer==0.12.5",
    "click==8.1.8",
    "numpy==1.26.4",
)
"""Versions that work together; pip's own choice of the same day, written down."""

BATCH_SIZE = 32


def ensure_environment(folder: Path) -> Path:
    """Python of a virtual environment with Infinity, made in ``folder`` when it is not there: several GB.

    Raises ServerFailed when the installation fails.
    """
    python = folder / "bin" / "python"
    if (folder / "bin" / "infinity_emb").is_file():
        return python
    commands = (
        [sys.executable, "-m", "venv", str(folder)],
        [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *REQUIREMENTS],
    )
    for command in commands:
        if subprocess.run(command, check=False).returncode:
            raise ServerFailed(
                f"Infinity's environment could not be made with: {' '.join(command)}; give one that works with "
                "--infinity-env, or measure without the peer (--no-infinity)."
            )
    return python


@contextlib.contextmanager
def infinity_server(
    environment: Path, clip_folder: Path, log: Path, *, device: str = "cpu", dtype: str = "auto"
) -> Iterator[Server]:
    """Infinity with its defaults (torch engine, batch 32, compiled, warmed up); ``dtype`` as its option takes it."""
    port = free_port()
    command = [
        str(environment / "bin" / "infinity_emb"), "v2", "--model-id", str(clip_folder), "--host", "127.0.0.1",
        "--port", str(port), "--engine", "torch", "--batch-size", str(BATCH_SIZE), "--device", device,
        "--dtype", dtype, "--log-level", "warning",
    ]  # fmt: skip
    quiet = {
        "DO_NOT_TRACK": "1", "INFINITY_ANONYMOUS_USAGE_STATS": "0", "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "true",
    }  # fmt: skip
    with running(command, port, "/health", log, {**os.environ, **quiet}) as server:
        yield server
