"""Each input is encoded once: remembered vectors are found again, and identical inputs in flight share one encoding.

For every input of a request one of three things holds: its vector is in the cache (a hit), another request is just
encoding it (shared: this request follows), or neither (a miss: this request leads). The rules that keep it simple:

1. A leader works inside its own request, with its own deadline, admission and cancellation. Nothing runs detached, so
   work stops when its request ends, and nothing is left behind.
2. A follower waits beside the leader, never beyond its own deadline, and its cancellation touches nobody else.
3. A leader ends each of its flights with a vector, with an error that is about the *input* (corrupt picture, poisoned
   content), which holds for everybody, or with nothing, when the failure was the leader's own (cancelled, deadline,
   refused). After nothing each follower looks again: the first becomes the new leader, the others follow it. So
   somebody who leaves can neither fail nor hang the rest, and work goes on exactly as long as somebody wants it.
4. A request finishes leading before it follows, so no two requests can wait for each other.
5. Interactive work does not follow bulk work, whose turn comes later; it is encoded beside it instead.

Only leaders are admitted to the queue: hits and followers cost it nothing. Everything here belongs to one event loop.
"""

from __future__ import annotations

import asyncio
import copy
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence

import numpy as np

from service.context import RequestContext, deadline_exceeded, naming_input
from service.encoding.lanes import ItemFailed, Lane, Vectors, WorkerDied
from service.encoding.quarantine import Quarantine
from service.encoding.vector_cache import VectorCache
from service.metrics import Metrics
from sightline.errors import InputError, SightlineError

Input = str | bytes
"""A text, or an encoded picture."""
Outcome = Vectors | SightlineError
"""A vector float32 ``[D]``, or what is wrong with this input."""
EncodePart = Callable[[Sequence[Input], Lane, RequestContext], Awaitable[Sequence[Outcome | None]]]
"""Admit, decode and encode: for each input its outcome, None where another input's failure ended the work early.
Raises what is wrong with the whole part (Overloaded, NotReady, DeadlineExceeded)."""
PartSize = Callable[[Sequence[Input]], int]
"""How many of these inputs may be admitted at once."""

_Flight = asyncio.Future[Outcome | None]


class SingleFlight:
    """Between the engine's questions and its encoder. ``encode`` is its one method."""

    def __init__(
        self, encode_part: EncodePart, part_size: PartSize, cache: VectorCache, quarantine: Quarantine, metrics: Metrics
    ) -> None:
        self._encode_part = encode_part
        self._part_size = part_size
        self._cache = cache
        self._quarantine = quarantine
        self._metrics = metrics
        self._flights: Mapping[Lane, dict[bytes, _Flight]] = {lane: {} for lane in Lane}

    @property
    def num_flights(self) -> int:
        """Inputs that are being encoded now."""
        return sum(map(len, self._flights.values()))

    async def encode(
        self,
        inputs: Sequence[Input],
        keys: Sequence[bytes],
        lane: Lane,
        context: RequestContext,
        *,
        remember: bool = True,
    ) -> Vectors:
        """Inputs with their content keys → float32 ``[B, D]`` in order; equal inputs are encoded once.

        ``remember`` is for what users send; label prompts, kept as matrices elsewhere, would only push that out.
        Raises the first input's error, naming its position, or Overloaded, NotReady, DeadlineExceeded.
        """
        wanted = dict(zip(keys, inputs, strict=True))
        found: dict[bytes, Outcome] = {}
        counted: set[bytes] = set()
        while wanted:
            for key in wanted:
                vector = self._cache.get(key)
                outcome: Outcome | None = vector if vector is not None else self._quarantine.refusal(key)
                if outcome is not None:
                    found[key] = outcome
            _raise_first(keys, found)
            # No await between here and the first line of _lead: whoever looks next sees these flights.
            following = {key: flight for key in wanted.keys() - found.keys() if (flight := self._flight(key, lane))}
            leading = {key: one for key, one in wanted.items() if key not in found and key not in following}
            if remember:
                self._count(context, wanted, found, following, counted)
            if leading:
                await self._lead(leading, found, lane, context, remember=remember)
            if following:
                await self._follow(following, found, context)
            _raise_first(keys, found)
            wanted = {key: one for key, one in wanted.items() if key not in found}
        return np.stack([_vector(found[key]) for key in keys])  # [B, D]

    async def _lead(
        self,
        leading: Mapping[bytes, Input],
        found: dict[bytes, Outcome],
        lane: Lane,
        context: RequestContext,
        *,
        remember: bool,
    ) -> None:
        """Encode in parts until done or until an input fails; every flight opened here is ended here."""
        loop = asyncio.get_running_loop()
        opened: dict[bytes, _Flight] = {key: loop.create_future() for key in leading}
        self._flights[lane].update(opened)
        keys, inputs = list(leading), list(leading.values())
        step = self._part_size(inputs)
        try:
            for start in range(0, len(keys), step):
                outcomes = await self._encode_part(inputs[start : start + step], lane, context)
                for key, outcome in zip(keys[start : start + step], outcomes, strict=True):
                    if outcome is not None:
                        found[key] = outcome
                        self._note(key, outcome, remember=remember)
                        self._end(lane, key, opened.pop(key), outcome)
                if any(outcome is None or isinstance(outcome, SightlineError) for outcome in outcomes):
                    return
        finally:
            for key, flight in opened.items():
                self._end(lane, key, flight, None)

    async def _follow(
        self, following: Mapping[bytes, _Flight], found: dict[bytes, Outcome], context: RequestContext
    ) -> None:
        """Wait beside the leaders. ``asyncio.wait`` cancels nothing when this task is cancelled."""
        with context.stage("encode"):
            _, pending = await asyncio.wait(following.values(), timeout=max(0.0, context.deadline - time.monotonic()))
        if pending:
            raise deadline_exceeded()
        found.update({key: outcome for key, flight in following.items() if (outcome := flight.result()) is not None})

    def _flight(self, key: bytes, lane: Lane) -> _Flight | None:
        flight = self._flights[Lane.INTERACTIVE].get(key)
        return self._flights[Lane.BULK].get(key) if flight is None and lane is Lane.BULK else flight

    def _end(self, lane: Lane, key: bytes, flight: _Flight, outcome: Outcome | None) -> None:
        """Take the flight away before anyone wakes; an error that is the leader's own is none for the others."""
        if self._flights[lane].get(key) is flight:
            del self._flights[lane][key]
        flight.set_result(None if isinstance(outcome, SightlineError) and not _about_input(outcome) else outcome)

    def _note(self, key: bytes, outcome: Outcome, *, remember: bool) -> None:
        if not isinstance(outcome, SightlineError):
            self._quarantine.note_success(key)
            if remember:
                self._cache.put(key, outcome)
        elif isinstance(outcome, ItemFailed):
            self._quarantine.note_failure(key)
        elif isinstance(outcome, WorkerDied):
            self._quarantine.note_death(key)

    def _count(
        self,
        context: RequestContext,
        wanted: Mapping[bytes, Input],
        found: Mapping[bytes, Outcome],
        following: Mapping[bytes, _Flight],
        counted: set[bytes],
    ) -> None:
        """Count each distinct input once, by what it met first."""
        for key in wanted.keys() - counted:
            outcome = "hit" if key in found else "shared" if key in following else "miss"
            context.cache_outcomes.add(outcome)
            self._metrics.vector_cache.labels(outcome).inc()
        counted.update(wanted)


def _about_input(error: SightlineError) -> bool:
    return isinstance(error, InputError | ItemFailed)


def _raise_first(keys: Sequence[bytes], found: Mapping[bytes, Outcome]) -> None:
    """Raise the error of the first input that has one: a copy, because each request names its own position."""
    if not any(isinstance(outcome, SightlineError) for outcome in found.values()):
        return
    for position, key in enumerate(keys):
        outcome = found.get(key)
        if isinstance(outcome, SightlineError):
            error = copy.copy(outcome)
            error.details = {name: value for name, value in outcome.details.items() if name != "input"}
            with naming_input(position, len(keys)):
                raise error from None


def _vector(outcome: Outcome) -> Vectors:
    assert not isinstance(outcome, SightlineError), "errors have been raised before"
    return outcome
