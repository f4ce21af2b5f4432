"""The queues of the batcher: two modalities, two lanes each, and which of them comes next.

Plain data without threads or locks: the batcher holds its lock around every call. Who is next, in one sentence:
interactive before bulk, the oldest first, but bulk work that has waited ``bulk_patience_seconds`` since it came, and
since bulk was last served, gets one batch. So bulk cannot starve, and a long backlog of it cannot take over either.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import numpy as np
import numpy.typing as npt

from sightline.errors import EncodingFailed, NotReady

Vectors = npt.NDArray[np.float32]

_CLEAN_BATCHES_TO_GROW = 64


class ItemFailed(EncodingFailed):
    """The encoder failed on this item alone, and not for lack of memory: it would fail on it again."""


class WorkerDied(NotReady):
    """The encoder's thread died or hung over the batch that this item was in; one item of it may be why."""


class Modality(StrEnum):
    TEXT = "text"
    IMAGE = "image"


class Lane(StrEnum):
    INTERACTIVE = "interactive"
    BULK = "bulk"


@dataclass(eq=False)
class Item:
    """One text or one picture on its way. ``deadline`` and ``arrived`` are on the batcher's clock, in seconds."""

    payload: Any
    deadline: float
    arrived: float
    lane: Lane
    future: Future[Vectors] = field(default_factory=Future)


class Ceiling:
    """How large a batch may be: halved when memory runs out, doubled again after enough batches went well."""

    def __init__(self, largest: int) -> None:
        self.largest = largest
        self.now = largest
        self._clean_batches = 0

    def lower(self, failed_size: int) -> None:
        self.now = max(1, min(self.now, failed_size // 2))
        self._clean_batches = 0

    def note_clean(self) -> None:
        self._clean_batches += 1
        if self.now < self.largest and self._clean_batches >= _CLEAN_BATCHES_TO_GROW:
            self.now = min(self.largest, self.now * 2)
            self._clean_batches = 0


@dataclass(frozen=True)
class Batch:
    """What leaves the queues at once: items to encode, and expired and cancelled ones met on the way."""

    modality: Modality
    lane: Lane
    items: list[Item]
    expired: list[Item]
    num_cancelled: int


class Lanes:
    """Every queue, by modality and lane."""

    def __init__(self, modalities: Iterable[Modality], bulk_patience_seconds: float) -> None:
        self.queues: Mapping[tuple[Modality, Lane], deque[Item]] = {
            (modality, lane): deque() for modality in modalities for lane in Lane
        }
        self._patience_seconds = bulk_patience_seconds
        self._bulk_served = -math.inf

    def __bool__(self) -> bool:
        return any(self.queues.values())

    def put(self, modality: Modality, items: list[Item]) -> None:
        for item in items:
            self.queues[modality, item.lane].append(item)

    def take(self, now: float, ceilings: Mapping[Modality, Ceiling]) -> Batch:
        """The next batch, at least one item poorer than before; to be called when there is something."""
        modality, lane = self._next(now)
        if lane is Lane.BULK:
            self._bulk_served = now
        queue, size = self.queues[modality, lane], ceilings[modality].now
        items: list[Item] = []
        expired: list[Item] = []
        num_cancelled = 0
        while queue and len(items) < size:
            item = queue.popleft()
            if not item.future.set_running_or_notify_cancel():
                num_cancelled += 1
            elif item.deadline <= now:
                expired.append(item)
            else:
                items.append(item)
        return Batch(modality, lane, items, expired, num_cancelled)

    def take_all(self) -> list[Item]:
        taken = [item for queue in self.queues.values() for item in queue]
        for queue in self.queues.values():
            queue.clear()
        return taken

    def purge(self, modality: Modality) -> int:
        """Drop cancelled items; returns how many."""
        dropped = 0
        for lane in Lane:
            queue = self.queues[modality, lane]
            kept = [item for item in queue if not item.future.cancelled()]
            dropped += len(queue) - len(kept)
            queue.clear()
            queue.extend(kept)
        return dropped

    def _next(self, now: float) -> tuple[Modality, Lane]:
        heads = {key: queue[0].arrived for key, queue in self.queues.items() if queue}
        bulk = [key for key in heads if key[1] is Lane.BULK]
        interactive = [key for key in heads if key[1] is Lane.INTERACTIVE]
        if bulk:
            oldest = min(bulk, key=heads.__getitem__)
            waited_seconds = now - max(heads[oldest], self._bulk_served)
            if not interactive or waited_seconds >= self._patience_seconds:
                return oldest
        return min(interactive, key=heads.__getitem__)
