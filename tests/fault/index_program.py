"""Builds a collection in a process of its own, which may be told to kill itself at a certain write, sync or rename.

``python -m tests.fault.index_program SOURCE OUT [OPERATION [before|after]]`` prints ``started`` when it begins, and at
its end how many operations there were.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sightline import storage
from tests.indexer.plain import build_plain

OPERATIONS = ("_write", "_fsync", "_rename")


class Counter:
    """Counts operations of ``sightline.storage`` and calls ``act`` at one of them."""

    def __init__(self, number: int, act: Callable[[], None], *, after: bool = False) -> None:
        self.number = number
        self.act = act
        self.after = after
        self.count = 0

    def wrap(self, operation: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*arguments: Any) -> Any:
            self.count += 1
            here = self.count == self.number
            if here and not self.after:
                self.act()
            result = operation(*arguments)
            if here and self.after:
                self.act()
            return result

        return counted


def main() -> None:
    source, out, *rest = sys.argv[1:]
    number, moment = int(rest[0]) if rest else 0, rest[1] if len(rest) > 1 else "before"
    counter = Counter(number, lambda: os.kill(os.getpid(), signal.SIGKILL), after=moment == "after")
    for name in OPERATIONS:
        setattr(storage, name, counter.wrap(getattr(storage, name)))
    sys.stdout.write("started\n")
    sys.stdout.flush()
    build_plain(Path(source), Path(out), segment_seconds=0.02)
    sys.stdout.write(f"{counter.count}\n")


if __name__ == "__main__":
    main()
