"""The interleaved run: in every repetition each competitor builds the same collection once, alone on the machine."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.indexing.builds import BuildOptions, run_build
from benchmarks.indexing.peer import PeerOptions, run_peer
from benchmarks.indexing.vectors import NamedVectors, lowest_cosine, read_vectors
from benchmarks.indexing.watch import Watched
from benchmarks.serving.generator import json_of
from benchmarks.serving.neighbours import Neighbours


@dataclass(frozen=True)
class Competitor:
    """One side: a build of ours, or the peer. ``ceilings``: measure what the machine could do beside it;
    ``every_time``: take part in each repetition, not in the first alone."""

    name: str
    options: BuildOptions | PeerOptions
    ceilings: bool = False
    every_time: bool = True


@dataclass
class Results:
    """Everything measured, by competitor, one entry for each repetition; ``cosines`` are with the peer's vectors."""

    figures: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    ceilings: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    cosines: dict[str, float] = field(default_factory=dict)

    def values(self, name: str, key: str) -> list[float | None]:
        """One figure of every repetition."""
        return [entry[key] for entry in self.figures.get(name, [])]

    def ceiling(self, name: str, key: str) -> list[float | None]:
        return [entry[key] for entry in self.ceilings.get(name, [])]

    def as_json(self) -> dict[str, Any]:
        return {"figures": self.figures, "ceilings": self.ceilings, "lowest_cosines_with_the_peer": self.cosines}


def run(
    competitors: Sequence[Competitor], repetitions: int, ceiling_seconds: float, pool: Path, source: Path, out: Path,
    say: Callable[[str], None],
) -> Results:  # fmt: skip
    """Builds of the folder ``source``, ceilings with the ``pool``. Raises CommandFailed or GeneratorFailed."""
    results = Results()
    vectors: dict[str, NamedVectors] = {}
    for repetition in range(repetitions):
        for one in competitors:
            if repetition and not one.every_time:
                continue
            say(f"repetition {repetition + 1}/{repetitions}: {one.name}")
            if one.ceilings:
                assert isinstance(one.options, BuildOptions)
                measured = _ceilings(one.options, ceiling_seconds, pool)
                results.ceilings.setdefault(one.name, []).append(measured)
                say(f"  roofline {measured['roofline_images_per_second']:.1f} images/s")
            made = out / "made"
            shutil.rmtree(made, ignore_errors=True)
            log = out / "logs" / f"{''.join(c if c.isalnum() else '-' for c in one.name)}-{repetition}.log"
            figures = _measure(one, source, made, log)
            results.figures.setdefault(one.name, []).append(figures)
            if one.name not in vectors:
                vectors[one.name] = read_vectors(Path(figures.get("generation", made)))
            shutil.rmtree(made, ignore_errors=True)
            say(
                f"  {figures['images_per_second']:.1f} images/s, whole command {figures['command_seconds']:.1f} s, "
                f"other work on {figures['other_cores']:.2f} cores"
            )
    peer = next((one.name for one in competitors if isinstance(one.options, PeerOptions)), None)
    if peer is not None:
        for one in competitors:
            if isinstance(one.options, BuildOptions):
                results.cosines[one.name] = round(lowest_cosine(vectors[one.name], vectors[peer]), 5)
    return results


def figures_of(watched: Watched, report: dict[str, Any]) -> dict[str, Any]:
    """Rates of the encode phase and of the whole command, which begins with starting Python and loading the model."""
    num = report["num_images"]
    return {
        **report,
        "images_per_second": num / report["encode_seconds"],
        "command_seconds": watched.seconds,
        "command_images_per_second": num / watched.seconds,
        "peak_rss_bytes": watched.peak_rss_bytes,
        "peak_own_bytes": watched.peak_own_bytes,
        "peak_group_bytes": watched.peak_group_bytes,
        **asdict(watched.usage),
    }


def _measure(one: Competitor, source: Path, out: Path, log: Path) -> dict[str, Any]:
    if isinstance(one.options, PeerOptions):
        return figures_of(*run_peer(one.options, source, out, log))
    return figures_of(*run_build(one.options, source, out, log))


def _ceilings(options: BuildOptions, seconds: float, pool: Path) -> dict[str, Any]:
    neighbours = Neighbours()
    figures = json_of([
        sys.executable, "-m", "benchmarks.indexing.ceilings", "--encoder", options.encoder, "--precision",
        options.precision, "--pool", str(pool), "--seconds", str(seconds),
    ])  # fmt: skip
    return figures | asdict(neighbours.usage())
