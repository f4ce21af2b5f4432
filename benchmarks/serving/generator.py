"""Asking the generator process for one load, from a benchmark that starts many."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.serving.requests import Shape
from benchmarks.serving.servers import Server

APART = 1_000_003
"""How far apart the first numbers of two loads on one server lie, so that no picture comes twice."""


class GeneratorFailed(Exception):
    """The generator ended without figures; the text has what it wrote."""


def generate(server: Server, shape: Shape, pool: Path, *arguments: str | int | float | Path) -> dict[str, Any]:
    """Run ``benchmarks.serving.generate`` to its end and return its figures. Raises GeneratorFailed."""
    command = [
        sys.executable, "-m", "benchmarks.serving.generate", server.url, "--shape", shape, "--pool", str(pool),
        *map(str, arguments),
    ]  # fmt: skip
    return json_of(command)


def json_of(command: list[str]) -> dict[str, Any]:
    """Run one of this package's commands that print one JSON object. Raises GeneratorFailed."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise GeneratorFailed(f"{' '.join(command[1:4])} ended with {done.returncode}:\n{done.stderr[-2000:]}")
    figures: dict[str, Any] = json.loads(done.stdout)
    return figures
