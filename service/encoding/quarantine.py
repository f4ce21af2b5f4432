"""Content that the encoder fails on, remembered for a while and refused at the door.

An item that fails alone has cost its batch a bisection: log2(B) extra runs of the encoder. Sent again and again it
would cost that each time, so its hash is remembered and the next one is refused before it is decoded.

Whether the content or the encoder is broken shows in what happens next: a broken encoder fails on everything. When
several contents in a row have failed without one success between them, it was the encoder, and none of them stays.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable

from service.metrics import Metrics
from sightline.errors import InputError

_MAX_ENTRIES = 10_000
_MAX_IN_A_ROW = 4


class Quarantined(InputError):
    """The encoder failed on this very content a short while ago."""

    code = "quarantined"


class Quarantine:
    """Keys of content that failed alone, each for ``seconds``; 0 seconds keep nothing. For one thread."""

    def __init__(self, seconds: float, metrics: Metrics, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds = seconds
        self._clock = clock
        self._until: OrderedDict[bytes, float] = OrderedDict()  # all wait equally long: the oldest end first
        self._row: set[bytes] = set()
        self._suspects: OrderedDict[bytes, None] = OrderedDict()
        metrics.quarantined_inputs.set_function(self._num_entries)

    def refusal(self, key: bytes) -> Quarantined | None:
        """The error to answer with while the content is in quarantine."""
        self._forget_old()
        until = self._until.get(key)
        if until is None:
            return None
        return Quarantined(
            "The encoder failed on this input a short while ago; send another input or try again later.",
            retry_in_seconds=max(1, round(until - self._clock())),
        )

    def note_failure(self, key: bytes) -> None:
        """The encoder failed on this content alone, and not for lack of memory."""
        if self._seconds <= 0 or len(self._row) > _MAX_IN_A_ROW:
            return
        self._row.add(key)
        if len(self._row) > _MAX_IN_A_ROW:
            for one in self._row:
                self._until.pop(one, None)
            return
        self._until.pop(key, None)
        self._until[key] = self._clock() + self._seconds
        while len(self._until) > _MAX_ENTRIES:
            self._until.popitem(last=False)

    def note_death(self, key: bytes) -> None:
        """The encoder's thread died or hung over a batch with this content; the second time it is taken for the cause.

        The batch had other items, which a thread that is gone cannot tell apart. They come to this only when they are
        sent again and meet the cause in a batch again.
        """
        if key in self._suspects:
            self.note_failure(key)
            return
        self._suspects[key] = None
        if len(self._suspects) > _MAX_ENTRIES:
            self._suspects.popitem(last=False)

    def note_success(self, key: bytes) -> None:
        """The encoder works, on this content too."""
        self._row.clear()
        self._suspects.pop(key, None)

    def _forget_old(self) -> None:
        now = self._clock()
        while self._until and next(iter(self._until.values())) <= now:
            self._until.popitem(last=False)

    def _num_entries(self) -> int:
        self._forget_old()
        return len(self._until)
