"""The engine: how a request flows.

bytes → size check (middleware) → **admission**: what does not fit the queue gets Overloaded before it costs anything →
**decode** in a bounded pool: a bad picture fails here, alone → **batcher** → encoder ``[B, …] → [B, D]`` →
**search** in a thread ``[B, D] → scores, rows [B, k]`` → items → answer, built in that thread too.

The event loop only parses small bodies and waits. A request reads ``snapshot`` once and keeps it to its end, so its
answer never mixes two generations. Every wait ends at the request's deadline.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image

from service import answers
from service.canary import Canary
from service.classifier import Classification, Classifier
from service.context import RequestContext, deadline_exceeded, naming_input
from service.current_watch import CurrentWatch
from service.edge.fetching import Fetcher
from service.encoding.batcher import Batcher, BatcherLimits
from service.encoding.decoding import DecodePool
from service.encoding.device import Device
from service.encoding.lanes import Lane, Modality
from service.encoding.quarantine import Quarantine
from service.encoding.single_flight import Input, Outcome, SingleFlight
from service.encoding.vector_cache import ContentKeys, VectorCache
from service.encoding.workers import encoder_lost
from service.label_sets import read_label_sets
from service.metrics import Metrics
from service.served import Served
from service.settings import Settings
from service.snapshot import Snapshot
from service.supervisor import Supervisor
from service.threads import DaemonPool
from sightline.errors import InputError, NotReady, Overloaded, ShuttingDown, SightlineError
from sightline.filters import Filter, parse_filter
from sightline.images import Pixels
from sightline.texts import check_text

if TYPE_CHECKING:
    from sightline.encoder import EncoderIdentity

T = TypeVar("T")
U = TypeVar("U")
Vectors = npt.NDArray[np.float32]

_INLINE_INPUTS = 64
_LOOK_AGAIN_SECONDS = 0.05
_INLINE_BYTES = 128 * 1024
"""Checked and hashed on the event loop: SHA-256 of 128 KiB takes 0.08 to 0.3 ms."""


class EncoderLike(Protocol):
    """What the engine asks of an encoder; ``sightline.encoder.Encoder`` and the tests' fake have it."""

    @property
    def identity(self) -> EncoderIdentity: ...
    def preprocess(self, image: Image.Image) -> Pixels: ...
    def encode_texts(self, texts: Sequence[str]) -> Vectors: ...
    def encode_pixels(self, pixels: Pixels) -> Vectors: ...


class Engine:
    """Holds the encoder, the snapshot and the pools. Methods that await belong to one event loop."""

    def __init__(
        self,
        encoder: EncoderLike,
        snapshot: Snapshot,
        settings: Settings,
        metrics: Metrics,
        device: Device = Device(),  # noqa: B008 - frozen
    ) -> None:
        self.identity = encoder.identity
        self.settings = settings
        self.metrics = metrics
        self.draining = False
        self._warm = False
        self.decoder = DecodePool(encoder.preprocess, settings.image_limits, settings.max_inflight_pixels, metrics)
        self._search_pool = DaemonPool(2, "search", metrics.worker_restarts.labels("search").inc)
        self._limits = BatcherLimits(
            max_batch={Modality.TEXT: settings.max_batch_texts, Modality.IMAGE: settings.max_batch_images},
            capacity_units=settings.max_queue_units,
            queue_seconds=settings.max_queue_seconds,
            bulk_patience_seconds=settings.bulk_patience_seconds,
        )
        self.batcher = Batcher(
            {
                Modality.TEXT: encoder.encode_texts,
                Modality.IMAGE: lambda pixels: encoder.encode_pixels(np.stack(pixels)),  # [B, H, W, 3]
            },
            self._limits, metrics, num_workers=device.num_workers, out_of_memory=device.out_of_memory,
            free_memory=device.free_memory, before_batch=device.before_batch, is_lost=device.is_lost,
        )  # fmt: skip
        self._keys = ContentKeys(self.identity.fingerprint)
        self._shared = SingleFlight(
            self._encode_part, self._part_size, VectorCache(settings.cache_bytes, metrics),
            Quarantine(settings.quarantine_seconds, metrics), metrics,
        )  # fmt: skip
        self.classifier = Classifier(self._encode_prompts, self.identity.score_scale, settings.text_limits, metrics)
        self._label_sets = read_label_sets(settings.label_sets_file) if settings.label_sets_file else {}
        self.fetcher = Fetcher(
            settings.image_url_hosts, metrics, allow_http=settings.image_url_http, max_bytes=settings.max_image_bytes
        )
        metrics.ready.set_function(lambda: float(self.not_ready_reason() is None))
        self.canary = Canary(
            self.batcher, self.identity.pixels, metrics, units=self._limits.units,
            interval_seconds=settings.canary_interval_seconds,
        )  # fmt: skip
        self.served = Served(
            snapshot, dim=self.identity.dim, metrics=metrics, verify=settings.verify, prove=self.canary.prove
        )
        self._supervisor = Supervisor(
            {
                "look after the encoder": self.batcher.supervise,
                "look after the decoders": self.decoder.supervise,
                "look after the searchers": self._search_pool.revive,
                "follow CURRENT": CurrentWatch(self.served, settings.watch_collection_seconds).look,
            }
        )

    @property
    def snapshot(self) -> Snapshot:
        """What is served at this moment. A request reads it once."""
        return self.served.snapshot

    # Life

    def start(self) -> None:
        """Start the encoder's threads and warm every batch size up to the largest. Raises what the encoder raises."""
        self.batcher.start()
        spec = self.identity.pixels
        blank = np.zeros((spec.height_px, spec.width_px, 3), dtype=np.uint8)
        for modality, payload in ((Modality.TEXT, "a photo"), (Modality.IMAGE, blank)):
            largest = self._limits.max_batch[modality]
            for size in [*(2**n for n in range(largest.bit_length()) if 2**n < largest), largest]:
                items = self.batcher.submit(modality, [payload] * size, lane=Lane.INTERACTIVE, deadline=float("inf"))
                for item in items:
                    item.future.result()
        self.classifier.load(self._label_sets, self._encode_at_start)
        self.canary.start()
        self._supervisor.start()
        self._warm = True

    def drain(self) -> None:
        """Say not ready to probes; requests are still answered until ``close``."""
        self.draining = True

    def close(self) -> None:
        """End the threads. Whoever still waits hears ShuttingDown."""
        self.draining = True
        self._supervisor.close()
        self.canary.close()
        self.served.close()
        self.batcher.close()
        self.decoder.close()
        self.fetcher.close()
        self._search_pool.shutdown()

    def not_ready_reason(self) -> NotReady | None:
        """Why a probe should send no traffic here, or None."""
        if self.draining:
            return ShuttingDown("The service is shutting down; send the request to another replica.")
        if not self._warm:
            return NotReady("The service is still starting; wait until it is ready.")
        if self.batcher.lost:
            return encoder_lost()
        if not self.batcher.healthy:
            return NotReady("The encoder does not answer; the service mends itself or must be restarted.")
        return self.canary.reason

    def not_alive_reason(self) -> NotReady | None:
        """Why only a new process can help, or None. Never about the index, a disk or a queue that is full."""
        if self._warm and self.batcher.hopeless:
            return NotReady("The encoder has not answered for too long; restart the service.")
        return None

    # Questions

    async def search_images(
        self, queries: Sequence[Input], k: int, raw_filter: object, min_score: float | None, context: RequestContext
    ) -> tuple[Snapshot, list[list[dict[str, Any]]]]:
        """The pictures nearest to each text or picture. Raises the first item's error."""
        snapshot, where = self.snapshot, self._filter(raw_filter)
        vectors = await self.embed(queries, context)
        return snapshot, await self._search(
            context, lambda: answers.image_results(snapshot, snapshot.search_images(vectors, k, where), min_score)
        )

    async def search_captions(
        self, queries: Sequence[Input], k: int, raw_filter: object, min_score: float | None, context: RequestContext
    ) -> tuple[Snapshot, list[list[dict[str, Any]]]]:
        """The captions nearest to each text or picture."""
        snapshot, where = self.snapshot, self._filter(raw_filter)
        vectors = await self.embed(queries, context)
        return snapshot, await self._search(
            context, lambda: answers.caption_results(snapshot, snapshot.search_captions(vectors, k, where), min_score)
        )

    async def search_rows(
        self, vector: Vectors, k: int, context: RequestContext, *, captions: bool
    ) -> list[dict[str, Any]]:
        """clip-retrieval's question: the neighbours of one vector ``[1, D]``."""
        snapshot = self.snapshot
        search = snapshot.search_captions if captions else snapshot.search_images
        return await self._search(
            context, lambda: answers.knn_results(snapshot, search(vector, k, None), captions=captions)
        )

    async def classify(
        self,
        image: bytes,
        labels: list[str] | None,
        templates: list[str] | None,
        label_set: str | None,
        none_threshold: float | None,
        context: RequestContext,
    ) -> Classification:
        """A picture compared with labels, given or registered as a set."""
        (vector,), question = await _both(
            self.embed([image], context),
            self.classifier.question(labels, templates, label_set, none_threshold, context),
        )
        return self.classifier.answer(vector, question)

    async def embed(self, inputs: Sequence[Input], context: RequestContext) -> Vectors:
        """Texts and pictures, mixed → float32 ``[B, D]``, unit length, in order. Raises the first item's error."""
        if len(inputs) <= _INLINE_INPUTS and sum(map(len, inputs)) <= _INLINE_BYTES:
            checked, keys = self._checked(inputs)
        else:
            checked, keys = await self.offload(self._checked, inputs)
        return await self._encode(checked, keys, context)

    async def _encode(
        self, inputs: Sequence[Input], keys: Sequence[bytes], context: RequestContext, *, remember: bool = True
    ) -> Vectors:
        lane = Lane.BULK if len(inputs) >= self.settings.bulk_from_items else Lane.INTERACTIVE
        if lane is Lane.BULK:
            context.deadline = max(context.deadline, context.bulk_deadline)
        return await self._shared.encode(inputs, keys, lane, context, remember=remember)

    def _part_size(self, inputs: Sequence[Input]) -> int:
        """Many inputs are admitted in parts, so that one request cannot hold more than a quarter of the queue."""
        dearest = self._limits.image_units if any(isinstance(one, bytes) for one in inputs) else 1
        return max(1, self.batcher.part_units // dearest)

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
                outcomes = await _both(
                    self.batcher.encode(Modality.TEXT, texts, lane=lane, deadline=context.deadline),
                    self.batcher.encode(Modality.IMAGE, decoded, lane=lane, deadline=context.deadline),
                )
        by_kind = (iter(outcomes[0]), iter(outcomes[1]))
        return [next(by_kind[isinstance(one, bytes)]) for one in inputs]

    async def _enter_queue(self, held: contextlib.ExitStack, units: int, lane: Lane, context: RequestContext) -> None:
        """A request's first part is refused when there is no room. Later parts wait: what was begun is finished."""
        while True:
            try:
                held.enter_context(self.batcher.admit(units, lane))
            except Overloaded:
                if not context.admitted:
                    raise
            else:
                context.admitted = True
                return
            context.check_deadline()
            await asyncio.sleep(_LOOK_AGAIN_SECONDS)

    def _checked(self, inputs: Sequence[Input]) -> tuple[list[Input], list[bytes]]:
        """Texts within limits, and the content key of every input."""
        checked: list[Input] = []
        for position, one in enumerate(inputs):
            with naming_input(position, len(inputs)):
                checked.append(check_text(one, self.settings.text_limits) if isinstance(one, str) else one)
        return checked, [self._keys.key(one) for one in checked]

    async def offload(self, function: Callable[..., T], *arguments: object) -> T:
        """Run something blocking and short (parsing, serialising) off the event loop."""
        return await self.decoder.run(function, *arguments)

    # Parts

    async def _decode(self, images: list[bytes], context: RequestContext) -> list[Pixels | SightlineError | None]:
        """Pixels of every picture; when one is bad, its error, and None for those given up on because of it."""
        outcomes: list[Pixels | SightlineError | None] = [None] * len(images)
        if not images:
            return outcomes

        async def decode_one(position: int) -> None:
            try:
                outcomes[position] = await self.decoder.decode(images[position])
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
                if not isinstance(_first(failures), InputError):
                    raise _first(failures) from None
                outcomes = [one if isinstance(one, SightlineError) else None for one in outcomes]
        return outcomes

    async def _encode_prompts(self, prompts: list[str], context: RequestContext) -> Vectors:
        """Label prompts: kept as matrices, so not remembered one by one."""
        keys = await self.offload(lambda: [self._keys.key(prompt) for prompt in prompts])
        return await self._encode(prompts, keys, context, remember=False)

    def _encode_at_start(self, prompts: list[str]) -> Vectors:
        """The same before there is an event loop, without a deadline."""
        items = self.batcher.submit(Modality.TEXT, prompts, lane=Lane.BULK, deadline=float("inf"))
        return np.stack([item.future.result() for item in items])  # [P, D]

    async def _search(self, context: RequestContext, work: Callable[[], T]) -> T:
        context.check_deadline()
        with context.stage("search"):
            try:
                async with asyncio.timeout_at(context.deadline):
                    return await asyncio.get_running_loop().run_in_executor(self._search_pool, work)
            except TimeoutError:
                raise deadline_exceeded() from None

    @staticmethod
    def _filter(raw: object) -> Filter | None:
        return None if raw is None else parse_filter(raw)


async def _both(first: Coroutine[Any, Any, T], second: Coroutine[Any, Any, U]) -> tuple[T, U]:
    """Both results; when one fails the other is cancelled and the failure raised as it is."""
    try:
        async with asyncio.TaskGroup() as group:
            one, two = group.create_task(first), group.create_task(second)
    except BaseExceptionGroup as failures:
        raise _first(failures) from None
    return one.result(), two.result()


def _first(failures: BaseExceptionGroup[BaseException]) -> BaseException:
    error: BaseException = failures
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
