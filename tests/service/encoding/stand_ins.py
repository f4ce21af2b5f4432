"""An encoder of numbers, a clock and short ways to use a batcher, for tests of the batcher's law."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np

from service.encoding.batcher import Batcher, BatcherLimits
from service.encoding.lanes import Lane, Modality, Vectors
from service.metrics import Metrics
from sightline.errors import SightlineError

NEVER = float("inf")
WAIT_SECONDS = 10.0


class Boom(BaseException):
    """Not an Exception: kills the thread it is raised in."""


class Encoder:
    """Encodes a number as the vector [number]; records batches; stops before a batch while ``gate`` is closed."""

    def __init__(self) -> None:
        self.batches: list[list[Any]] = []
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Semaphore(0)
        self.fault: Callable[[list[Any]], None] = lambda batch: None

    def __call__(self, batch: list[Any]) -> Vectors:
        self.entered.release()
        assert self.gate.wait(WAIT_SECONDS)
        self.batches.append(list(batch))
        self.fault(batch)
        return np.array([[number] for number in batch], dtype=np.float32)


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def build(encoder: Encoder, *, max_batch: int = 8, clock: Clock | None = None, **limits: Any) -> Batcher:
    sizes = {Modality.TEXT: max_batch, Modality.IMAGE: max_batch}
    more: dict[str, Any] = {} if clock is None else {"clock": clock}
    return Batcher(dict.fromkeys(Modality, encoder), BatcherLimits(sizes, **limits), Metrics("0"), **more)


def submit(batcher: Batcher, *payloads: Any, lane: Lane = Lane.INTERACTIVE, deadline: float = NEVER) -> list[Any]:
    return [item.future for item in batcher.submit(Modality.TEXT, payloads, lane=lane, deadline=deadline)]


def outcome(future: Any) -> float | SightlineError:
    try:
        return float(future.result(WAIT_SECONDS)[0])
    except SightlineError as error:
        return error


def block(batcher: Batcher, encoder: Encoder) -> Any:
    """Occupy the encoder with the item 0, so that what is submitted next gathers behind it."""
    encoder.gate.clear()
    (first,) = submit(batcher, 0)
    assert encoder.entered.acquire(timeout=WAIT_SECONDS)
    return first
