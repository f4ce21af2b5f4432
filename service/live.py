"""Changing a collection while it is served: a log that is written first, and a state that is searched at once.

A change is written to ``COLLECTION/live.db`` and synced, then laid over the served generation, then acknowledged.
Changes that come while the disk is busy are written together with one sync. A request sees the snapshot that it took,
whole.

Any process that serves a collection applies what its log holds; only the one with ``live_writes`` adds to it. When the
log is damaged the generation is served without it, writes are refused, and ``sightline_live_broken`` is 1.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path

from service.edge.problems import LiveFull, LiveUnavailable, LiveWritesOff
from service.metrics import Metrics
from service.snapshot import Snapshot
from service.threads import DaemonPool
from sightline.collection.compaction import live_sequences
from sightline.collection.live_log import LiveChange, LiveLog, open_live_log, require_fingerprint
from sightline.errors import LiveLogDamaged, NotFound, ShuttingDown, SightlineError
from sightline.live_state import LiveRows, LiveState, lay_over

logger = logging.getLogger(__name__)

_MAX_TOGETHER = 256
_RETRY_SECONDS = 30


@dataclass(frozen=True)
class Written:
    """A change that is on the disk and searchable. ``existed``: there was such an item before it."""

    sequence: int
    existed: bool
    snapshot: Snapshot


@dataclass(frozen=True)
class _Waiting:
    change: LiveChange
    outcome: Future[Written]


class Live:
    """The live changes of one collection. Thread-safe; ``prepare`` and ``install`` belong to ``service.served``."""

    def __init__(
        self, collection: Path, fingerprint: str, metrics: Metrics, *, writes: bool = False, max_changes: int = 100_000
    ) -> None:
        """Raises LiveLogLocked when another process writes this collection, and StorageError."""
        self._collection = collection
        self._fingerprint = fingerprint
        self._metrics = metrics
        self._writes = writes
        self._max_changes = max_changes
        self._lock = threading.RLock()
        self._rows: LiveRows | None = None
        self._prepared: LiveRows | None = None
        self._get: Callable[[], Snapshot]
        self._set: Callable[[Snapshot], None]
        self._waiting: deque[_Waiting] = deque()
        self._pool = DaemonPool(1, "live", metrics.worker_restarts.labels("live").inc)
        self._closed = False
        self._looked = time.monotonic()
        self.broken: SightlineError | None = None
        self.log: LiveLog | None = None
        try:
            self.log = open_live_log(collection, writable=writes)
        except LiveLogDamaged as error:
            self._break(error)
        metrics.live_changes.set_function(lambda: self.num_changes)
        metrics.live_sequence.set_function(lambda: self._state.sequence if self._state is not None else 0)
        metrics.live_log_bytes.set_function(lambda: self.log.num_bytes() if self.log is not None else 0)
        metrics.live_broken.set_function(lambda: float(self.broken is not None))

    @property
    def num_changes(self) -> int:
        """Items changed since the generation that is served."""
        return 0 if self._state is None else self._state.num_changes

    @property
    def _state(self) -> LiveState | None:
        return None if self._rows is None else self._rows.state

    # Generations

    def bind(self, get: Callable[[], Snapshot], put: Callable[[Snapshot], None]) -> None:
        """How to read and to replace what is served; ``put`` is called with the lock of this object held."""
        self._get, self._set = get, put

    def prepare(self, snapshot: Snapshot) -> None:
        """Read the changes that a generation lacks, before it is served.

        Raises EncoderMismatch when another encoder made their vectors, and LiveChangesMissing when the log has let go
        of changes that this generation lacks. A damaged log is remembered, not raised.
        """
        self._prepared = None
        if self.log is not None and self.broken is None:
            try:
                self._prepared = lay_over(snapshot.generation, self.log)
            except LiveLogDamaged as error:
                self._break(error)

    def discard(self) -> None:
        """Let go of what was prepared and not installed: it holds a generation."""
        self._prepared = None

    def install(self, snapshot: Snapshot) -> None:
        """Serve the generation that was prepared, with every change that has been acknowledged until now."""
        with self._lock:
            rows, self._prepared = self._prepared, None
            if rows is not None and self.log is not None:
                try:
                    rows.apply(self._checked(self.log, rows.state.sequence))
                except LiveLogDamaged as error:
                    self._break(error)
                    rows = None
            self._rows = rows
            self._set(replace(snapshot, live=None if rows is None else rows.state))

    def look(self, interval_seconds: float) -> None:
        """For a process that does not write: apply what another has written. To be called often, from one thread."""
        now = time.monotonic()
        if self._writes or not interval_seconds or now - self._looked < interval_seconds or self.broken is not None:
            return
        self._looked = now
        with self._lock:
            try:
                if self.log is None:
                    self.log = open_live_log(self._collection)
                if self.log is None:
                    return
                if self._rows is None:
                    self._rows = lay_over(self._get().generation, self.log)
                elif self.log.pruned_through() <= self._rows.state.sequence:
                    self._rows.apply(self._checked(self.log, self._rows.state.sequence))
                self._set(replace(self._get(), live=self._rows.state))
            except LiveLogDamaged as error:
                self._break(error)

    def prune(self) -> int:
        """Let go of changes that every generation on the disk contains. Returns how many. Raises StorageError."""
        with self._lock:
            log, _ = self._usable()
            return log.prune(min(live_sequences(self._collection).values(), default=0))

    # Writing

    def check_usable(self) -> None:
        """Raise LiveWritesOff, LiveUnavailable or ShuttingDown where the log is not this process's to change."""
        if not self._writes:
            raise LiveWritesOff("Items cannot be changed here; start the service with --set live_writes=true.")
        self._usable()

    def check_writable(self) -> None:
        """Raise LiveWritesOff, LiveUnavailable, LiveFull or ShuttingDown when nothing could be written now."""
        self.check_usable()
        if self.num_changes >= self._max_changes:
            raise LiveFull(
                f"{self.num_changes:,} live changes wait to be built into a generation; try again in "
                f"{_RETRY_SECONDS} s.", retry_after_seconds=_RETRY_SECONDS, limit_changes=self._max_changes,
            )  # fmt: skip

    def submit(self, change: LiveChange) -> Future[Written]:
        """Write a change. The future ends when it is on the disk and served; cancelled before its turn, it is dropped.

        Fails with NotFound (a delete of what is not there), StorageError, LiveUnavailable or ShuttingDown.
        """
        waiting = _Waiting(change, Future())
        self._waiting.append(waiting)
        self._pool.submit(self._write)
        return waiting.outcome

    def close(self) -> None:
        """Write nothing any more and let another process write."""
        self._closed = True
        self._pool.shutdown()
        while self._waiting:
            waiting = self._waiting.popleft()
            if waiting.outcome.set_running_or_notify_cancel():
                waiting.outcome.set_exception(ShuttingDown("The service is shutting down; send the request again."))
        if self.log is not None:
            self.log.close()

    def _write(self) -> None:
        """All that waits, with one sync. Whatever happens, everyone who waits gets an answer."""
        taken: list[_Waiting] = []
        while self._waiting and len(taken) < _MAX_TOGETHER:
            waiting = self._waiting.popleft()
            if waiting.outcome.set_running_or_notify_cancel():
                taken.append(waiting)
        if not taken:
            return
        try:
            with self._lock:
                outcomes = self._write_together([waiting.change for waiting in taken])
        except BaseException as error:
            for waiting in taken:
                waiting.outcome.set_exception(error)
            if not isinstance(error, Exception):
                raise
            return
        for waiting, outcome in zip(taken, outcomes, strict=True):
            if isinstance(outcome, Written):
                self._metrics.live_writes.labels(waiting.change.kind).inc()
                waiting.outcome.set_result(outcome)
            else:
                waiting.outcome.set_exception(outcome)

    def _write_together(self, changes: list[LiveChange]) -> list[Written | NotFound]:
        log, rows = self._usable()
        snapshot = self._get()
        known: dict[str, bool] = {}
        existed: list[bool] = []
        new: list[LiveChange] = []
        for change in changes:
            there = known[change.item_id] if change.item_id in known else rows.state.has(change.item_id)
            existed.append(there)
            if change.kind == "put" or there:
                new.append(replace(change, generation=snapshot.generation.generation))
                known[change.item_id] = change.kind == "put"
        try:
            written = log.append(new) if new else []
        except LiveLogDamaged as error:
            self._break(error)
            raise LiveUnavailable("Items cannot be changed: the log of live changes is damaged.") from error
        try:
            state = rows.apply(written)
        except Exception:  # out of memory, say: what is on the disk counts, so lay it over the generation anew
            logger.exception("Live changes could not be applied one by one; reading the log again.")
            self._rows = lay_over(snapshot.generation, log)
            state = self._rows.state
        served = replace(snapshot, live=state)
        self._set(served)
        numbers = iter(change.sequence for change in written)
        return [
            Written(next(numbers), there, served) if change.kind == "put" or there else _not_there()
            for change, there in zip(changes, existed, strict=True)
        ]

    # Parts

    def _usable(self) -> tuple[LiveLog, LiveRows]:
        """Raise ShuttingDown or LiveUnavailable when nothing can be written."""
        if self._closed:
            raise ShuttingDown("The service is shutting down; send the request again later.")
        if self.broken is not None or self.log is None or self._rows is None:
            raise LiveUnavailable(
                "Items cannot be changed now because the log of live changes is damaged; its operator finds the reason "
                "in the service's log."
            )
        return self.log, self._rows

    def _checked(self, log: LiveLog, after: int) -> list[LiveChange]:
        changes = log.read(after)
        require_fingerprint(changes, self._fingerprint)
        return changes

    def _break(self, error: SightlineError) -> None:
        self.broken = error
        logger.error("%s Until then live changes are neither served nor taken.", error.message)


def _not_there() -> NotFound:
    return NotFound("There is no item with this id in the collection; take ids from search results.")
