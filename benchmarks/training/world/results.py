"""Finished runs, one JSON line each, so that a run that was cut off goes on where it stopped."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from benchmarks.training.world.shapes import Figures


@dataclass(frozen=True)
class Finished:
    """The figures of one variant of one experiment for one seed."""

    experiment: str
    variant: str
    seed: int
    seconds: float
    figures: Figures


class Results:
    """A file of finished runs. The size of the world is part of it: other sizes do not mix."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> list[Finished]:
        """All of them, oldest first; a last line that was cut off in the middle is left out."""
        if not self._path.is_file():
            return []
        found = []
        for line in self._path.read_text(encoding="utf-8").splitlines():
            try:
                found.append(Finished(**json.loads(line)))
            except json.JSONDecodeError:
                break
        return found

    def add(self, finished: Finished) -> None:
        """Keep one more."""
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(vars(finished)) + "\n")

    def by_seed(self, experiment: str) -> dict[int, dict[str, Figures]]:
        """Figures by seed and variant."""
        found: dict[int, dict[str, Figures]] = {}
        for one in self.read():
            if one.experiment == experiment:
                found.setdefault(one.seed, {})[one.variant] = one.figures
        return found
