"""Pictures to pixels in a bounded pool, with a gate on the header before anything is decoded.

Pillow releases the GIL while it decodes and resizes, so threads scale; two a core keep the cores busy while others
wait for memory. What is decoded at one moment is bounded in pixels, not in pictures: 256 million pixels are about 1 GB,
because a pixel that needs more than 4 bytes while it is decoded counts as several.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

from PIL import Image

from service.metrics import Metrics
from service.threads import DaemonPool
from sightline.images import ImageLimits, Pixels, decode_image, read_header

T = TypeVar("T")


class PixelBudget:
    """Counts pixels in flight; waiters are served in order, so a large picture is not passed over for ever.

    For one event loop. A picture larger than the whole budget may run alone.
    """

    def __init__(self, limit_pixels: int, metrics: Metrics) -> None:
        self._limit = limit_pixels
        self._used = 0
        self._waiters: deque[tuple[int, asyncio.Future[None]]] = deque()
        metrics.inflight_pixels.set_function(lambda: self._used)

    async def acquire(self, pixels: int) -> None:
        if not self._waiters and self._fits(pixels):
            self._used += pixels
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        entry = (pixels, turn)
        self._waiters.append(entry)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.release(pixels)
            else:
                self._waiters.remove(entry)
                self._admit()
            raise

    def release(self, pixels: int) -> None:
        self._used -= pixels
        self._admit()

    def _fits(self, pixels: int) -> bool:
        return self._used == 0 or self._used + pixels <= self._limit

    def _admit(self) -> None:
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
        header = await self.run(read_header, data, self._limits)
        pixels = header.width_px * header.height_px * header.bytes_per_pixel // 4
        await self._budget.acquire(pixels)
        loop = asyncio.get_running_loop()
        work = self._pool.submit(self._to_pixels, data)
        # A started decode cannot be interrupted: its pixels stay counted until its thread has let them go.

        def give_back(_: Future[Pixels]) -> None:
            with contextlib.suppress(RuntimeError):  # the loop has closed: nobody counts any more
                loop.call_soon_threadsafe(self._budget.release, pixels)

        work.add_done_callback(give_back)
        return await asyncio.wrap_future(work)

    async def run(self, function: Callable[..., T], *arguments: object) -> T:
        """Run a blocking function in the pool."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, function, *arguments)

    def supervise(self) -> None:
        """Start dead threads again."""
        self._pool.revive()

    def close(self) -> None:
        self._pool.shutdown()

    def _to_pixels(self, data: bytes) -> Pixels:
        return self._preprocess(decode_image(data, self._limits))
