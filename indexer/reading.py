"""The first two stages: a thread that reads the source, and a pool that decodes what it read, in order.

The reader goes ahead of the encoder by a few batches and no more, and by a bounded number of bytes that wait to be
decoded: memory does not depend on the source.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from indexer.decode import Decoded, DecodeSpec, decode_record
from indexer.stages import StageClock
from sightline.sources import Folder, Record, Rejected, Source

MAX_WAITING_BYTES = 256 * 2**20
"""Encoded pictures that wait for a decoding thread; a single larger one is let through alone."""
_POLL_SECONDS = 0.2

Span = tuple[int, int | None]
"""Positions [start, stop); stop None: to the end of the source."""
Unchanged = Callable[[str, int, int], Decoded | None]


@dataclass(frozen=True)
class Placed:
    """What became of the input at a position."""

    position: int
    entry: Decoded | Rejected


@dataclass(frozen=True)
class SourceEnd:
    """The source has no input at this position or after it."""

    position: int


_Waiting = tuple[int, Future[Decoded | Rejected] | Decoded | Rejected] | SourceEnd | BaseException | None


@contextlib.contextmanager
def decoded_ahead(
    source: Source,
    spans: Iterable[Span],
    spec: DecodeSpec,
    clock: StageClock,
    *,
    num_threads: int,
    ahead: int,
    unchanged: Unchanged | None = None,
) -> Iterator[Iterator[Placed | SourceEnd]]:
    """Read and decode these spans, in order, up to ``ahead`` inputs before they are taken.

    ``unchanged`` gives what is known of a file by its uri, bytes and time: it is asked where the source is a folder,
    and what it knows is not read.
    Ends its threads when the block ends. Errors of the source are raised where its inputs are taken.
    """
    with ThreadPoolExecutor(num_threads, thread_name_prefix="decode") as pool:
        reader = _Reader(source, spans, spec, clock, pool, ahead, unchanged)
        reader.start()
        try:
            yield reader.taken()
        finally:
            reader.stop()


class _Reader(threading.Thread):
    def __init__(
        self, source: Source, spans: Iterable[Span], spec: DecodeSpec, clock: StageClock,
        pool: ThreadPoolExecutor, ahead: int, unchanged: Unchanged | None,
    ) -> None:  # fmt: skip
        super().__init__(name="read", daemon=True)
        self._source = source
        self._spans = spans
        self._spec = spec
        self._clock = clock
        self._pool = pool
        self._unchanged = unchanged
        self._stopping = threading.Event()
        self._room = _Room(MAX_WAITING_BYTES, self._stopping)
        self._queue: queue.Queue[_Waiting] = queue.Queue(maxsize=max(ahead, 1))

    def run(self) -> None:
        try:
            for start, stop in self._spans:
                if not self._read(start, stop):
                    return
            self._put(None)
        except BaseException as error:  # raised again where it is waited for
            self._put(error)

    def taken(self) -> Iterator[Placed | SourceEnd]:
        """What was read, decoded, in order."""
        while True:
            with self._clock.measure("wait"):
                found = self._get()
                placed = found if not isinstance(found, tuple) else _decoded(*found)
            if placed is None:
                return
            if isinstance(placed, BaseException):
                raise placed
            yield placed

    def stop(self) -> None:
        """End the thread, whatever it waits for."""
        self._stopping.set()
        self.join()

    def _get(self) -> _Waiting:
        while True:
            with contextlib.suppress(queue.Empty):  # a wait without an end could not be interrupted on every system
                return self._queue.get(timeout=_POLL_SECONDS)

    def _read(self, start: int, stop: int | None) -> bool:
        position = start
        inputs = self._inputs(start, stop)
        while not self._stopping.is_set():
            with self._clock.measure("read"):
                entry = next(inputs, None)
            if entry is None:
                if stop is None or position < stop:
                    self._put(SourceEnd(position))
                return True
            self._put((position, self._decode(entry) if isinstance(entry, Record) else entry))
            position += 1
        return False

    def _inputs(self, start: int, stop: int | None) -> Iterator[Record | Rejected | Decoded]:
        if self._unchanged is not None and isinstance(self._source, Folder):
            return self._source.read_unless(self._unchanged, start, stop)
        return iter(self._source.read(start, stop))

    def _decode(self, record: Record) -> Future[Decoded | Rejected]:
        num_bytes = len(record.image)
        self._room.take(num_bytes)
        future = self._pool.submit(self._timed, record)
        future.add_done_callback(lambda _: self._room.give(num_bytes))
        return future

    def _timed(self, record: Record) -> Decoded | Rejected:
        started = time.monotonic()
        try:
            return decode_record(record, self._spec)
        finally:
            self._clock.add("decode", time.monotonic() - started)

    def _put(self, entry: _Waiting) -> None:
        while not self._stopping.is_set():
            with contextlib.suppress(queue.Full):
                self._queue.put(entry, timeout=_POLL_SECONDS)
                return


class _Room:
    """Bytes that may wait; thread-safe."""

    def __init__(self, limit_bytes: int, stopping: threading.Event) -> None:
        self._limit_bytes = limit_bytes
        self._stopping = stopping
        self._used_bytes = 0
        self._changed = threading.Condition()

    def take(self, num_bytes: int) -> None:
        with self._changed:
            while self._used_bytes and self._used_bytes + num_bytes > self._limit_bytes:
                if self._stopping.is_set():
                    return
                self._changed.wait(_POLL_SECONDS)
            self._used_bytes += num_bytes

    def give(self, num_bytes: int) -> None:
        with self._changed:
            self._used_bytes -= num_bytes
            self._changed.notify()


def _decoded(position: int, entry: Future[Decoded | Rejected] | Decoded | Rejected) -> Placed:
    return Placed(position, entry.result() if isinstance(entry, Future) else entry)
