"""Admission: how much work may be in the house at once, measured in the time it will take.

Work is counted in units before it costs anything. A queue that is bounded in items alone is wrong on every machine but
one: 4,096 units are half a second for a GPU and six seconds for two cores, and a caller who is admitted to six seconds
of waiting would have been served sooner by another replica. So the bound is the work that the encoder does in
``queue_seconds`` at its measured rate; it never falls below ``min_units`` (a queue that is too short fails half of a
legal load, linkerd2 2df8deb) nor rises above ``capacity_units``. Bulk work may fill half of it, so that interactive
work always finds room behind a bulk load.

A burst may queue; a queue that stands may not (as in CoDel, Nichols and Jacobson 2012): when work has had to be refused
for a second on end, waiting longer helps nobody, and somewhat less is admitted until a second passes without a refusal.
Enough stays to keep the encoder busy: at 60 % of the queue goodput fell by 3 % and the 99th percentile by 15 %.
"""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections.abc import Callable, Iterator

from service.encoding.lanes import Lane
from service.metrics import Metrics
from sightline.errors import Overloaded

_MAX_RETRY_AFTER_SECONDS = 30
_WEIGHT_OF_A_BATCH = 0.1
_STANDING_SECONDS = 1.0
_STANDING_SHARE = 0.85
_STANDING_FLOOR = 0.75


class Admission:
    """Counts units in and out. Thread-safe."""

    def __init__(
        self,
        capacity_units: int,
        min_units: int,
        queue_seconds: float,
        metrics: Metrics,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._most = capacity_units
        self._least = min(min_units, capacity_units)
        self._queue_seconds = queue_seconds
        self._clock = clock
        self._refusing_since = self._refused_at = -math.inf
        self._lock = threading.Lock()
        self._units = dict.fromkeys(Lane, 0)
        self._units_per_second = 0.0
        metrics.capacity_units.set_function(lambda: self.capacity_units)
        metrics.admitted_units.set_function(lambda: sum(self._units.values()))

    @property
    def capacity_units(self) -> int:
        """What may be admitted at once, at the encoder's present rate."""
        if not self._units_per_second:
            return self._most
        share = _STANDING_SHARE if self._stands else 1.0
        room = int(self._units_per_second * self._queue_seconds * share)
        return max(int(self._least * _STANDING_FLOOR) if self._stands else self._least, min(self._most, room))

    @property
    def _stands(self) -> bool:
        """Whether work has been refused for a while, up to now."""
        still = self._clock() - self._refused_at <= _STANDING_SECONDS
        return still and self._refused_at - self._refusing_since >= _STANDING_SECONDS

    @contextlib.contextmanager
    def admit(self, units: int, lane: Lane) -> Iterator[None]:
        """Hold ``units`` while the block runs. Raises Overloaded instead of waiting."""
        with self._lock:
            capacity = self.capacity_units
            over = sum(self._units.values()) + units > capacity
            if over or (lane is Lane.BULK and self._units[lane] + units > capacity // 2):
                raise self.overloaded()
            self._units[lane] += units
        try:
            yield
        finally:
            with self._lock:
                self._units[lane] -= units

    def note_batch(self, units: int, seconds: float, num_busy: int, *, saturated: bool) -> None:
        """Learn the rate from a batch. One that found the queue empty says nothing of the most that could be done."""
        rate = units * num_busy / max(seconds, 1e-6)
        with self._lock:
            if not self._units_per_second:
                self._units_per_second = rate
            elif saturated or rate > self._units_per_second:
                self._units_per_second += _WEIGHT_OF_A_BATCH * (rate - self._units_per_second)

    def has_room(self, units: int) -> bool:
        """Whether so much interactive work would be admitted at this moment."""
        return sum(self._units.values()) + units <= self.capacity_units

    def overloaded(self) -> Overloaded:
        """The refusal, with the time to come back. To be called for each."""
        now = self._clock()
        if now - self._refused_at > _STANDING_SECONDS:
            self._refusing_since = now
        self._refused_at = now
        wait = sum(self._units.values()) / self._units_per_second if self._units_per_second else 1.0
        seconds = min(_MAX_RETRY_AFTER_SECONDS, max(1, math.ceil(wait)))
        return Overloaded(
            f"The service is busy and its queue is full; try again in {seconds} s.",
            retry_after_seconds=seconds, limit_units=self.capacity_units,
        )  # fmt: skip
