"""Running the real command and the real service, as a user would."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.program import program


@dataclass(frozen=True)
class Finished:
    """What a command left behind."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


def command(*arguments: str | Path, env: dict[str, str] | None = None, cwd: Path | None = None) -> Finished:
    """Run ``sightline`` in a process of its own."""
    done = subprocess.run(
        [program(), *map(str, arguments)],
        capture_output=True, text=True, env={**_clean_environment(), **(env or {})}, cwd=cwd, check=False, timeout=240,
    )  # fmt: skip
    return Finished(done.returncode, done.stdout, done.stderr)


@contextlib.contextmanager
def serving(collection: Path, *arguments: str, watchdog_seconds: float = 120.0) -> Iterator[str]:
    """Serve a collection on a free port; yields its URL, ends it with SIGTERM and expects exit code 0.

    A service that is still there after ``watchdog_seconds`` is killed.
    """
    process = subprocess.Popen(
        [program(), "serve", "--collection", str(collection), "--port", "0", "--json",
         "--set", "drain_delay_seconds=0", *arguments],
        stdout=subprocess.PIPE, text=True, env=_clean_environment(),
    )  # fmt: skip
    watchdog = threading.Timer(watchdog_seconds, process.kill)
    watchdog.start()
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, "the service ended before it was ready"
        yield json.loads(line)["url"]
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 0
    finally:
        watchdog.cancel()
        process.kill()
        process.wait()


def _clean_environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("SIGHTLINE_")}
