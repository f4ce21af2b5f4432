"""Following ``CURRENT``: a generation that the indexer publishes is served without being asked for."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from concurrent.futures import Future

from service.edge.problems import ReloadRunning
from service.served import Change, Served
from service.threads import run_apart

logger = logging.getLogger(__name__)


class CurrentWatch:
    """Reloads when ``CURRENT`` comes to name another generation, or the same name comes to hold another.

    What was refused once is not tried again until that changes, and neither is what a rollback turned away from.
    ``look`` is to be called often, from one thread; it looks every ``interval_seconds``, never when that is 0.
    """

    def __init__(self, served: Served, interval_seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._served = served
        self._interval_seconds = interval_seconds
        self._clock = clock
        self._seen = served.state()
        self._looked = clock()
        self._change: Future[Change] | None = None

    def look(self) -> None:
        """Begin a reload in a thread of its own if there is something new."""
        if not self._interval_seconds or self._clock() - self._looked < self._interval_seconds:
            return
        self._looked = self._clock()
        if self._change is not None and not self._change.done():
            return
        if self._change is not None and isinstance(self._change.exception(), ReloadRunning):
            self._seen = None  # it was somebody else's turn: ask again
        self._change = None
        state = self._served.state()
        if state is not None and state != self._seen:
            self._seen = state
            logger.info("CURRENT names %s; loading it.", state[0])
            self._change = run_apart(self._served.reload, "reload")
