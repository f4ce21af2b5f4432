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
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import numpy as np

from service.context import deadline_exceeded
from service.encoding.lanes import Batch, Ceiling, Item, ItemFailed, Lane, Lanes, Modality, Vectors
from service.metrics import Metrics
from sightline.errors import ConfigurationError, EncodingFailed, NotReady, Overloaded, SightlineError

Encode = Callable[[list[Any]], Vectors]
"""Payloads of one modality → float32 ``[B, D]``; called by the encoder's thread alone."""

_MAX_RETRY_AFTER_SECONDS = 30

logger = logging.getLogger(__name__)


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
        self._encode = encode
        self._lanes = Lanes(encode, limits.bulk_patience_seconds)
        self._ceilings = {modality: Ceiling(limits.max_batch[modality]) for modality in encode}
        self._wake = threading.Condition()
        self._closing = threading.Event()
        self._open = False
        self._units = 0
        self._units_per_second = 0.0
        self._busy_since: float | None = None
        self._running: list[Item] = []
        self._thread: threading.Thread | None = None
        metrics.capacity_units.set(limits.capacity_units)
        metrics.admitted_units.set_function(lambda: self._units)
        for (modality, lane), queue in self._lanes.queues.items():
            metrics.queue_items.labels(modality, lane).set_function(queue.__len__)

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
            left = self._lanes.take_all()
            self._wake.notify_all()
        self._fail(left, NotReady("The service is shutting down; send the request to another replica."))
        if self._thread is not None:
            self._thread.join(timeout_seconds)
            self._fail(self._running, _not_ready())  # a batch that is stuck: nobody waits for it any longer

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
            self._lanes.put(modality, items)
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
            dropped = self._lanes.purge(modality)
        self._metrics.dropped_items.labels("cancelled").inc(dropped)

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
                    lost = self._running + self._lanes.take_all()
                    self._running = []
                self._fail(lost, _not_ready())
                self._metrics.worker_restarts.inc()
                self._closing.wait(self._limits.restart_delay_seconds)
                with self._wake:
                    self._open = not self._closing.is_set()

    def _work(self) -> None:
        while True:
            with self._wake:
                self._wake.wait_for(lambda: self._closing.is_set() or bool(self._lanes))
                if self._closing.is_set():
                    return
                now = self._clock()
                batch = self._lanes.take(now, self._ceilings)
                self._running = batch.items + batch.expired
                self._busy_since = now
            self._fail(batch.expired, deadline_exceeded())
            self._metrics.dropped_items.labels("expired").inc(len(batch.expired))
            self._metrics.dropped_items.labels("cancelled").inc(batch.num_cancelled)
            if batch.items:
                self._run(batch, now)
            with self._wake:
                self._running = []
                self._busy_since = None

    def _run(self, batch: Batch, started: float) -> None:
        """Encode a batch, cutting it until every item has its result or its error."""
        modality, metrics = batch.modality, self._metrics
        for item in batch.items:
            metrics.item_wait_seconds.labels(modality, batch.lane).observe(started - item.arrived)
        groups = [batch.items]
        while groups:
            group = groups.pop()
            result = self._attempt(modality, group)
            if not isinstance(result, Exception):
                for item, vector in zip(group, result, strict=True):
                    _complete(item, vector)
                metrics.encoded_items.labels(modality).inc(len(group))
                continue
            if isinstance(result, self._out_of_memory):
                self._free_memory()
                self._ceilings[modality].lower(len(group))
                metrics.oom_retries.labels(modality).inc()
            if len(group) == 1 or isinstance(result, ConfigurationError):
                metrics.encode_failures.labels(modality).inc(len(group))
                self._fail(group, _failure(result, transient=isinstance(result, self._out_of_memory)))
                continue
            metrics.bisections.labels(modality).inc()
            middle = len(group) // 2
            groups += [group[middle:], group[:middle]]
        seconds = self._clock() - started
        units = self._limits.units(modality) * len(batch.items)
        rate = units / max(seconds, 1e-6)
        self._units_per_second = 0.8 * self._units_per_second + 0.2 * rate if self._units_per_second else rate
        metrics.batch_items.labels(modality).observe(len(batch.items))
        metrics.batch_seconds.labels(modality).observe(seconds)

    def _attempt(self, modality: Modality, group: list[Item]) -> Vectors | Exception:
        """Run the encoder once. The error is returned, not raised: its traceback would keep the batch's memory."""
        try:
            vectors = self._encode[modality]([item.payload for item in group])
            if len(vectors) != len(group) or not np.isfinite(vectors).all():
                raise EncodingFailed("The encoder's answer has a wrong shape or values that are not numbers.")
        except Exception as error:
            logger.warning("A batch of %d %s items failed.", len(group), modality, exc_info=True)
            return error.with_traceback(None)
        self._ceilings[modality].note_clean()
        return vectors

    @staticmethod
    def _fail(items: list[Item], error: SightlineError) -> None:
        for item in items:
            with contextlib.suppress(Exception):  # cancelled or completed already: it has its one outcome
                item.future.set_exception(error)


def _complete(item: Item, vector: Vectors) -> None:
    with contextlib.suppress(Exception):
        item.future.set_result(vector)


def _failure(error: BaseException, *, transient: bool) -> SightlineError:
    """``transient``: the same item may well succeed another time."""
    if isinstance(error, SightlineError) and not isinstance(error, EncodingFailed):
        return error
    kind = EncodingFailed if transient else ItemFailed
    return kind("The encoder failed on this item alone; check the input or try another one.")


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
