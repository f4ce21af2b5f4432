"""Evaluating 5,000 pictures with 25,000 captions: seconds and memory of all measures, given the vectors.

Run as a module it measures itself in a fresh process and prints one JSON object.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.indexing.watch import CommandFailed, status_fields
from benchmarks.serving.bars import Bar, spread

NUM_IMAGES, CAPTIONS_EACH, DIM = 5000, 5, 512
SECONDS_BOUND, BYTES_BOUND = 10.0, 2**30
STATUS = Path("/proc/self/status")


def measure_evaluating(rounds: int) -> list[dict[str, float]]:
    """Each round in a process of its own, since the peak of memory counts. Raises CommandFailed."""
    found = []
    for _ in range(rounds):
        command = [sys.executable, "-m", "benchmarks.training.costs.evaluating"]
        ended = subprocess.run(command, capture_output=True, text=True, check=False)
        if ended.returncode:
            raise CommandFailed(f"Evaluation failed: {ended.stderr[-500:]}")
        found.append(json.loads(ended.stdout))
    return found


def evaluating_bars(rounds: list[dict[str, float]]) -> list[Bar]:
    """Below 10 s, and below 1 GB beside the vectors and what Python and torch take anyway."""
    return [
        Bar(
            "evaluation, 5,000 pictures with 25,000 captions", spread([one["seconds"] for one in rounds]),
            SECONDS_BOUND, "at most", " s",
        ),
        Bar(
            "evaluation: memory beside the vectors", spread([one["extra_bytes"] / 2**30 for one in rounds]),
            BYTES_BOUND / 2**30, "at most", " GiB",
        ),
    ]  # fmt: skip


def evaluating_row(rounds: list[dict[str, float]]) -> str:
    """A sentence with what was computed."""
    recall = rounds[0]["recall_at_1"]
    return (
        "Evaluation: recall, median rank, mAP and nDCG both ways with bootstrap intervals, similarity distributions "
        f"and the modality gap over vectors of {DIM} dimensions (text→image R@1 {recall:.3f})."
    )


def _vectors() -> tuple[Any, Any, Any]:
    """Unit vectors whose captions lie near their pictures."""
    rng = np.random.default_rng(0)
    images = rng.standard_normal((NUM_IMAGES, DIM), dtype=np.float32)
    rows = np.repeat(np.arange(NUM_IMAGES), CAPTIONS_EACH)
    texts = images[rows] + 4 * rng.standard_normal((len(rows), DIM), dtype=np.float32)
    for vectors in (images, texts):
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return images, texts, rows


def _main() -> None:
    from training.evaluation import Bootstrap, measure_vectors

    images, texts, rows = _vectors()
    measure_vectors(images[:50], texts[:250], rows[:250], bootstrap=Bootstrap())
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak counts from here
    before = status_fields(STATUS.read_text(encoding="utf-8"))["VmRSS"]
    started = time.perf_counter()
    measured = measure_vectors(images, texts, rows, bootstrap=Bootstrap())
    seconds = time.perf_counter() - started
    extra = status_fields(STATUS.read_text(encoding="utf-8"))["VmHWM"] - before
    recall = measured.text_to_image.recall[1]
    print(json.dumps({"seconds": seconds, "extra_bytes": extra, "recall_at_1": recall}))


if __name__ == "__main__":
    _main()
