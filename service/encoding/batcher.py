"""The batcher: single items in, batches through the encoder, one result or one error out for each.

Its law:

1. A batch forms the moment the encoder is free. There is no timer: a lone item waits for nothing, and a batch is
   what has gathered while the last one ran.
2. Text and image have separate queues, each with an interactive and a bulk lane. Interactive items go first; bulk
   work that has waited ``bulk_patience_seconds`` since it came, and since bulk was last served, gets the next batch.
3. Cancelled and expired items are dropped before a batch is formed.
4. Work is admitted in units before it costs anything, as much as the encoder does in ``queue_seconds``; what does not
   fit is refused with the time to come back.
5. Every item gets exactly one result or one error. A failing batch is cut in halves until the poisoned item stands
   alone; out of memory halves the batch, which stays small until enough batches have gone well.
6. If a thread of the encoder dies, everyone waiting hears NotReady, new work is refused, and the thread starts again.

The clauses live in three places: admission (4), lanes (2, 3) and workers (1, 5, 6). The workers' threads alone run the
encoder, so nothing heavy is ever on the event loop. Public methods are thread-safe.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from service.context import deadline_exceeded
from service.encoding.admission import Admission
from service.encoding.lanes import Ceiling, Item, Lane, Lanes, Modality, Vectors
from service.encoding.wakeups import Wakeups
from service.encoding.workers import Encode, Workers, not_ready
from service.metrics import Metrics
from sightline.errors import Overloaded, SightlineError


@dataclass(frozen=True)
class BatcherLimits:
    """``capacity_units`` bounds admitted work; an image counts ``image_units``, a text one (ViT-B/32 spends about
    seven times the arithmetic on a picture that it spends on a caption of ten words). ``min_units`` and
    ``queue_seconds``: see ``Admission``. ``stall_seconds``: see ``Workers.stuck_seconds``."""

    max_batch: Mapping[Modality, int]
    capacity_units: int = 4096
    min_units: int = 528
    queue_seconds: float = 0.75
    image_units: int = 8
    bulk_patience_seconds: float = 0.5
    restart_delay_seconds: float = 1.0
    stall_seconds: float = 5.0

    def units(self, modality: Modality) -> int:
        return self.image_units if modality is Modality.IMAGE else 1


class Batcher:
    """Single items in, results out.

    ``encode`` is called by ``num_workers`` threads at once; ``before_batch`` by the same thread right before, with
    True when that batch is all there is to do. ``out_of_memory`` lists the exceptions that mean "halve and retry".
    """

    def __init__(
        self,
        encode: Mapping[Modality, Encode],
        limits: BatcherLimits,
        metrics: Metrics,
        *,
        num_workers: int = 1,
        out_of_memory: tuple[type[BaseException], ...] = (MemoryError,),
        free_memory: Callable[[], None] = lambda: None,
        before_batch: Callable[[bool], None] = lambda alone: None,
        is_lost: Callable[[BaseException], bool] = lambda error: False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.image_units = limits.image_units
        self._metrics = metrics
        self._clock = clock
        self._wake = threading.Condition()
        self._lanes = Lanes(encode, limits.bulk_patience_seconds)
        self._wakeups: Wakeups | None = None
        self._admission = Admission(limits.capacity_units, limits.min_units, limits.queue_seconds, metrics, clock)
        self._workers = Workers(
            encode, self._lanes, {modality: Ceiling(limits.max_batch[modality]) for modality in encode}, self._wake,
            self._admission, limits.units, metrics, clock, num_workers=num_workers,
            restart_delay_seconds=limits.restart_delay_seconds, stall_seconds=limits.stall_seconds,
            out_of_memory=out_of_memory, free_memory=free_memory, before_batch=before_batch, is_lost=is_lost,
        )  # fmt: skip
        for (modality, lane), queue in self._lanes.queues.items():
            metrics.queue_items.labels(modality, lane).set_function(queue.__len__)
            metrics.queue_oldest_seconds.labels(modality, lane).set_function(self._age_of(queue))

    # Life

    def start(self) -> None:
        """Start the encoder's threads; to be called once."""
        self._workers.start()

    def close(self, timeout_seconds: float = 2.0) -> None:
        """Refuse new work, tell everyone waiting ShuttingDown and end the threads after their present batches."""
        self._workers.close(timeout_seconds)

    @property
    def healthy(self) -> bool:
        """Whether every thread lives, takes work, and is not stuck in a batch."""
        return self._workers.alive and not self._workers.stuck_seconds

    @property
    def stuck_seconds(self) -> float:
        """For how long a batch has been running beyond the time that any batch should take; 0 when none is."""
        return self._workers.stuck_seconds

    @property
    def running(self) -> bool:
        """Whether a thread of the encoder is still at work, as one that is stuck is after ``close``."""
        return self._workers.running

    @property
    def lost(self) -> bool:
        """Whether this process cannot use the device any more."""
        return self._workers.lost

    @property
    def hopeless(self) -> bool:
        """Whether only a new process can help."""
        return self._workers.hopeless

    def supervise(self) -> None:
        """Start dead threads again and give up what is stuck; to be called about every second."""
        self._workers.supervise()

    @property
    def part_units(self) -> int:
        """How much of the queue one request should hold at once: a quarter."""
        return self._admission.capacity_units // 4

    def has_room(self, units: int) -> bool:
        """Whether so much interactive work would be admitted at this moment."""
        return self._admission.has_room(units)

    def overloaded(self) -> Overloaded:
        """The refusal of work for which there is no room."""
        return self._admission.overloaded()

    # Work in

    @contextlib.contextmanager
    def admit(self, units: int, lane: Lane) -> Iterator[None]:
        """Hold ``units`` of the capacity while the block runs. Raises Overloaded or NotReady instead of waiting."""
        if not self.healthy:
            raise not_ready()
        with self._admission.admit(units, lane):
            yield

    def submit(self, modality: Modality, payloads: Sequence[Any], *, lane: Lane, deadline: float) -> list[Item]:
        """Queue payloads as items. Raises NotReady. Every item's future will be completed."""
        arrived = self._clock()
        items = [Item(payload, deadline, arrived, lane) for payload in payloads]
        with self._wake:
            if not self._workers.open:
                raise not_ready()
            self._lanes.put(modality, items)
            self._wake.notify_all()
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
                await self._all_done(items)
        except TimeoutError:
            pass  # items without a result are expired
        finally:
            self._withdraw(modality, items)
        return [_outcome(item) for item in items]

    async def _all_done(self, items: list[Item]) -> None:
        """Wait until every item is done, waking the event loop once, not once for each item."""
        loop = asyncio.get_running_loop()
        if self._wakeups is None or self._wakeups.loop is not loop:
            self._wakeups = Wakeups(loop)
        wakeups = self._wakeups
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
                wakeups.soon(finish)

        for item in items:
            item.future.add_done_callback(count)
        await everything

    def _withdraw(self, modality: Modality, items: list[Item]) -> None:
        """Cancel what is not done and free its place in the queue."""
        cancelled = [item.future.cancel() for item in items if not item.future.done()]
        if not any(cancelled):
            return
        with self._wake:
            dropped = self._lanes.purge(modality)
        self._metrics.dropped_items.labels("cancelled").inc(dropped)

    def _age_of(self, queue: Sequence[Item]) -> Callable[[], float]:
        def age_seconds() -> float:
            try:
                return self._clock() - queue[0].arrived
            except IndexError:
                return 0.0

        return age_seconds


def _outcome(item: Item) -> Vectors | SightlineError:
    if item.future.cancelled() or not item.future.done():
        return deadline_exceeded()
    error = item.future.exception()
    if error is None:
        return item.future.result()
    assert isinstance(error, SightlineError)
    return error
