"""The log of a run, ``log.jsonl``: one JSON object for each step, in order, without gaps also after a resume."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from sightline.storage import storage_errors

LOG_NAME = "log.jsonl"


class Log:
    """Appends lines; each is on disk's side of the process when ``write`` returns. Not thread-safe."""

    def __init__(self, folder: Path, *, done: int = 0) -> None:
        """Go on after ``done`` steps: lines of later steps are cut, since they are trained again.

        Raises StorageError.
        """
        self.path = folder / LOG_NAME
        with storage_errors(f"write {self.path}"):
            _cut(self.path, done)
            self._file = self.path.open("a", encoding="utf-8", buffering=1)

    def write(self, values: Mapping[str, Any]) -> None:
        """Add one line. What is not a number is written as null, since JSON has no word for it."""
        clean = {name: None if _not_finite(value) else value for name, value in values.items()}
        with storage_errors(f"write {self.path}"):
            self._file.write(json.dumps(clean, allow_nan=False) + "\n")

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> Log:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def read_log(folder: Path) -> list[dict[str, Any]]:
    """The lines of a run's log; a last line that was cut off in the middle is left out."""
    path = folder / LOG_NAME
    if not path.is_file():
        return []
    lines: list[dict[str, Any]] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            lines.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return lines


def _cut(path: Path, done: int) -> None:
    if path.is_file():
        kept = [line for line in read_log(path.parent) if line["step"] <= done]
        path.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")


def _not_finite(value: object) -> bool:
    return isinstance(value, float) and not math.isfinite(value)
