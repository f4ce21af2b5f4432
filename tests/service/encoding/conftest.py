"""Batchers that are closed when a test ends."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from service.encoding.batcher import Batcher
from tests.service.encoding.stand_ins import Clock, Encoder, build

MakeBatcher = Callable[..., Batcher]


@pytest.fixture
def encoder() -> Encoder:
    return Encoder()


@pytest.fixture
def make_batcher(encoder: Encoder) -> Iterator[MakeBatcher]:
    made: list[Batcher] = []

    def make(*, max_batch: int = 8, start: bool = True, clock: Clock | None = None, **limits: Any) -> Batcher:
        batcher = build(encoder, max_batch=max_batch, clock=clock, **limits)
        if start:
            batcher.start()
        made.append(batcher)
        return batcher

    yield make
    encoder.gate.set()
    for batcher in made:
        batcher.close()
