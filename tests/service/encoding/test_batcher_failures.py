"""The batcher's law when something fails: an item, memory, a thread, a batch that never ends. Events, not sleeps."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest

from service.encoding.batcher import Batcher, BatcherLimits
from service.encoding.lanes import Lane, Modality, Vectors
from service.metrics import Metrics
from sightline.errors import EncodingFailed, HubUnreachable, NotReady
from tests.service.encoding.conftest import MakeBatcher
from tests.service.encoding.stand_ins import WAIT_SECONDS, Boom, Clock, Encoder, block, outcome, submit


def test_a_poisoned_item_fails_alone(make_batcher: MakeBatcher, encoder: Encoder) -> None:
    def poison(batch: list[Any]) -> None:
        if 5 in batch:
            raise ValueError("0x7f secret /etc/path")

    batcher = make_batcher()
    block(batcher, encoder)
    futures = submit(batcher, *range(1, 9))
    encoder.fault = poison
    encoder.gate.set()
    results = [outcome(future) for future in futures]
    assert [result for result in results if isinstance(result, float)] == [1.0, 2.0, 3.0, 4.0, 6.0, 7.0, 8.0]
    assert isinstance(results[4], EncodingFailed)
    assert "secret" not in results[4].message


@pytest.mark.parametrize("broken", [np.full((1, 1), np.nan, np.float32), np.zeros((0, 1), np.float32)])
def test_an_answer_that_cannot_be_right_is_a_failure(broken: Vectors) -> None:
    batcher = Batcher(
        dict.fromkeys(Modality, lambda batch: broken),
        BatcherLimits(dict.fromkeys(Modality, 4)),
        Metrics("0"),
    )
    batcher.start()
    assert isinstance(outcome(submit(batcher, 1)[0]), EncodingFailed)
    batcher.close()


def test_an_error_of_the_set_up_goes_to_all_without_cutting(make_batcher: MakeBatcher, encoder: Encoder) -> None:
    def no_tokenizer(batch: list[Any]) -> None:
        raise HubUnreachable("The tokenizer cannot be downloaded.")

    batcher = make_batcher()
    block(batcher, encoder)
    futures = submit(batcher, 1, 2, 3)
    encoder.gate.set()
    encoder.fault = no_tokenizer
    assert all(isinstance(outcome(future), HubUnreachable) for future in futures)
    assert encoder.batches[-1] == [1, 2, 3]


def test_out_of_memory_halves_the_batch_and_keeps_later_ones_small(make_batcher: MakeBatcher, encoder: Encoder) -> None:
    def small_memory(batch: list[Any]) -> None:
        if len(batch) > 2:
            raise MemoryError

    encoder.fault = small_memory
    batcher = make_batcher()
    assert [outcome(future) for future in submit(batcher, *range(8))] == [float(n) for n in range(8)]
    encoder.batches.clear()
    assert [outcome(future) for future in submit(batcher, *range(8))] == [float(n) for n in range(8)]
    assert encoder.batches == [[0, 1], [2, 3], [4, 5], [6, 7]]


def test_memory_is_freed_after_the_failed_batch_and_before_the_retry(encoder: Encoder) -> None:
    events: list[str] = []

    def once(batch: list[Any]) -> None:
        events.append("encode")
        if events == ["encode"]:
            raise MemoryError

    encoder.fault = once
    batcher = Batcher(
        dict.fromkeys(Modality, encoder), BatcherLimits(dict.fromkeys(Modality, 4)), Metrics("0"),
        free_memory=lambda: events.append("free"),
    )  # fmt: skip
    batcher._workers.open = True  # gather both items before the thread starts
    futures = submit(batcher, 1, 2)
    batcher.start()
    assert [outcome(future) for future in futures] == [1.0, 2.0]
    assert events == ["encode", "free", "encode", "encode"]
    batcher.close()


def test_a_dead_thread_tells_everyone_and_starts_again(make_batcher: MakeBatcher, encoder: Encoder) -> None:
    def die(batch: list[Any]) -> None:
        raise Boom

    batcher = make_batcher(restart_delay_seconds=0.01)
    first = block(batcher, encoder)
    waiting = submit(batcher, 1, 2)
    encoder.fault = die
    encoder.gate.set()
    assert all(isinstance(outcome(future), NotReady) for future in [first, *waiting])
    encoder.fault = lambda batch: None
    for _ in range(1000):
        if batcher.healthy:
            break
        threading.Event().wait(0.005)
    assert outcome(submit(batcher, 3)[0]) == 3.0


def test_work_is_refused_while_the_thread_is_dead(make_batcher: MakeBatcher, encoder: Encoder) -> None:
    def die(batch: list[Any]) -> None:
        raise Boom

    encoder.fault = die
    batcher = make_batcher(restart_delay_seconds=WAIT_SECONDS)
    assert isinstance(outcome(submit(batcher, 1)[0]), NotReady)
    assert not batcher.healthy
    with pytest.raises(NotReady), batcher.admit(1, Lane.INTERACTIVE):
        pass
    with pytest.raises(NotReady):
        submit(batcher, 2)


def test_a_batch_that_never_ends_makes_the_batcher_unhealthy(make_batcher: MakeBatcher, encoder: Encoder) -> None:
    clock = Clock()
    batcher = make_batcher(clock=clock, stall_seconds=30.0)
    block(batcher, encoder)
    assert batcher.healthy
    clock.now += 31.0
    assert not batcher.healthy
