"""Bodies on their way in: how many requests, how many bytes, and how slowly. Pure ASGI."""

from __future__ import annotations

import asyncio
import time

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.context import RequestContext
from service.edge.problems import BodyTooLarge, BodyTooSlow
from service.metrics import Metrics
from service.settings import Settings
from sightline.errors import Overloaded

PROBE_PATHS = frozenset({"/livez", "/readyz", "/health", "/v2/health/live", "/v2/health/ready"})
"""Answered whatever happens: they need no key, count against no limit and are not logged."""
_UNLIMITED_PATHS = PROBE_PATHS | {"/metrics"}
_SLOW_START_SECONDS = 5.0
"""A body may begin slowly; after that it must keep up ``min_receive_bytes_per_second`` on average."""


class Admit:
    """Bounds requests in flight, the size of a body (declared or not), bytes held at once, and the time to send it."""

    def __init__(self, app: ASGIApp, settings: Settings, metrics: Metrics) -> None:
        self.app = app
        self.settings = settings
        self.num_requests = 0
        self.num_bytes = 0
        metrics.inflight_requests.set_function(lambda: self.num_requests)
        metrics.buffered_bytes.set_function(lambda: self.num_bytes)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in _UNLIMITED_PATHS:
            await self.app(scope, receive, send)
            return
        self.check_place()
        headers = Headers(scope=scope)
        declared = headers.get("content-length", "0")
        if not (declared.isascii() and declared.isdigit()) or int(declared[:18]) > self.settings.max_body_bytes:
            raise body_too_large(self.settings.max_body_bytes)
        context: RequestContext = scope["state"]["context"]
        intake = Intake(self, receive, context)
        context.count_bytes = intake.count
        if declared == "0" and "transfer-encoding" not in headers:
            intake.take_place()
        try:
            await self.app(scope, intake.receive, send)
        finally:
            intake.leave()

    def check_place(self) -> None:
        """Raise Overloaded when as many requests are worked on as may be."""
        limit = self.settings.max_inflight_requests
        if self.num_requests >= limit:
            raise Overloaded(
                "Too many requests are being worked on; try again in 1 s.", retry_after_seconds=1, limit_requests=limit
            )


class Intake:
    """One body on its way in. A request's deadline stands still meanwhile: receiving has a limit of its own.

    Only a whole body takes a place among the requests that are worked on; else a few hundred clients who send a byte
    a second would hold them all, and everybody else would hear 429.
    """

    def __init__(self, admit: Admit, receive: Receive, context: RequestContext) -> None:
        self._admit = admit
        self._receive = receive
        self._context = context
        self._started: float | None = time.monotonic()
        self._has_place = False
        self.num_bytes = 0

    async def receive(self) -> Message:
        if self._started is None:
            return await self._receive()
        try:
            async with asyncio.timeout_at(self._started + self._seconds_allowed()):
                message = await self._receive()
        except TimeoutError:
            raise BodyTooSlow("The body did not arrive in time; send it faster or in smaller parts.") from None
        if message["type"] == "http.request":
            size = len(message.get("body", b""))
            self._context.num_bytes_in += size
            self.count(size)
            if not message.get("more_body", False):
                self.take_place()
        if not message.get("more_body", False):
            self._context.allow_more(time.monotonic() - self._started)
            self._started = None
        return message

    def take_place(self) -> None:
        """Begin to count as a request that is worked on. Raises Overloaded."""
        if not self._has_place:
            self._admit.check_place()
            self._has_place = True
            self._admit.num_requests += 1

    def leave(self) -> None:
        """Give back the place and the bytes."""
        self._context.count_bytes = _count_no_more  # ends a cycle of references
        self._admit.num_requests -= self._has_place
        self._admit.num_bytes -= self.num_bytes

    def _seconds_allowed(self) -> float:
        """Until when the next part of the body must come: every byte buys time, up to the limit."""
        settings = self._admit.settings
        earned_seconds = self.num_bytes / settings.min_receive_bytes_per_second
        return min(settings.receive_timeout_seconds, _SLOW_START_SECONDS + earned_seconds)

    def count(self, size: int) -> None:
        """Count bytes of the body, or fetched in its place. Raises BodyTooLarge or Overloaded."""
        settings = self._admit.settings
        self.num_bytes += size
        self._admit.num_bytes += size
        if self.num_bytes > settings.max_body_bytes:
            raise body_too_large(settings.max_body_bytes)
        if self._admit.num_bytes > settings.max_buffered_bytes:
            raise Overloaded("Too many large bodies are being received; try again in 1 s.", retry_after_seconds=1)


def _count_no_more(size: int) -> None:
    """In the place of ``Intake.count`` when a request has ended."""


def body_too_large(limit_bytes: int) -> BodyTooLarge:
    return BodyTooLarge(
        f"The body is larger than the limit of {limit_bytes:,} bytes; send less at once.", limit_bytes=limit_bytes
    )
