"""The batcher: single items in, batches through the encoder, one result or one error out for each.

Its law:

1. A batch forms the moment the encoder is free. There is no timer: a lone item waits for nothing, and a batch is
   what has gathered while the last one ran.
2. Text and image have separate queues, each with an interactive and a bulk lane. Interactive items go first; bulk
   work that has waited ``bulk_patience_seconds`` since it came, and since bulk was last served, gets the next batch.
3. Cancelled and expired items are dropped before a batch is formed.
4. Work is admitted in units before it costs anything; what does not fit is refused with the time to come back.
5. Every item gets exactly one result or one error. A failing batch is cut in halves until the poisoned item stands
   alone; out of memory halves the batch, which stays small until enough batches have gone well.
6. If the encoder's thread dies, everyone waiting hears NotReady, new work is refused, and the thread starts again.

One thread of its own runs the encoder, so nothing heavy is ever on the event loop. Public methods are thread-safe.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import numpy as np
import numpy.typing as npt

from service.context import deadline_exceeded
from service.metrics import Metrics
from sightline.errors import ConfigurationError, EncodingFailed, NotReady, Overloaded, SightlineError

Vectors = npt.NDArray[np.float32]
Encode = Callable[[list[Any]], Vectors]
"""Payloads of one modality → float32 ``[B, D]``; called by the encoder's thread alone."""

_CLEAN_BATCHES_TO_GROW = 64
_MAX_RETRY_AFTER_SECONDS = 30

logger = logging.getLogger(__name__)


class Modality(StrEnum):
    TEXT = "text"
    IMAGE = "image"


class Lane(StrEnum):
    INTERACTIVE = "interactive"
    BULK = "bulk"


@dataclass(frozen=True)
class BatcherLimits:
    """``capacity_units`` bounds admitted work; an image counts ``image_units``, a text one (ViT-B/32 spends about
    seven times the arithmetic on a picture that it spends on a caption of ten words). ``stall_seconds``: a batch that
    runs longer makes the service not ready."""

    max_batch: Mapping[Modality, int]
    capacity_units: int = 4096
    image_units: int = 8
    bulk_patience_seconds: float = 0.5
    restart_delay_seconds: float = 1.0
    stall_seconds: float = 30.0

    def units(self, modality: Modality) -> int:
        return self.image_units if modality is Modality.IMAGE else 1


@dataclass(eq=False)
class Item:
    """One text or one picture on its way. ``deadline`` and ``arrived`` are on the batcher's clock, in seconds."""

    payload: Any
    deadline: float
    arrived: float
    lane: Lane
    future: Future[Vectors] = field(default_factory=Future)


class _Queue:
    """The two lanes of one modality and its present batch ceiling."""

    def __init__(self, modality: Modality, encode: Encode, max_batch: int) -> None:
        self.modality = modality
        self.encode = encode
        self.max_batch = max_batch
        self.ceiling = max_batch
        self.clean_batches = 0
        self.lanes: dict[Lane, deque[Item]] = {lane: deque() for lane in Lane}

    def lower(self, failed_size: int) -> None:
        self.ceiling = max(1, min(self.ceiling, failed_size // 2))
        self.clean_batches = 0

    def note_clean(self) -> None:
        self.clean_batches += 1
        if self.ceiling < self.max_batch and self.clean_batches >= _CLEAN_BATCHES_TO_GROW:
            self.ceiling = min(self.max_batch, self.ceiling * 2)
            self.clean_batches = 0


class Batcher:
    """Owns the encoder's thread. ``out_of_memory`` lists the exceptions that mean "halve and retry"."""

    def __init__(
        self,
        encode: Mapping[Modality, Encode],
        limits: BatcherLimits,
        metrics: Metrics,
        *,
        out_of_memory: tuple[type[BaseException], ...] = (MemoryError,),
        free_memory: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._limits = limits
        self._metrics = metrics
        self._out_of_memory = out_of_memory
        self._free_memory = free_memory
        self._clock = clock
        self._queues = {modality: _Queue(modality, encode[modality], limits.max_batch[modality]) for modality in encode}
        self._wake = threading.Condition()
        self._closing = threading.Event()
        self._open = False
        self._units = 0
        self._units_per_second = 0.0
        self._bulk_served = -math.inf
        self._busy_since: float | None = None
        self._running: list[Item] = []
        self._thread: threading.Thread | None = None
        metrics.capacity_units.set(limits.capacity_units)
        metrics.admitted_units.set_function(lambda: self._units)
        for modality, queue in self._queues.items():
            for lane, items in queue.lanes.items():
                metrics.queue_items.labels(modality, lane).set_function(items.__len__)

    # Life

    def start(self) -> None:
        """Start the encoder's thread; to be called once."""
        assert self._thread is None, "a batcher is started once"
        self._open = True
        self._thread = threading.Thread(target=self._live, name="encoder", daemon=True)
        self._thread.start()

    def close(self, timeout_seconds: float = 5.0) -> None:
        """Refuse new work, tell everyone waiting NotReady and end the thread after its present batch."""
        self._closing.set()
        with self._wake:
            self._open = False
            left = self._take_all()
            self._wake.notify_all()
        self._fail(left, NotReady("The service is shutting down; send the request to another replica."))
        if self._thread is not None:
            self._thread.join(timeout_seconds)

    @property
    def healthy(self) -> bool:
        """Whether the thread lives, takes work, and is not stuck in a batch."""
        busy_since = self._busy_since
        stuck = busy_since is not None and self._clock() - busy_since > self._limits.stall_seconds
        return self._open and not stuck and self._thread is not None and self._thread.is_alive()

    # Work in

    @contextlib.contextmanager
    def admit(self, units: int) -> Iterator[None]:
        """Hold ``units`` of the capacity while the block runs. Raises Overloaded or NotReady instead of waiting."""
        with self._wake:
            if not self.healthy:
                raise _not_ready()
            if self._units + units > self._limits.capacity_units:
                raise self._overloaded()
            self._units += units
        try:
            yield
        finally:
            with self._wake:
                self._units -= units

    def submit(self, modality: Modality, payloads: Sequence[Any], *, lane: Lane, deadline: float) -> list[Item]:
        """Queue payloads as items. Raises NotReady. Every item's future will be completed."""
        arrived = self._clock()
        items = [Item(payload, deadline, arrived, lane) for payload in payloads]
        with self._wake:
            if not self._open:
                raise _not_ready()
            self._queues[modality].lanes[lane].extend(items)
            self._wake.notify()
        return items

    async def encode(
        self, modality: Modality, payloads: Sequence[Any], *, lane: Lane, deadline: float
    ) -> list[Vectors | SightlineError]:
        """Queue payloads and wait: for each the vector, float32 ``[D]``, or its own error.

        Never waits beyond ``deadline``. When the waiting task is cancelled (its client left), so are its items.
        """
        if not payloads:
            return []
        items = self.submit(modality, payloads, lane=lane, deadline=deadline)
        try:
            async with asyncio.timeout(deadline - self._clock()):
                await _all_done(items)
        except TimeoutError:
            pass  # items without a result are expired
        finally:
            self._withdraw(modality, items)
        return [_outcome(item) for item in items]

    def _withdraw(self, modality: Modality, items: list[Item]) -> None:
        """Cancel what is not done and free its place in the queue."""
        cancelled = [item.future.cancel() for item in items if not item.future.done()]
        if not any(cancelled):
            return
        with self._wake:
            for lane in self._queues[modality].lanes.values():
                kept = [item for item in lane if not item.future.cancelled()]
                self._metrics.dropped_items.labels("cancelled").inc(len(lane) - len(kept))
                lane.clear()
                lane.extend(kept)

    def _overloaded(self) -> Overloaded:
        wait = self._units / self._units_per_second if self._units_per_second else 1.0
        seconds = min(_MAX_RETRY_AFTER_SECONDS, max(1, math.ceil(wait)))
        return Overloaded(
            f"The service is busy and its queue is full; try again in {seconds} s.",
            retry_after_seconds=seconds, limit_units=self._limits.capacity_units,
        )  # fmt: skip

    # The encoder's thread

    def _live(self) -> None:
        """Work until closed; when anything escapes, bury the dead and start again after a pause."""
        while not self._closing.is_set():
            try:
                self._work()
            except BaseException:
                logger.exception("The encoder's thread died and starts again.")
                with self._wake:
                    self._open = False
                    self._busy_since = None
                    lost = self._running + self._take_all()
                    self._running = []
                self._fail(lost, _not_ready())
                self._metrics.worker_restarts.inc()
                self._closing.wait(self._limits.restart_delay_seconds)
                with self._wake:
                    self._open = not self._closing.is_set()

    def _work(self) -> None:
        while True:
            with self._wake:
                self._wake.wait_for(lambda: self._closing.is_set() or self._choose() is not None)
                if self._closing.is_set():
                    return
                queue, batch, expired = self._form_batch()
                self._running = batch
                self._busy_since = self._clock() if batch else None
            self._fail(expired, deadline_exceeded())
            self._metrics.dropped_items.labels("expired").inc(len(expired))
            if batch:
                self._run(queue, batch)
            with self._wake:
                self._running = []
                self._busy_since = None

    def _choose(self) -> tuple[_Queue, Lane] | None:
        """Which lane the next batch comes from; within a lane, the modality whose first item came first."""
        oldest: dict[Lane, _Queue] = {}
        for lane in Lane:
            waiting = [queue for queue in self._queues.values() if queue.lanes[lane]]
            if waiting:
                oldest[lane] = min(waiting, key=lambda queue: queue.lanes[lane][0].arrived)
        if Lane.BULK in oldest:
            waited_since = max(oldest[Lane.BULK].lanes[Lane.BULK][0].arrived, self._bulk_served)
            patient = self._clock() - waited_since < self._limits.bulk_patience_seconds
            if Lane.INTERACTIVE not in oldest or not patient:
                return oldest[Lane.BULK], Lane.BULK
        return (oldest[Lane.INTERACTIVE], Lane.INTERACTIVE) if oldest else None

    def _form_batch(self) -> tuple[_Queue, list[Item], list[Item]]:
        """The next batch, and the expired items met on the way. The lock is held."""
        choice = self._choose()
        assert choice is not None
        queue, lane = choice
        now = self._clock()
        if lane is Lane.BULK:
            self._bulk_served = now
        batch: list[Item] = []
        expired: list[Item] = []
        items = queue.lanes[lane]
        while items and len(batch) < queue.ceiling:
            item = items.popleft()
            if not item.future.set_running_or_notify_cancel():
                self._metrics.dropped_items.labels("cancelled").inc()
            elif item.deadline <= now:
                expired.append(item)
            else:
                self._metrics.item_wait_seconds.labels(queue.modality, lane).observe(now - item.arrived)
                batch.append(item)
        return queue, batch, expired

    def _run(self, queue: _Queue, batch: list[Item]) -> None:
        """Encode a batch, cutting it until every item has its result or its error."""
        started = self._clock()
        groups = [batch]
        while groups:
            group = groups.pop()
            result = self._attempt(queue, group)
            if not isinstance(result, BaseException):
                for item, vector in zip(group, result, strict=True):
                    _complete(item, vector)
                self._metrics.encoded_items.labels(queue.modality).inc(len(group))
                continue
            if isinstance(result, self._out_of_memory):
                self._free_memory()
                queue.lower(len(group))
                self._metrics.oom_retries.labels(queue.modality).inc()
            if len(group) == 1 or isinstance(result, ConfigurationError):
                self._metrics.encode_failures.labels(queue.modality).inc(len(group))
                self._fail(group, _failure(result))
                continue
            self._metrics.bisections.labels(queue.modality).inc()
            middle = len(group) // 2
            groups += [group[middle:], group[:middle]]
        seconds = self._clock() - started
        units = self._limits.units(queue.modality) * len(batch)
        self._units_per_second = 0.8 * self._units_per_second + 0.2 * units / max(seconds, 1e-6)
        self._metrics.batch_items.labels(queue.modality).observe(len(batch))
        self._metrics.batch_seconds.labels(queue.modality).observe(seconds)

    def _attempt(self, queue: _Queue, group: list[Item]) -> Vectors | Exception:
        """Run the encoder once. The error is returned, not raised: its traceback would keep the batch's memory."""
        try:
            vectors = queue.encode([item.payload for item in group])
            if len(vectors) != len(group) or not np.isfinite(vectors).all():
                raise EncodingFailed("The encoder's answer has a wrong shape or values that are not numbers.")
        except Exception as error:
            logger.warning("A batch of %d %s items failed.", len(group), queue.modality, exc_info=True)
            return error.with_traceback(None)
        queue.note_clean()
        return vectors

    def _take_all(self) -> list[Item]:
        taken = [item for queue in self._queues.values() for lane in queue.lanes.values() for item in lane]
        for queue in self._queues.values():
            for lane in queue.lanes.values():
                lane.clear()
        return taken

    @staticmethod
    def _fail(items: list[Item], error: SightlineError) -> None:
        for item in items:
            with contextlib.suppress(Exception):  # cancelled or completed already: it has its one outcome
                item.future.set_exception(error)


def _complete(item: Item, vector: Vectors) -> None:
    with contextlib.suppress(Exception):
        item.future.set_result(vector)


def _failure(error: BaseException) -> SightlineError:
    if isinstance(error, SightlineError):
        return error
    return EncodingFailed("The encoder failed on this item alone; check the input or try another one.")


def _not_ready() -> NotReady:
    return NotReady("The service is starting, stopping or mending itself; try again shortly.", retry_after_seconds=1)


def _outcome(item: Item) -> Vectors | SightlineError:
    if item.future.cancelled() or not item.future.done():
        return deadline_exceeded()
    error = item.future.exception()
    if error is None:
        return item.future.result()
    assert isinstance(error, SightlineError)
    return error


async def _all_done(items: list[Item]) -> None:
    """Wait until every item is done, waking the event loop once, not once for each item."""
    loop = asyncio.get_running_loop()
    everything = loop.create_future()
    lock = threading.Lock()
    left = len(items)

    def finish() -> None:
        if not everything.done():
            everything.set_result(None)

    def count(_: Future[Vectors]) -> None:
        nonlocal left
        with lock:
            left -= 1
            last = left == 0
        if last:
            with contextlib.suppress(RuntimeError):  # the loop has closed: nobody waits any more
                loop.call_soon_threadsafe(finish)

    for item in items:
        item.future.add_done_callback(count)
    await everything
