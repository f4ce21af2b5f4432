"""Pictures to pixels in a bounded pool, with a gate on the header before anything is decoded.

Pillow releases the GIL while it decodes and resizes, so threads scale; two a core keep the cores busy while others
wait for memory. What is decoded at one moment is bounded in pixels, not in pictures: 256 million pixels are about 1 GB,
because a pixel that needs more than 4 bytes while it is decoded counts as several.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar, cast

from PIL import Image

from service.metrics import Metrics
from service.threads import DaemonPool
from sightline.images import ImageHeader, ImageLimits, Pixels, decode_image, encode_thumbnail

T = TypeVar("T")


@dataclass(frozen=True)
class Thumbnail:
    """A small WebP of a picture, and the picture's own size, upright."""

    data: bytes
    width_px: int
    height_px: int


class _NoRoom(Exception):
    """The budget has no room for so many pixels."""

    def __init__(self, needed_pixels: int) -> None:
        super().__init__(needed_pixels)
        self.needed_pixels = needed_pixels


class PixelBudget:
    """Counts pixels in flight; waiters are served in order, so a large picture is not passed over for ever.

    ``acquire`` belongs to one event loop, the rest is thread-safe. A picture larger than the budget may run alone.
    """

    def __init__(self, limit_pixels: int, metrics: Metrics) -> None:
        self._limit = limit_pixels
        self._used = 0
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._waiters: deque[tuple[int, asyncio.Future[None]]] = deque()
        metrics.inflight_pixels.set_function(lambda: self._used)

    def try_acquire(self, pixels: int) -> bool:
        """Take the pixels if that is possible at once and nobody waits."""
        with self._lock:
            if self._waiters or not self._fits(pixels):
                return False
            self._used += pixels
            return True

    async def acquire(self, pixels: int) -> None:
        """Take the pixels when it is this caller's turn."""
        self._loop = asyncio.get_running_loop()
        turn: asyncio.Future[None] = self._loop.create_future()
        entry = (pixels, turn)
        with self._lock:
            self._waiters.append(entry)
        self._admit()
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.release(pixels)
            else:
                with self._lock:
                    self._waiters.remove(entry)
                self._admit()
            raise

    def release(self, pixels: int) -> None:
        """Give the pixels back."""
        with self._lock:
            self._used -= pixels
            somebody_waits = bool(self._waiters)
        if somebody_waits and self._loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop has closed: nobody counts any more
                self._loop.call_soon_threadsafe(self._admit)

    def _fits(self, pixels: int) -> bool:
        return self._used == 0 or self._used + pixels <= self._limit

    def _admit(self) -> None:
        with self._lock:
            while self._waiters and self._fits(self._waiters[0][0]):
                pixels, turn = self._waiters.popleft()
                if not turn.done():
                    self._used += pixels
                    turn.set_result(None)


class DecodePool:
    """The threads in which bodies are parsed and pictures decoded. Its methods belong to one event loop."""

    def __init__(
        self,
        preprocess: Callable[[Image.Image], Pixels],
        limits: ImageLimits,
        max_inflight_pixels: int,
        metrics: Metrics,
    ) -> None:
        self._preprocess = preprocess
        self._limits = limits
        self._budget = PixelBudget(max_inflight_pixels, metrics)
        self._pool = DaemonPool(2 * (os.cpu_count() or 1), "decode", metrics.worker_restarts.labels("decode").inc)

    async def decode(self, data: bytes) -> Pixels:
        """Encoded picture → uint8 ``[H, W, 3]`` as the encoder wants it.

        Raises ImageCorrupt, ImageFormatError or ImageTooLarge. When the waiting task is cancelled before its turn,
        nothing is decoded.
        """
        return await self._decoded(data, self._preprocess)

    async def thumbnail(self, data: bytes, max_side_px: int) -> Thumbnail:
        """Encoded picture → a thumbnail of it. Raises and waits as ``decode`` does."""
        return await self._decoded(
            data, lambda image: Thumbnail(encode_thumbnail(image, max_side_px), image.width, image.height)
        )

    async def _decoded(self, data: bytes, use: Callable[[Image.Image], T]) -> T:
        found = await self.run(self._decode_if_it_fits, data, use)
        if not isinstance(found, _NoRoom):
            return cast(T, found)
        pixels = found.needed_pixels
        await self._budget.acquire(pixels)
        work = self._pool.submit(lambda: use(decode_image(data, self._limits)))
        # A started decode cannot be interrupted: its pixels stay counted until its thread has let them go.
        work.add_done_callback(lambda _: self._budget.release(pixels))
        return await asyncio.wrap_future(work)

    async def run(self, function: Callable[..., T], *arguments: object) -> T:
        """Run a blocking function in the pool."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, function, *arguments)

    def supervise(self) -> None:
        """Start dead threads again."""
        self._pool.revive()

    def close(self) -> None:
        self._pool.shutdown()

    def _decode_if_it_fits(self, data: bytes, use: Callable[[Image.Image], T]) -> T | _NoRoom:
        """What is made of the picture; or, where the budget has no room, how many pixels of it are needed."""
        held = 0

        def reserve(header: ImageHeader) -> None:
            nonlocal held
            needed = header.width_px * header.height_px * header.bytes_per_pixel // 4
            if not self._budget.try_acquire(needed):
                raise _NoRoom(needed)
            held = needed

        try:
            return use(decode_image(data, self._limits, reserve))
        except _NoRoom as refusal:
            return refusal.with_traceback(None)  # which would keep the picture
        finally:
            if held:
                self._budget.release(held)
