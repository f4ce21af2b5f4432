"""Ending a run at SIGINT or SIGTERM without losing what it did."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType


class Interrupt:
    """What has been asked for. ``exit_code`` is the shell's: 130 after SIGINT, 143 after SIGTERM."""

    def __init__(self) -> None:
        self.signal = 0

    @property
    def exit_code(self) -> int:
        return 128 + self.signal

    def requested(self) -> bool:
        """Whether the run should stop."""
        return bool(self.signal)


@contextlib.contextmanager
def interruptible() -> Iterator[Interrupt]:
    """Note SIGINT and SIGTERM instead of dying of them; the second one ends the process at once. Main thread only."""
    interrupt = Interrupt()

    def note(number: int, frame: FrameType | None) -> None:
        interrupt.signal = number
        signal.signal(number, before[signal.Signals(number)])

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number in before:
        signal.signal(number, note)
    try:
        yield interrupt
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
