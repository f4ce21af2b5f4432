"""One ``sightline index build`` as a user starts it, measured."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.indexing.watch import CommandFailed, Watched, watch


@dataclass(frozen=True)
class BuildOptions:
    """What is built with. ``thumbnail_px`` None: as the command has it."""

    encoder: str
    precision: str = "auto"
    thumbnail_px: int | None = None


def run_build(options: BuildOptions, source: Path, out: Path, log: Path) -> tuple[Watched, dict[str, Any]]:
    """Build a new collection from a folder, and where the time went. Raises CommandFailed."""
    command = [
        sys.executable, "-m", "sightline", "index", "build", "--encoder", options.encoder, "--source", str(source),
        "--out", str(out), "--device", "cpu", "--precision", options.precision, "--json",
    ]  # fmt: skip
    if options.thumbnail_px is not None:
        command += ["--thumbnail-px", str(options.thumbnail_px)]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SIGHTLINE_")}
    watched = watch(command, log, environment)
    return watched, read_report(watched.stdout)


def read_report(stdout: str) -> dict[str, Any]:
    """The encode phase of a build's ``--json`` report: all but publication, committing segments to disk included.

    It begins when the model is loaded; the encoder's first batches, which are slower, are in it. Raises CommandFailed
    when pictures are missing from the collection.
    """
    report = json.loads(stdout)
    counts, seconds = report["counts"], report["seconds"]
    if counts["indexed"] != counts["seen"]:
        raise CommandFailed(f"Only {counts['indexed']} of {counts['seen']} pictures were indexed: {counts['reasons']}.")
    return {
        "num_images": counts["seen"],
        "encode_seconds": seconds["total"] - seconds["publish"],
        "publish_seconds": seconds["publish"],
        "stages": {name: value for name, value in seconds.items() if name not in ("total", "publish")},
        "bound_by": report["bound_by"],
        "generation": str(Path(report["collection"]) / report["generation"]),
        "precision": report["encoder"]["precision"],
    }
