"""Each clause of the batcher's law. Events, not sleeps, decide what happens when."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from service.encoding.admission import Admission
from service.encoding.batcher import Batcher, BatcherLimits
from service.encoding.lanes import Lane, Modality
from service.metrics import Metrics
from sightline.errors import DeadlineExceeded, EncodingFailed, NotReady, Overloaded
from tests.service.encoding.conftest import MakeBatcher
from tests.service.encoding.stand_ins import WAIT_SECONDS, Clock, Encoder, block, build, outcome, submit


def test_a_lone_item_is_encoded_at_once(make_batcher: MakeBatcher, encoder: Encoder) -> None:
    (future,) = submit(make_batcher(), 7)
    assert outcome(future) == 7.0
    assert encoder.batches == [[7]]


def test_what_gathers_while_the_encoder_is_busy_becomes_one_batch(make_batcher: MakeBatcher, encoder: Encoder) -> None:
    batcher = make_batcher()
    first = block(batcher, encoder)
    rest = submit(batcher, 1) + submit(batcher, 2, 3)
    encoder.gate.set()
    assert [outcome(future) for future in [first, *rest]] == [0.0, 1.0, 2.0, 3.0]
    assert encoder.batches == [[0], [1, 2, 3]]


def test_a_large_request_is_split_and_others_come_between(make_batcher: MakeBatcher, encoder: Encoder) -> None:
    batcher = make_batcher(max_batch=2)
    block(batcher, encoder)
    bulk = submit(batcher, 1, 2, 3, 4, lane=Lane.BULK)
    urgent = submit(batcher, 9)
    encoder.gate.set()
    assert [outcome(future) for future in bulk + urgent] == [1.0, 2.0, 3.0, 4.0, 9.0]
    assert encoder.batches == [[0], [9], [1, 2], [3, 4]]


def test_a_cancelled_item_never_reaches_the_encoder(make_batcher: MakeBatcher, encoder: Encoder) -> None:
    batcher = make_batcher()
    block(batcher, encoder)
    gone, kept = submit(batcher, 1, 2)
    assert gone.cancel()
    encoder.gate.set()
    assert outcome(kept) == 2.0
    assert encoder.batches == [[0], [2]]


def test_an_expired_item_gets_its_error_and_never_reaches_the_encoder(
    make_batcher: MakeBatcher, encoder: Encoder
) -> None:
    clock = Clock()
    batcher = make_batcher(clock=clock)
    block(batcher, encoder)
    (late,), (kept,) = submit(batcher, 1, deadline=clock.now + 5), submit(batcher, 2)
    clock.now += 6
    encoder.gate.set()
    assert isinstance(outcome(late), DeadlineExceeded)
    assert outcome(kept) == 2.0
    assert encoder.batches == [[0], [2]]


def test_work_beyond_the_capacity_is_refused_and_finished_work_makes_room(make_batcher: MakeBatcher) -> None:
    batcher = make_batcher(capacity_units=10)
    with batcher.admit(8, Lane.INTERACTIVE):
        with pytest.raises(Overloaded) as refused, batcher.admit(3, Lane.INTERACTIVE):
            pass
        with batcher.admit(2, Lane.INTERACTIVE):
            pass
    with batcher.admit(10, Lane.INTERACTIVE):
        pass
    assert refused.value.details["retry_after_seconds"] == 1


def test_bulk_work_leaves_half_of_the_room_to_interactive_work(make_batcher: MakeBatcher) -> None:
    batcher = make_batcher(capacity_units=10)
    with batcher.admit(5, Lane.BULK):
        with pytest.raises(Overloaded), batcher.admit(1, Lane.BULK):
            pass
        with batcher.admit(5, Lane.INTERACTIVE):
            pass


def test_what_is_admitted_is_what_is_done_in_the_allowed_time(make_batcher: MakeBatcher, encoder: Encoder) -> None:
    clock = Clock()
    batcher = make_batcher(clock=clock, max_batch=10, capacity_units=1000, min_units=5, queue_seconds=2.0)

    def take_half_a_second(batch: list[Any]) -> None:
        clock.now += 0.5

    encoder.fault = take_half_a_second
    block(batcher, encoder)
    futures = submit(batcher, *range(10))
    encoder.gate.set()
    for future in futures:
        outcome(future)
    outcome(submit(batcher, 1)[0])  # the full batch is recorded by now: at most 20 units a second, at least 2
    with pytest.raises(Overloaded), batcher.admit(41, Lane.INTERACTIVE):
        pass
    with batcher.admit(5, Lane.INTERACTIVE):
        pass


def test_a_queue_that_stands_is_made_shorter_and_a_burst_is_not() -> None:
    clock = Clock()
    admission = Admission(1000, 100, 1.0, Metrics("0"), clock)
    admission.note_batch(200, 1.0, 1, saturated=True)
    assert admission.capacity_units == 200
    admission.overloaded()
    clock.now += 0.9
    admission.overloaded()
    assert admission.capacity_units == 200  # a burst
    clock.now += 0.2
    admission.overloaded()
    assert admission.capacity_units == 170
    clock.now += 1.1
    assert admission.capacity_units == 200  # nobody was refused for a second
    admission.overloaded()
    assert admission.capacity_units == 200


def test_two_workers_run_two_batches_at_once(encoder: Encoder) -> None:
    alone: list[bool] = []
    batcher = Batcher(
        dict.fromkeys(Modality, encoder), BatcherLimits(dict.fromkeys(Modality, 1)), Metrics("0"),
        num_workers=2, before_batch=alone.append,
    )  # fmt: skip
    batcher.start()
    encoder.gate.clear()
    futures = submit(batcher, 1, 2)
    assert encoder.entered.acquire(timeout=WAIT_SECONDS)
    assert encoder.entered.acquire(timeout=WAIT_SECONDS)  # both are in the encoder
    encoder.gate.set()
    assert [outcome(future) for future in futures] == [1.0, 2.0]
    assert alone == [False, False]
    outcome(submit(batcher, 3)[0])
    batcher.close()
    assert alone[-1] is True


def test_the_time_to_come_back_follows_from_the_measured_rate(make_batcher: MakeBatcher, encoder: Encoder) -> None:
    clock = Clock()
    batcher = make_batcher(clock=clock, capacity_units=10)

    def take_two_seconds(batch: list[Any]) -> None:
        clock.now += 2.0

    encoder.fault = take_two_seconds
    (future,) = submit(batcher, 1)
    outcome(future)
    submit(batcher, 2)[0].result(WAIT_SECONDS)  # the first batch's rate is recorded by now: half a unit a second
    with batcher.admit(7, Lane.INTERACTIVE), pytest.raises(Overloaded) as refused, batcher.admit(4, Lane.INTERACTIVE):
        pass
    assert refused.value.details["retry_after_seconds"] == 14


def test_closing_answers_everyone_and_takes_no_more(make_batcher: MakeBatcher, encoder: Encoder) -> None:
    batcher = make_batcher()
    first = block(batcher, encoder)
    waiting = submit(batcher, 1, 2)
    closer = threading.Thread(target=batcher.close)
    closer.start()
    assert all(isinstance(outcome(future), NotReady) for future in waiting)
    encoder.gate.set()
    closer.join(WAIT_SECONDS)
    assert outcome(first) == 0.0
    with pytest.raises(NotReady):
        submit(batcher, 3)


def test_a_caller_does_not_wait_beyond_its_deadline_even_if_the_encoder_hangs(
    make_batcher: MakeBatcher, encoder: Encoder
) -> None:
    batcher = make_batcher()
    block(batcher, encoder)

    async def ask() -> list[Any]:
        deadline = asyncio.get_running_loop().time() + 0.02
        return await batcher.encode(Modality.TEXT, [1, 2], lane=Lane.BULK, deadline=deadline)

    assert all(isinstance(one, DeadlineExceeded) for one in asyncio.run(ask()))
    assert not batcher._lanes, "the items have left the queue"


def test_a_caller_that_leaves_takes_its_items_along(make_batcher: MakeBatcher, encoder: Encoder) -> None:
    batcher = make_batcher()
    block(batcher, encoder)

    async def leave() -> None:
        waiting = asyncio.ensure_future(
            batcher.encode(
                Modality.TEXT, [1, 2], lane=Lane.INTERACTIVE, deadline=asyncio.get_running_loop().time() + 60
            )
        )
        await asyncio.sleep(0)
        assert batcher._lanes
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert not batcher._lanes

    asyncio.run(leave())
    encoder.gate.set()
    assert outcome(submit(batcher, 3)[0]) == 3.0
    assert encoder.batches == [[0], [3]]


@hypothesis_settings(max_examples=40, deadline=None)
@given(
    poisoned=st.sets(st.integers(0, 19)),
    cancelled=st.sets(st.integers(0, 19)),
    memory=st.integers(1, 8),
    max_batch=st.integers(1, 8),
)
def test_every_item_gets_exactly_its_own_outcome(
    poisoned: set[int], cancelled: set[int], memory: int, max_batch: int
) -> None:
    def faults(batch: list[Any]) -> None:
        if len(batch) > memory:
            raise MemoryError
        if poisoned & set(batch):
            raise RuntimeError("poisoned")

    encoder = Encoder()
    encoder.fault = faults
    batcher = build(encoder, max_batch=max_batch)
    batcher._workers.open = True
    futures = submit(batcher, *range(20))
    for number in cancelled:
        futures[number].cancel()
    batcher.start()
    for number, future in enumerate(futures):
        if number in cancelled:
            assert future.cancelled()
        elif number in poisoned:
            assert isinstance(outcome(future), EncodingFailed)
        else:
            assert outcome(future) == float(number)
    assert not cancelled & {number for batch in encoder.batches for number in batch}
    batcher.close()
