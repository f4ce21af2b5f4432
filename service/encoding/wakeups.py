"""Telling an event loop from other threads that results are there: a few in each of its turns.

A batch of 32 pictures ends at once, and each of its 32 waiting requests then has its answer to write, up to a
millisecond of Python each. Woken all together they would run in one turn of the loop, and whoever comes meanwhile (a
probe, a request to be refused) waits for all of them.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections import deque
from collections.abc import Callable

logger = logging.getLogger(__name__)

PER_TURN = 4
"""With all of a batch at once 99 % of refusals under ten times the capacity came within 27 ms, with four within 23 ms
(``benchmarks.serving.overload``)."""


class Wakeups:
    """Calls for one event loop, in the order in which they came. ``soon`` is thread-safe and wakes the loop once for
    many calls."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._waiting: deque[Callable[[], None]] = deque()
        self._lock = threading.Lock()
        self._scheduled = False

    def soon(self, call: Callable[[], None]) -> None:
        """Run ``call`` on the loop; where the loop has closed, nobody waits for it any more."""
        with self._lock:
            self._waiting.append(call)
            wake, self._scheduled = not self._scheduled, True
        if wake:
            with contextlib.suppress(RuntimeError):
                self.loop.call_soon_threadsafe(self._some)

    def _some(self) -> None:
        with self._lock:
            calls = [self._waiting.popleft() for _ in range(min(PER_TURN, len(self._waiting)))]
            again = self._scheduled = bool(self._waiting)
        if again:
            self.loop.call_soon(self._some)
        for call in calls:
            try:
                call()
            except Exception:  # those behind it are woken all the same
                logger.exception("A wake-up of the event loop failed.")
