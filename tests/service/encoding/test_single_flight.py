"""Inputs are encoded once, and nobody's leaving fails or hangs anybody else."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.context import RequestContext
from service.encoding.lanes import ItemFailed, Lane, WorkerDied
from service.encoding.quarantine import Quarantine, Quarantined
from service.encoding.single_flight import Input, Outcome, SingleFlight
from service.encoding.vector_cache import ContentKeys, VectorCache
from service.metrics import Metrics
from sightline.errors import DeadlineExceeded, EncodingFailed, ImageCorrupt, Overloaded, SightlineError

KEYS = ContentKeys("f" * 64)
Gate = Callable[[Sequence[Input]], Awaitable[None]]


def vector_of(one: Input) -> np.ndarray:
    digest = KEYS.key(one)
    return np.frombuffer(digest, dtype=np.uint8)[:8].astype(np.float32)


class World:
    """A SingleFlight over an encoder that notes what it encodes, waits at a gate and may fail."""

    def __init__(self, *, cache_bytes: int = 2**20, part: int = 100) -> None:
        self.metrics = Metrics("0")
        self.encoded: list[Input] = []
        self.gate: Gate | None = None
        self.failing: dict[Input, SightlineError] = {}
        self.refusing: list[SightlineError] = []
        self.flight = SingleFlight(
            self._encode_part, lambda inputs: part, VectorCache(cache_bytes, self.metrics),
            Quarantine(300, self.metrics), self.metrics,
        )  # fmt: skip

    async def _encode_part(
        self, inputs: Sequence[Input], lane: Lane, context: RequestContext
    ) -> Sequence[Outcome | None]:
        if self.refusing:
            raise self.refusing.pop()
        self.encoded += inputs
        try:
            async with asyncio.timeout_at(context.deadline):
                await (self.gate(inputs) if self.gate is not None else asyncio.sleep(0))
        except TimeoutError:
            raise DeadlineExceeded("Too late; allow more time.") from None
        return [self.failing.get(one, vector_of(one)) for one in inputs]

    def ask(
        self, inputs: Sequence[Input], *, seconds: float = 10.0, lane: Lane = Lane.INTERACTIVE, remember: bool = True
    ) -> Coroutine[Any, Any, np.ndarray]:
        deadline = time.monotonic() + seconds
        context = RequestContext("id", deadline, deadline, lambda name, took: None)
        return self.flight.encode(inputs, [KEYS.key(one) for one in inputs], lane, context, remember=remember)

    def count(self, outcome: str) -> float:
        return (
            self.metrics.registry.get_sample_value("sightline_vector_cache_lookups_total", {"outcome": outcome}) or 0.0
        )


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


def test_the_second_time_nothing_is_encoded() -> None:
    async def play() -> None:
        world = World()
        inputs: list[Input] = ["a", b"a", "a"]
        for _ in range(2):
            np.testing.assert_array_equal(await world.ask(inputs), [vector_of(one) for one in inputs])
        assert world.encoded == ["a", b"a"]
        assert (world.count("miss"), world.count("hit"), world.count("shared")) == (2, 2, 0)

    asyncio.run(play())


def test_what_is_not_to_be_remembered_is_not() -> None:
    async def play() -> None:
        world = World()
        await world.ask(["a"], remember=False)
        await world.ask(["a"])
        assert world.encoded == ["a", "a"]
        assert world.count("miss") == 1

    asyncio.run(play())


def test_identical_inputs_in_flight_are_encoded_once() -> None:
    async def play() -> None:
        world, opened = World(cache_bytes=0), asyncio.Event()
        world.gate = lambda inputs: opened.wait()  # type: ignore[assignment,return-value]
        tasks = [asyncio.create_task(world.ask(["a", f"own {n}"])) for n in range(50)]
        await settle()
        opened.set()
        for number, answer in enumerate(await asyncio.gather(*tasks)):
            np.testing.assert_array_equal(answer, [vector_of("a"), vector_of(f"own {number}")])
        assert world.encoded.count("a") == 1
        assert world.count("shared") == 49
        assert world.flight.num_flights == 0

    asyncio.run(play())


def test_a_cancelled_leader_neither_fails_nor_hangs_its_followers() -> None:
    async def play() -> None:
        world, opened = World(), asyncio.Event()
        world.gate = lambda inputs: opened.wait()  # type: ignore[assignment,return-value]
        leader = asyncio.create_task(world.ask(["a"]))
        await settle()
        followers = [asyncio.create_task(world.ask(["a"])) for _ in range(5)]
        await settle()
        leader.cancel()
        await settle()
        assert world.encoded == ["a", "a"]  # one follower leads now, the others follow it
        followers[0].cancel()
        await settle()
        opened.set()
        answers = await asyncio.gather(*followers[1:])
        assert all((answer == vector_of("a")).all() for answer in answers)
        assert len(world.encoded) <= 3
        assert leader.cancelled()
        assert world.flight.num_flights == 0

    asyncio.run(play())


def test_work_stops_when_nobody_waits() -> None:
    async def play() -> None:
        world, stopped = World(), []

        async def wait_for_ever(inputs: Sequence[Input]) -> None:
            try:
                await asyncio.Event().wait()
            finally:
                stopped.append(inputs)

        world.gate = wait_for_ever
        tasks = [asyncio.create_task(world.ask(["a"])) for _ in range(3)]
        await settle()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert stopped == [["a"]]
        assert world.flight.num_flights == 0

    asyncio.run(play())


def test_everybody_keeps_to_their_own_deadline() -> None:
    async def play() -> None:
        world, opened = World(), asyncio.Event()
        world.gate = lambda inputs: opened.wait()  # type: ignore[assignment,return-value]
        hasty_leader = asyncio.create_task(world.ask(["a"], seconds=0.05))
        await settle()
        patient = asyncio.create_task(world.ask(["a"]))
        hasty_follower = asyncio.create_task(world.ask(["a"], seconds=0.02))
        for hasty in (hasty_leader, hasty_follower):
            with pytest.raises(DeadlineExceeded):
                await hasty
        assert not patient.done()
        opened.set()
        np.testing.assert_array_equal(await patient, [vector_of("a")])

    asyncio.run(play())


def test_an_error_about_the_input_is_everybodys() -> None:
    async def play() -> None:
        world, opened = World(), asyncio.Event()
        world.failing[b"bad"] = ImageCorrupt("Damaged; send another.", input=7)
        world.gate = lambda inputs: opened.wait()  # type: ignore[assignment,return-value]
        tasks = [asyncio.create_task(world.ask([b"bad"])), asyncio.create_task(world.ask(["a", "b", b"bad"]))]
        await settle()
        opened.set()
        alone, third = await asyncio.gather(*tasks, return_exceptions=True)
        assert isinstance(alone, ImageCorrupt)
        assert isinstance(third, ImageCorrupt)
        assert alone is not third
        assert ("input" in alone.details, third.details["input"]) == (False, 2)
        assert world.encoded.count(b"bad") == 1

    asyncio.run(play())


@pytest.mark.parametrize("error", [Overloaded("Full; come again."), EncodingFailed("No memory; try again.")])
def test_an_error_of_the_leader_is_the_leaders_alone(error: SightlineError) -> None:
    async def play() -> None:
        world, opened = World(part=1), asyncio.Event()

        async def then_fail(inputs: Sequence[Input]) -> None:
            await opened.wait()
            if isinstance(error, Overloaded):
                world.gate = None
                raise error
            world.failing.pop("a", None) if len(world.encoded) > 1 else world.failing.update({"a": error})

        world.gate = then_fail
        leader = asyncio.create_task(world.ask(["a"]))
        await settle()
        follower = asyncio.create_task(world.ask(["a"]))
        await settle()
        opened.set()
        with pytest.raises(type(error)):
            await leader
        np.testing.assert_array_equal(await follower, [vector_of("a")])

    asyncio.run(play())


def test_two_requests_that_lead_and_follow_each_other_both_end() -> None:
    async def play() -> None:
        world = World(cache_bytes=0, part=1)
        answers = await asyncio.gather(world.ask(["a", "b", "c"]), world.ask(["c", "b", "a", "d"]))
        assert [len(answer) for answer in answers] == [3, 4]
        assert sorted(map(str, world.encoded)) == ["a", "b", "c", "d"]

    asyncio.run(asyncio.wait_for(play(), 5))


def test_interactive_work_does_not_wait_for_bulk_work() -> None:
    async def play() -> None:
        world, opened = World(), asyncio.Event()
        world.gate = lambda inputs: opened.wait() if len(inputs) > 1 else asyncio.sleep(0)  # type: ignore[assignment,return-value]
        bulk = asyncio.create_task(world.ask(["a", "b"], lane=Lane.BULK))
        await settle()
        np.testing.assert_array_equal(await world.ask(["a"]), [vector_of("a")])
        more_bulk = asyncio.create_task(world.ask(["b"], lane=Lane.BULK))
        await settle()
        assert world.encoded == ["a", "b", "a"]
        opened.set()
        await asyncio.gather(bulk, more_bulk)

    asyncio.run(play())


def test_content_that_failed_alone_is_refused_before_it_is_worked_on() -> None:
    """R9: the poisoned item is remembered; a failure for lack of memory is not."""

    async def play() -> None:
        world = World()
        world.failing = {b"poison": ItemFailed("Failed; try another."), b"large": EncodingFailed("No memory; again.")}
        for one in (b"poison", b"large"):
            with pytest.raises(EncodingFailed):
                await world.ask([one])
        with pytest.raises(Quarantined) as refusal:
            await world.ask(["a", b"poison"])
        assert refusal.value.details["input"] == 1
        assert world.encoded == [b"poison", b"large"]
        world.failing.clear()
        np.testing.assert_array_equal(await world.ask([b"large"]), [vector_of(b"large")])
        assert world.flight.num_flights == 0

    asyncio.run(play())


def test_content_that_kills_the_encoders_thread_is_refused_the_third_time() -> None:
    """R16: whoever followed leads and learns the same; the cause is not let in for ever."""

    async def play() -> None:
        world = World()
        world.failing = {"killer": WorkerDied("Died; try again.")}
        met = await asyncio.gather(*(world.ask(["killer"]) for _ in range(3)), return_exceptions=True)
        assert [type(one) for one in met] == [WorkerDied, WorkerDied, Quarantined]
        assert world.encoded == ["killer", "killer"]

    asyncio.run(play())


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.lists(st.sampled_from(["a", "b", b"a", b"b", "ab", ""]), min_size=1, max_size=5),
            st.booleans(),
            st.integers(0, 6),
        ),
        max_size=12,
    ),
    st.sampled_from([0, 600, 2**20]),
    st.integers(1, 3),
)
def test_never_a_wrong_vector(requests: list[tuple[list[Input], bool, int]], cache_bytes: int, part: int) -> None:
    """Requests that share, are cancelled at any moment and come in any order: each gets its own vectors."""

    async def play() -> None:
        world = World(cache_bytes=cache_bytes, part=part)
        tasks: list[tuple[list[Input], bool, asyncio.Task[np.ndarray]]] = []
        for inputs, cancel, ticks in requests:
            task = asyncio.create_task(world.ask(inputs, lane=Lane.BULK if len(inputs) > 3 else Lane.INTERACTIVE))
            tasks.append((inputs, cancel, task))
            for _ in range(ticks):
                await asyncio.sleep(0)
            if cancel:
                task.cancel()
        for inputs, cancel, task in tasks:
            await asyncio.wait({task})
            assert cancel or not task.cancelled()
            if not task.cancelled():
                np.testing.assert_array_equal(task.result(), [vector_of(one) for one in inputs])
        assert world.flight.num_flights == 0

    asyncio.run(asyncio.wait_for(play(), 5))
