"""Texts and pictures to vectors: checked, looked up, shared, admitted, decoded, encoded.

The order matters: what is known already costs nothing, what somebody else is encoding costs a wait, and only the rest
takes a place in the queue.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine, Sequence
from typing import Any, TypeVar

import numpy as np

from service.context import RequestContext, deadline_exceeded, naming_input
from service.encoding.batcher import Batcher, BatcherLimits
from service.encoding.decoding import DecodePool
from service.encoding.lanes import Lane, Modality, Vectors
from service.encoding.quarantine import Quarantine
from service.encoding.single_flight import Input, Outcome, SingleFlight
from service.encoding.vector_cache import ContentKeys, VectorCache
from service.metrics import Metrics
from service.settings import Settings
from sightline.errors import InputError, Overloaded, SightlineError
from sightline.images import Pixels
from sightline.texts import check_text

T = TypeVar("T")
U = TypeVar("U")

_INLINE_INPUTS = 64
_LOOK_AGAIN_SECONDS = 0.05
_INLINE_BYTES = 128 * 1024
"""Checked and hashed on the event loop: SHA-256 of 128 KiB takes 0.08 to 0.3 ms."""


class Embedder:
    """What stands before the batcher. Its methods belong to one event loop."""

    def __init__(
        self,
        batcher: Batcher,
        decoder: DecodePool,
        limits: BatcherLimits,
        settings: Settings,
        fingerprint: str,
        metrics: Metrics,
    ) -> None:
        self._batcher = batcher
        self._decoder = decoder
        self._limits = limits
        self._settings = settings
        self._keys = ContentKeys(fingerprint)
        self._shared = SingleFlight(
            self._encode_part, self._part_size, VectorCache(settings.cache_bytes, metrics),
            Quarantine(settings.quarantine_seconds, metrics), metrics,
        )  # fmt: skip

    async def embed(self, inputs: Sequence[Input], context: RequestContext) -> Vectors:
        """Texts and pictures, mixed → float32 ``[B, D]``, unit length, in order. Raises the first item's error."""
        if len(inputs) <= _INLINE_INPUTS and sum(map(len, inputs)) <= _INLINE_BYTES:
            checked, keys = self._checked(inputs)
        else:
            checked, keys = await self._decoder.run(self._checked, inputs)
        return await self._encode(checked, keys, context)

    async def _encode(
        self, inputs: Sequence[Input], keys: Sequence[bytes], context: RequestContext, *, remember: bool = True
    ) -> Vectors:
        lane = Lane.BULK if len(inputs) >= self._settings.bulk_from_items else Lane.INTERACTIVE
        if lane is Lane.BULK:
            context.deadline = max(context.deadline, context.bulk_deadline)
        return await self._shared.encode(inputs, keys, lane, context, remember=remember)

    def _part_size(self, inputs: Sequence[Input]) -> int:
        """Many inputs are admitted in parts, so that one request cannot hold more than a quarter of the queue."""
        dearest = self._limits.image_units if any(isinstance(one, bytes) for one in inputs) else 1
        return max(1, self._batcher.part_units // dearest)

    async def _encode_part(
        self, inputs: Sequence[Input], lane: Lane, context: RequestContext
    ) -> Sequence[Outcome | None]:
        """Admit, decode and encode; what ``service.encoding.single_flight`` expects of an ``EncodePart``."""
        texts = [one for one in inputs if isinstance(one, str)]
        images = [one for one in inputs if isinstance(one, bytes)]
        with contextlib.ExitStack() as held:
            await self._enter_queue(held, len(texts) + len(images) * self._limits.image_units, lane, context)
            context.check_deadline()
            decoded = await self._decode(images, context)
            if not all(isinstance(one, np.ndarray) for one in decoded):
                failures = iter(one if isinstance(one, SightlineError) else None for one in decoded)
                return [next(failures) if isinstance(one, bytes) else None for one in inputs]
            with context.stage("encode"):
                outcomes = await self._encode_both(texts, decoded, lane, context)
        by_kind = (iter(outcomes[0]), iter(outcomes[1]))
        return [next(by_kind[isinstance(one, bytes)]) for one in inputs]

    async def _encode_both(
        self, texts: list[str], decoded: Sequence[Pixels | SightlineError | None], lane: Lane, context: RequestContext
    ) -> tuple[Sequence[Outcome], Sequence[Outcome]]:
        encode, deadline = self._batcher.encode, context.deadline
        if not decoded:
            return await encode(Modality.TEXT, texts, lane=lane, deadline=deadline), []
        if not texts:
            return [], await encode(Modality.IMAGE, decoded, lane=lane, deadline=deadline)
        return await both(
            encode(Modality.TEXT, texts, lane=lane, deadline=deadline),
            encode(Modality.IMAGE, decoded, lane=lane, deadline=deadline),
        )

    async def _enter_queue(self, held: contextlib.ExitStack, units: int, lane: Lane, context: RequestContext) -> None:
        """A request's first part is refused when there is no room. Later parts wait: what was begun is finished."""
        while True:
            try:
                held.enter_context(self._batcher.admit(units, lane))
            except Overloaded:
                if not context.admitted:
                    raise
            else:
                context.admitted = True
                context.reached_queue()
                return
            context.check_deadline()
            await asyncio.sleep(_LOOK_AGAIN_SECONDS)

    def _checked(self, inputs: Sequence[Input]) -> tuple[list[Input], list[bytes]]:
        """Texts within limits, and the content key of every input."""
        checked: list[Input] = []
        for position, one in enumerate(inputs):
            with naming_input(position, len(inputs)):
                checked.append(check_text(one, self._settings.text_limits) if isinstance(one, str) else one)
        return checked, [self._keys.key(one) for one in checked]

    async def embed_prompts(self, prompts: list[str], context: RequestContext) -> Vectors:
        """Label prompts: kept as matrices, so not remembered one by one."""
        keys = await self._decoder.run(lambda: [self._keys.key(prompt) for prompt in prompts])
        return await self._encode(prompts, keys, context, remember=False)

    async def _decode(self, images: list[bytes], context: RequestContext) -> list[Pixels | SightlineError | None]:
        """Pixels of every picture; when one is bad, its error, and None for those given up on because of it."""
        outcomes: list[Pixels | SightlineError | None] = [None] * len(images)
        if not images:
            return outcomes
        if len(images) == 1:  # without a group of tasks: 0.1 ms
            with context.stage("decode"):
                try:
                    async with asyncio.timeout_at(context.deadline):
                        return [await self._decoder.decode(images[0])]
                except TimeoutError:
                    raise deadline_exceeded() from None
                except InputError as error:
                    return [error]

        async def decode_one(position: int) -> None:
            try:
                outcomes[position] = await self._decoder.decode(images[position])
            except InputError as error:
                outcomes[position] = error
                raise

        with context.stage("decode"):
            try:
                async with asyncio.timeout_at(context.deadline), asyncio.TaskGroup() as group:
                    for position in range(len(images)):
                        group.create_task(decode_one(position))
            except TimeoutError:
                raise deadline_exceeded() from None
            except BaseExceptionGroup as failures:
                if not isinstance(_first_of(failures), InputError):
                    raise _first_of(failures) from None
                outcomes = [one if isinstance(one, SightlineError) else None for one in outcomes]
        return outcomes


async def both(first: Coroutine[Any, Any, T], second: Coroutine[Any, Any, U]) -> tuple[T, U]:
    """Both results; when one fails the other is cancelled and the failure raised as it is."""
    try:
        async with asyncio.TaskGroup() as group:
            one, two = group.create_task(first), group.create_task(second)
    except BaseExceptionGroup as failures:
        raise _first_of(failures) from None
    return one.result(), two.result()


def _first_of(failures: BaseExceptionGroup[BaseException]) -> BaseException:
    error: BaseException = failures
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
