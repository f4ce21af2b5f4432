"""The engine: how a request flows.

bytes → size check (middleware) → **admission**: what does not fit the queue gets Overloaded before it costs anything →
**decode** in a bounded pool: a bad picture fails here, alone → **batcher** → encoder ``[B, …] → [B, D]`` →
**search** in a thread, with whatever else waits there, ``[B, D] → scores, rows [B, k]`` → items → answer, built in that
thread too.

The event loop only parses small bodies and waits. A request reads ``snapshot`` once and keeps it to its end, so its
answer never mixes two generations. Every wait ends at the request's deadline.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image

from service import answers
from service.canary import Canary
from service.classifier import Classification, Classifier
from service.compactor import Compactor
from service.context import RequestContext, deadline_exceeded
from service.current_watch import CurrentWatch
from service.edge.fetching import Fetcher
from service.encoding.batcher import Batcher, BatcherLimits
from service.encoding.decoding import DecodePool
from service.encoding.device import Device
from service.encoding.embedder import Embedder, both
from service.encoding.lanes import Lane, Modality
from service.encoding.single_flight import Input
from service.encoding.workers import encoder_lost
from service.label_sets import read_label_sets
from service.live import Live
from service.live_items import LiveItems
from service.metrics import Metrics
from service.milvus import NUM_SEARCH_THREADS, MilvusCompactor, MilvusLive, MilvusServed, MilvusSnapshot
from service.searching import Search, Searcher
from service.served import Served
from service.settings import Settings
from service.snapshot import Snapshot
from service.supervisor import Supervisor
from sightline.errors import NotReady, ShuttingDown
from sightline.filters import Filter, parse_filter
from sightline.images import Pixels
from sightline.index import Hits

if TYPE_CHECKING:
    from sightline.encoder import EncoderIdentity

T = TypeVar("T")
Vectors = npt.NDArray[np.float32]


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
        live: Live | None = None,
    ) -> None:
        self.identity = encoder.identity
        self.settings = settings
        self.metrics = metrics
        self.draining = False
        self._warm = False
        self.decoder = DecodePool(encoder.preprocess, settings.image_limits, settings.max_inflight_pixels, metrics)
        remote = isinstance(snapshot, MilvusSnapshot)
        self._searcher = Searcher(metrics, num_threads=NUM_SEARCH_THREADS if remote else 2)
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
        self._embedder = Embedder(
            self.batcher, self.decoder, self._limits, settings, self.identity.fingerprint, metrics
        )
        self.classifier = Classifier(
            self._embedder.embed_prompts, self.identity.score_scale, settings.text_limits, metrics
        )
        self._label_sets = read_label_sets(settings.label_sets_file) if settings.label_sets_file else {}
        self.fetcher = Fetcher(
            settings.image_url_hosts, metrics, allow_http=settings.image_url_http, max_bytes=settings.max_image_bytes
        )
        metrics.ready.set_function(lambda: float(self.not_ready_reason() is None))
        self.canary = Canary(
            self.batcher, self.identity.pixels, metrics, units=self._limits.units,
            interval_seconds=settings.canary_interval_seconds,
        )  # fmt: skip
        self.live = live or (
            MilvusLive(metrics, writes=settings.live_writes)
            if remote
            else open_live(snapshot.generation.directory.parent, self.identity.fingerprint, settings, metrics)
        )
        self.served = (MilvusServed if remote else Served)(
            snapshot, dim=self.identity.dim, metrics=metrics, verify=settings.verify, prove=self.canary.prove,
            live=self.live,
        )  # fmt: skip
        self.items = LiveItems(self.live, self.embed, self.decoder, self.identity.fingerprint, settings.text_limits)
        self.compactor = (MilvusCompactor if remote else Compactor)(self.served, self.live, settings, metrics)
        self._supervisor = Supervisor(
            {
                "look after the encoder": self.batcher.supervise,
                "look after the decoders": self.decoder.supervise,
                "look after the searchers": self._searcher.supervise,
                "follow live changes": lambda: self.live.look(settings.watch_collection_seconds),
                "compact live changes": self.compactor.look,
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
        self.compactor.close()
        self.live.close()
        self.batcher.close()
        self.decoder.close()
        self.fetcher.close()
        self._searcher.close()

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
            snapshot.search_images, vectors, k, where, context,
            lambda hits: answers.image_results(snapshot, hits, min_score),
        )  # fmt: skip

    async def search_captions(
        self, queries: Sequence[Input], k: int, raw_filter: object, min_score: float | None, context: RequestContext
    ) -> tuple[Snapshot, list[list[dict[str, Any]]]]:
        """The captions nearest to each text or picture."""
        snapshot, where = self.snapshot, self._filter(raw_filter)
        vectors = await self.embed(queries, context)
        return snapshot, await self._search(
            snapshot.search_captions, vectors, k, where, context,
            lambda hits: answers.caption_results(snapshot, hits, min_score),
        )  # fmt: skip

    async def search_rows(
        self, vector: Vectors, k: int, context: RequestContext, *, captions: bool
    ) -> list[dict[str, Any]]:
        """clip-retrieval's question: the neighbours of one vector ``[1, D]``."""
        snapshot = self.snapshot
        search = snapshot.search_captions if captions else snapshot.search_images
        return await self._search(
            search, vector, k, None, context, lambda hits: answers.knn_results(snapshot, hits, captions=captions)
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
        (vector,), question = await both(
            self.embed([image], context),
            self.classifier.question(labels, templates, label_set, none_threshold, context),
        )
        return self.classifier.answer(vector, question)

    async def embed(self, inputs: Sequence[Input], context: RequestContext) -> Vectors:
        """Texts and pictures, mixed → float32 ``[B, D]``, unit length, in order. Raises the first item's error."""
        return await self._embedder.embed(inputs, context)

    async def row_of(self, snapshot: Snapshot, item_id: str) -> int:
        """The row of an item id, off the event loop where it must be asked for over a network. Raises NotFound."""
        return snapshot.row_of(item_id) if snapshot.local else await self.offload(snapshot.row_of, item_id)

    async def offload(self, function: Callable[..., T], *arguments: object) -> T:
        """Run something blocking and short (parsing, serialising) off the event loop."""
        return await self.decoder.run(function, *arguments)

    # Parts

    def _encode_at_start(self, prompts: list[str]) -> Vectors:
        """The same before there is an event loop, without a deadline."""
        items = self.batcher.submit(Modality.TEXT, prompts, lane=Lane.BULK, deadline=float("inf"))
        return np.stack([item.future.result() for item in items])  # [P, D]

    async def _search(
        self,
        search: Search,
        vectors: Vectors,
        k: int,
        where: Filter | None,
        context: RequestContext,
        finish: Callable[[Hits], T],
    ) -> T:
        context.check_deadline()
        with context.stage("search"):
            try:
                async with asyncio.timeout_at(context.deadline):
                    return await self._searcher.ask(search, vectors, k, where, finish)
            except TimeoutError:
                raise deadline_exceeded() from None

    @staticmethod
    def _filter(raw: object) -> Filter | None:
        return None if raw is None else parse_filter(raw)


def open_live(collection: Path, fingerprint: str, settings: Settings, metrics: Metrics) -> Live:
    """The live changes of a collection as the settings want them. Raises LiveLogLocked and StorageError."""
    return Live(collection, fingerprint, metrics, writes=settings.live_writes, max_changes=settings.live_max_changes)
