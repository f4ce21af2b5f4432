"""Each clause of the batcher's law. Events, not sleeps, decide what happens when."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from service.encoding.admission import Admission
from service.encoding.batcher import Batcher, BatcherLimits
from service.encoding.lanes import Lane, Modality, Vectors
from service.metrics import Metrics
from sightline.errors import DeadlineExceeded, EncodingFailed, HubUnreachable, NotReady, Overloaded, SightlineError

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
