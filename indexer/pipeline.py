"""Encoding spans of a source into segments: reader → decode pool → encoders → writer, all at work at once.

The calling thread forms the batches and keeps their order. On a CPU two threads encode, each a batch with half of the
cores: torch's parallel loops wait for their slowest thread, and one that shares its core with a decoder holds up all
the others (docs/decisions/0006). Nothing waits for the disk: segments are written by a thread of their own.
"""

from __future__ import annotations

import collections
import contextlib
import functools
import os
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from indexer.decode import Decoded, DecodeSpec, KnownPicture
from indexer.encoding import BatchEncoder, ChunkBatches, ChunkMemory, EncodedBatch, FormedBatch, Vectors
from indexer.reading import Placed, SourceEnd, Span, decoded_ahead
from indexer.segments import SegmentStore
from indexer.stages import StageClock
from sightline.images import ImageLimits
from sightline.sources import Source
from sightline.texts import TextLimits

if TYPE_CHECKING:
    from sightline.encoder import Encoder

SEGMENT_SECONDS = 30.0
"""After so long a segment ends with the batch at hand: what a killed process loses."""
_BATCHES_AHEAD = 4
_BATCHES_TO_WRITE = 4


@dataclass(frozen=True)
class PipelineOptions:
    """``thumbnail_px`` is the longer side of thumbnails (0: none); ``num_decode_threads`` 0: one for each core;
    ``num_encoders`` 0: two, or one where there is one core.

    ``known_picture`` and ``known_caption`` spare the encoder what has its vector already; ``unchanged`` even spares
    reading the file, where the source can tell its size and time."""

    batch_size: int = 32
    num_decode_threads: int = 0
    num_encoders: int = 0
    thumbnail_px: int = 256
    segment_seconds: float = SEGMENT_SECONDS
    image_limits: ImageLimits = field(default_factory=ImageLimits)
    text_limits: TextLimits = field(default_factory=TextLimits)
    known_picture: Callable[[str], KnownPicture | None] = lambda sha256: None
    known_caption: Callable[[str, str], Vectors | None] = lambda sha256, caption: None
    unchanged: Callable[[str, int, int], Decoded | None] | None = None

    @property
    def decode_threads(self) -> int:
        return self.num_decode_threads or num_cores()

    @property
    def encoders(self) -> int:
        return self.num_encoders or min(num_cores(), 2)


class Pipeline:
    """One run over a source. Not thread-safe."""

    def __init__(
        self,
        encoder: Encoder,
        source: Source,
        store: SegmentStore,
        options: PipelineOptions,
        clock: StageClock,
        *,
        advance: Callable[[int], None] = lambda steps: None,
        stopping: Callable[[], bool] = lambda: False,
    ) -> None:
        self._encoder = encoder
        self._source = source
        self._store = store
        self._options = options
        self._clock = clock
        self._advance = advance
        self._stopping = stopping
        self._stopped = False

    def encode(self, spans: Sequence[Span]) -> bool:
        """Encode these positions and commit their segments; ``advance`` is told how many inputs are finished.

        Once ``stopping`` says so, the batches at hand are finished, committed, and the answer is False.
        Raises SourceError, StorageError or EncodingFailed; what was encoded before it is committed all the same.
        """
        options = self._options
        spec = DecodeSpec(
            self._encoder.identity.pixels, options.image_limits, options.thumbnail_px, options.known_picture
        )
        ahead = _BATCHES_AHEAD * options.batch_size
        with (
            _Committer(self._store, options.segment_seconds, self._clock) as committer,
            decoded_ahead(
                self._source,
                spans,
                spec,
                self._clock,
                num_threads=options.decode_threads,
                ahead=ahead,
                unchanged=options.unchanged,
            ) as entries,
        ):
            for batch in self._encoded(self._formed(entries)):
                committer.put(batch)
                self._advance(batch.stop - batch.start)
        return not self._stopped

    def _encoded(self, batches: Iterator[FormedBatch]) -> Iterator[EncodedBatch]:
        """The batches encoded, in order: while one is waited for, the next ones are on their way."""
        options = self._options
        encoder = BatchEncoder(self._encoder, options.batch_size, self._clock, options.known_caption)
        share = functools.partial(_share_cores, self._encoder, max(1, num_cores() // options.encoders))
        pending: collections.deque[Future[EncodedBatch]] = collections.deque()
        with ThreadPoolExecutor(options.encoders, thread_name_prefix="encode", initializer=share) as pool:
            try:
                for batch in batches:
                    pending.append(pool.submit(encoder.encode, batch))
                    if len(pending) > options.encoders:
                        yield pending.popleft().result()
                    self._stopped = self._stopped or self._stopping()
                    if self._stopped:
                        break
                while pending:
                    yield pending.popleft().result()
            finally:
                for future in pending:
                    future.cancel()

    def _formed(self, entries: Iterator[Placed | SourceEnd]) -> Iterator[FormedBatch]:
        size = self._store.chunk_inputs
        chunk: ChunkBatches | None = None
        for placed in entries:
            chunk = chunk or self._chunk(placed.position)
            if isinstance(placed, SourceEnd):
                yield chunk.finish(placed.position, ends_source=True)
                chunk = None
                continue
            batch = chunk.add(placed)
            if batch is not None:
                yield batch
            if (placed.position + 1) % size == 0:
                yield chunk.finish(placed.position + 1)
                chunk = None

    def _chunk(self, position: int) -> ChunkBatches:
        """The batches of a chunk from a position on; what was done of the chunk before is known."""
        memory = ChunkMemory()
        number = position // self._store.chunk_inputs
        if position % self._store.chunk_inputs:
            for segment in self._store.progress().chunks.get(number, []):
                segment.check()
                segment.remember(memory)
        return ChunkBatches(self._options.batch_size, self._options.text_limits, position, memory)


def num_cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _share_cores(encoder: Encoder, num_threads: int) -> None:
    """Give a thread of torch on a CPU its share of the cores; the setting counts for the calling thread alone."""
    device = getattr(encoder, "device", None)
    if device is not None and device.type == "cpu":
        import torch

        torch.set_num_threads(num_threads)


class _Committer:
    """Writes segments in a thread of its own, in order. A context manager: leaving it commits what is open."""

    def __init__(self, store: SegmentStore, segment_seconds: float, clock: StageClock) -> None:
        self._store = store
        self._segment_seconds = segment_seconds
        self._clock = clock
        self._queue: queue.Queue[EncodedBatch | None] = queue.Queue(maxsize=_BATCHES_TO_WRITE)
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="write", daemon=True)

    def __enter__(self) -> _Committer:
        self._thread.start()
        return self

    def __exit__(self, *details: object) -> None:
        self._queue.put(None)
        self._thread.join()
        if self._error is not None and details[0] is None:
            raise self._error

    def put(self, batch: EncodedBatch) -> None:
        """Hand over a batch. Raises what writing an earlier one raised."""
        if self._error is not None:
            raise self._error
        self._queue.put(batch)

    def _run(self) -> None:
        segment: list[EncodedBatch] = []
        began = 0.0
        while True:
            batch = self._queue.get()
            if self._error is not None:  # nothing that follows may be written before the part that is missing
                if batch is None:
                    return
                continue
            with self._catching():
                if batch is None:
                    self._commit(segment)
                    return
                began = began if segment else time.monotonic()
                segment.append(batch)
                late = time.monotonic() - began >= self._segment_seconds
                if late or batch.closes_chunk:
                    self._commit(segment)
                    segment = []
            if batch is None:
                return

    def _commit(self, segment: list[EncodedBatch]) -> None:
        covered = [batch for batch in segment if batch.stop > batch.start or batch.ends_source]
        if covered:
            with self._clock.measure("write"):
                self._store.commit(covered)

    @contextlib.contextmanager
    def _catching(self) -> Iterator[None]:
        try:
            yield
        except BaseException as error:  # raised again in the encoder's thread
            self._error = error
