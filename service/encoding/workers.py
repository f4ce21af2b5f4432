"""The threads that run the encoder, and what happens when a batch or a thread fails.

Two workers keep two batches in flight; on a CPU each has half of the cores. That is faster than one batch with all the
cores (nobody waits at a barrier for a core that is decoding pictures) and much calmer when something else runs on the
machine; a batch that comes when nothing else is running still gets every core
(docs/decisions/0006-two-workers.md).
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from service.context import deadline_exceeded
from service.encoding.admission import Admission
from service.encoding.lanes import Batch, Ceiling, Item, ItemFailed, Lanes, Modality, Vectors, WorkerDied
from service.metrics import Metrics
from sightline.errors import (
    ConfigurationError,
    EncoderLost,
    EncodingFailed,
    NotReady,
    OutOfMemory,
    ShuttingDown,
    SightlineError,
)

Encode = Callable[[list[Any]], Vectors]
"""Payloads of one modality → float32 ``[B, D]``; called by the workers alone, by several of them at once."""

_STALL_FACTOR = 3.0
_BATCHES_REMEMBERED = 32
_HOPELESS_SECONDS = 30.0
_CLOSING_GRACE_SECONDS = 0.5

logger = logging.getLogger(__name__)


@dataclass(eq=False)
class _Worker:
    """One thread and what it holds. ``busy_since`` is on the batcher's clock, in seconds."""

    thread: threading.Thread | None = None
    running: list[Item] = field(default_factory=list)
    busy_since: float | None = None


class _DeviceLostError(BaseException):
    """Ends a worker for good."""


class Workers:
    """Take batches from the lanes under the batcher's lock, encode them without it. See the batcher for the law."""

    def __init__(
        self,
        encode: Mapping[Modality, Encode],
        lanes: Lanes,
        ceilings: Mapping[Modality, Ceiling],
        wake: threading.Condition,
        admission: Admission,
        units: Callable[[Modality], int],
        metrics: Metrics,
        clock: Callable[[], float],
        *,
        num_workers: int,
        restart_delay_seconds: float,
        stall_seconds: float,
        out_of_memory: tuple[type[BaseException], ...],
        free_memory: Callable[[], None],
        before_batch: Callable[[bool], None],
        is_lost: Callable[[BaseException], bool],
    ) -> None:
        self._encode = encode
        self._lanes = lanes
        self._ceilings = ceilings
        self._wake = wake
        self._admission = admission
        self._units = units
        self._metrics = metrics
        self._clock = clock
        self._restart_delay_seconds = restart_delay_seconds
        self._stall_seconds = stall_seconds
        self._out_of_memory = out_of_memory
        self._free_memory = free_memory
        self._before_batch = before_batch
        self._is_lost = is_lost
        self._workers = [_Worker() for _ in range(num_workers)]
        self._closing = threading.Event()
        self._past: dict[tuple[Modality, int], deque[float]] = {}
        self._down_since: float | None = None
        self.open = False
        self.lost = False

    # Life

    def start(self) -> None:
        """Start the threads; to be called once."""
        assert self._workers[0].thread is None, "workers are started once"
        self.open = True
        for worker in self._workers:
            self._launch(worker)

    def _launch(self, worker: _Worker) -> None:
        worker.thread = threading.Thread(target=self._live, args=(worker,), name="encoder", daemon=True)
        worker.thread.start()

    def close(self, timeout_seconds: float) -> None:
        """End the threads after their present batches; nobody waits any longer for one that is stuck."""
        self._closing.set()
        with self._wake:
            self.open = False
            left = self._lanes.take_all()
            self._wake.notify_all()
        last_word = ShuttingDown("The service is shutting down; send the request to another replica.")
        fail(left, last_word)
        self._join(min(timeout_seconds, _CLOSING_GRACE_SECONDS))
        for worker in self._workers:
            fail(worker.running, last_word)
        self._join(timeout_seconds)

    @property
    def running(self) -> bool:
        """Whether a thread is still at work, as one that is stuck is after ``close``."""
        return any(worker.thread is not None and worker.thread.is_alive() for worker in self._workers)

    def _join(self, timeout_seconds: float) -> None:
        until = time.monotonic() + timeout_seconds
        for worker in self._workers:
            if worker.thread is not None:
                worker.thread.join(max(0.0, until - time.monotonic()))

    def supervise(self) -> None:
        """Start a dead thread again, and let nobody wait for a batch that does not end; to be called every second.

        A thread that dies over a batch mends itself; this is for one that died while it did so.
        """
        if self._closing.is_set() or self.lost:
            return
        for worker in self._workers:
            if worker.thread is not None and not worker.thread.is_alive():
                logger.error("A thread of the encoder is dead and starts again.")
                self._bury(worker, not_ready())
                self._launch(worker)
                self._reopen()
        if self.stuck_seconds:
            with self._wake:
                left = self._lanes.take_all()
            held = [item for worker in self._workers if self._overdue_seconds(worker) > 0 for item in worker.running]
            fail(held, worker_died())
            fail(left, not_ready())
        elif self._lanes and all(worker.busy_since is None for worker in self._workers):
            with self._wake:
                self._wake.notify_all()

    @property
    def alive(self) -> bool:
        """Whether every thread lives and takes work."""
        return self.open and all(one.thread is not None and one.thread.is_alive() for one in self._workers)

    @property
    def stuck_seconds(self) -> float:
        """For how long the slowest running batch has been longer than any batch should be; 0 when none is.

        A batch may take ``stall_seconds``, and three times as long as the longest of the last batches of any size.
        """
        return max(0.0, *(self._overdue_seconds(worker) for worker in self._workers))

    @property
    def hopeless(self) -> bool:
        """Whether only a new process can help: the device is lost, or no batch has ended for half a minute and more."""
        down_since = self._down_since
        down_seconds = 0.0 if down_since is None else self._clock() - down_since
        too_long = max(_HOPELESS_SECONDS - self._stall_seconds, self._allowed_seconds)
        return self.lost or self.stuck_seconds > too_long or down_seconds > _HOPELESS_SECONDS

    @property
    def _allowed_seconds(self) -> float:
        longest = max((seconds for past in tuple(self._past.values()) for seconds in tuple(past)), default=0.0)
        return max(self._stall_seconds, _STALL_FACTOR * longest)

    def _overdue_seconds(self, worker: _Worker) -> float:
        since = worker.busy_since
        return 0.0 if since is None else self._clock() - since - self._allowed_seconds

    # One thread

    def _live(self, worker: _Worker) -> None:
        """Work until closed; when anything escapes, bury the dead and start again after a pause."""
        while not self._closing.is_set():
            try:
                self._work(worker)
            except _DeviceLostError:
                self.lost = True
                self._bury(worker, encoder_lost())
                return
            except BaseException:
                logger.exception("The encoder's thread died and starts again.")
                self._bury(worker, not_ready())
                self._closing.wait(self._restart_delay_seconds)
                self._reopen()

    def _bury(self, worker: _Worker, last_word: SightlineError) -> None:
        """Take no more work, and tell everyone who waits."""
        with self._wake:
            self.open = False
            self._down_since = self._down_since or self._clock()
            worker.busy_since = None
            running, left = worker.running, self._lanes.take_all()
            worker.running = []
        fail(running, last_word if self.lost else worker_died())
        fail(left, last_word)
        self._metrics.worker_restarts.labels("encode").inc()

    def _reopen(self) -> None:
        with self._wake:
            self.open = not (self._closing.is_set() or self.lost)
            self._down_since = None

    def _work(self, worker: _Worker) -> None:
        while True:
            with self._wake:
                self._wake.wait_for(lambda: self._closing.is_set() or (bool(self._lanes) and self._is_next(worker)))
                if self._closing.is_set():
                    return
                now = self._clock()
                batch = self._lanes.take(now, self._ceilings)
                worker.running = batch.items + batch.expired
                worker.busy_since = now
                num_busy = sum(one.busy_since is not None for one in self._workers)
                queued = bool(self._lanes)
                if queued:
                    self._wake.notify_all()  # the rest is for the next worker
            fail(batch.expired, deadline_exceeded())
            self._metrics.dropped_items.labels("expired").inc(len(batch.expired))
            self._metrics.dropped_items.labels("cancelled").inc(batch.num_cancelled)
            if batch.items:
                self._before_batch(worker is self._workers[0] and num_busy == 1 and not queued)
                self._run(worker, batch, now)
                seconds = self._clock() - now
                self._remember(batch, seconds)
                full = len(batch.items) >= self._ceilings[batch.modality].now
                units = self._units(batch.modality) * len(batch.items)
                self._admission.note_batch(units, seconds, num_busy, saturated=queued or full)
            with self._wake:
                worker.running = []
                worker.busy_since = None

    def _remember(self, batch: Batch, seconds: float) -> None:
        """By kind and size: many small batches must not make us forget how long the rare large ones take."""
        key = (batch.modality, len(batch.items).bit_length())
        self._past.setdefault(key, deque(maxlen=_BATCHES_REMEMBERED)).append(seconds)

    def _is_next(self, worker: _Worker) -> bool:
        """The first worker takes what comes while it is free: it alone spreads a lone batch over every core, and one
        team of threads may spin where two, being more than the cores, are made to sleep at every loop (libgomp)."""
        first = self._workers[0]
        return worker is first or first.busy_since is not None or first.thread is None or not first.thread.is_alive()

    def _run(self, worker: _Worker, batch: Batch, started: float) -> None:
        """Encode a batch, cutting it until every item has its result or its error."""
        modality, metrics = batch.modality, self._metrics
        for item in batch.items:
            metrics.item_wait_seconds.labels(modality, batch.lane).observe(started - item.arrived)
        groups = [batch.items]
        while groups:
            group = groups.pop()
            worker.busy_since = self._clock()  # a batch that is cut makes headway with every part
            result = self._attempt(modality, group)
            if not isinstance(result, Exception):
                metrics.encoded_items.labels(modality).inc(len(group))  # before anyone who waits can ask for it
                for item, vector in zip(group, result, strict=True):
                    _complete(item, vector)
                continue
            if isinstance(result, self._out_of_memory):
                self._free_memory()
                self._ceilings[modality].lower(len(group))
                metrics.oom_retries.labels(modality).inc()
            if len(group) == 1 or isinstance(result, ConfigurationError):
                metrics.encode_failures.labels(modality).inc(len(group))
                fail(group, _failure(result, transient=isinstance(result, self._out_of_memory)))
                continue
            metrics.bisections.labels(modality).inc()
            middle = len(group) // 2
            groups += [group[middle:], group[:middle]]
        metrics.batch_items.labels(modality).observe(len(batch.items))
        metrics.batch_seconds.labels(modality).observe(self._clock() - started)

    def _attempt(self, modality: Modality, group: list[Item]) -> Vectors | Exception:
        """Run the encoder once. The error is returned, not raised: its traceback would keep the batch's memory."""
        try:
            vectors = self._encode[modality]([item.payload for item in group])
            if len(vectors) != len(group) or not np.isfinite(vectors).all():
                raise EncodingFailed("The encoder's answer has a wrong shape or values that are not numbers.")
        except Exception as error:
            logger.warning("A batch of %d %s items failed.", len(group), modality, exc_info=True)
            if self._is_lost(error):
                raise _DeviceLostError from None
            return error.with_traceback(None)
        self._ceilings[modality].note_clean()
        return vectors


def fail(items: list[Item], error: SightlineError) -> None:
    """Give the items their one outcome, unless they have it."""
    for item in items:
        with contextlib.suppress(Exception):  # cancelled or completed already
            item.future.set_exception(error)


def worker_died() -> WorkerDied:
    return WorkerDied("The encoder did not end its batch and starts again; try again shortly.", retry_after_seconds=1)


def not_ready() -> NotReady:
    return NotReady("The service is starting, stopping or mending itself; try again shortly.", retry_after_seconds=1)


def encoder_lost() -> EncoderLost:
    return EncoderLost("The accelerator cannot be used by this process any longer; it ends, to be started anew.")


def _complete(item: Item, vector: Vectors) -> None:
    with contextlib.suppress(Exception):
        item.future.set_result(vector)


def _failure(error: BaseException, *, transient: bool) -> SightlineError:
    """``transient``: memory ran out, so the same item may well succeed another time."""
    if isinstance(error, SightlineError) and not isinstance(error, EncodingFailed):
        return error
    if transient:
        return OutOfMemory("There is no memory for this item at this moment; try again shortly.", retry_after_seconds=1)
    return ItemFailed("The encoder failed on this item alone; check the input or try another one.")
