"""One thread that looks after the others: what died is started again, what is stuck is given up, files are watched."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping

logger = logging.getLogger(__name__)

_ROUND_SECONDS = 0.5


class Supervisor:
    """Calls every duty once a round. A duty that fails is logged and called again in the next round."""

    def __init__(self, duties: Mapping[str, Callable[[], None]], round_seconds: float = _ROUND_SECONDS) -> None:
        self._duties = duties
        self._round_seconds = round_seconds
        self._closing = threading.Event()

    def start(self) -> None:
        threading.Thread(target=self._live, name="supervisor", daemon=True).start()

    def close(self) -> None:
        """Call no duty any more; nothing is waited for."""
        self._closing.set()

    def round(self) -> None:
        """Call every duty once."""
        for name, duty in self._duties.items():
            try:
                duty()
            except Exception:
                logger.exception("The supervisor could not %s; it tries again.", name)

    def _live(self) -> None:
        while not self._closing.wait(self._round_seconds):
            self.round()
