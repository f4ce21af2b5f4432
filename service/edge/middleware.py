"""What surrounds every request: id, deadline, metrics, keys, limits, and an end when the client leaves. Pure ASGI.

From the outside in: ``Observe`` gives the request its context, times it, logs it and answers whatever escapes;
``Authorise`` asks for a key; ``Admit`` bounds requests in flight and body bytes; ``CancelOnDisconnect`` stops work
nobody waits for. Starlette's BaseHTTPMiddleware is not used: it hides disconnects and adds a task and a queue to every
request.
"""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
import time

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.context import RequestContext
from service.edge.access_log import log_access
from service.edge.intake import PROBE_PATHS
from service.edge.keys import Gate
from service.edge.problems import SHOWN, LengthAmbiguous, problem_response
from service.edge.receipt import headers_too_large
from service.edge.tracing import Tracing, parse_traceparent
from service.metrics import UNMATCHED, Metrics, known_method
from service.settings import Settings
from sightline.errors import QueryError, SightlineError

CLIENT_CLOSED = 499
OPENAI_PATHS = frozenset({"/v1/embeddings", "/v1/models"})
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,64}")

logger = logging.getLogger(__name__)


class Observe:
    """Outermost: request id in and out, deadline, ``Server-Timing``, request metrics, last resort for errors."""

    def __init__(self, app: ASGIApp, settings: Settings, metrics: Metrics, tracing: Tracing | None = None) -> None:
        self.app = app
        self.settings = settings
        self.metrics = metrics
        self.tracing = tracing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        given = headers.get("x-request-id", "")
        request_id = given if _REQUEST_ID.fullmatch(given) else secrets.token_hex(8)
        status = 0

        async def observed_send(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                answer = MutableHeaders(raw=message["headers"])
                answer["X-Request-ID"] = request_id
                answer["X-Content-Type-Options"] = "nosniff"
                answer["Server-Timing"] = _server_timing(context, time.perf_counter() - context.started)
                message["headers"] = answer.raw
            await send(message)

        now = time.monotonic()
        context = RequestContext(request_id, now, now, self.metrics.observe_stage)
        context.traceparent = parse_traceparent(headers.get("traceparent", ""))
        context.trace_id = context.traceparent[0] if context.traceparent else None
        state = scope.setdefault("state", {})
        state["context"] = context
        context.reached_queue = state.get("reached_queue", context.reached_queue)
        try:
            self._check_head(scope, headers)
            interactive_seconds, bulk_seconds = self._timeouts_seconds(headers)
            context.deadline += interactive_seconds
            context.bulk_deadline += bulk_seconds
            await self.app(scope, receive, observed_send)
        except ClientDisconnect:
            self.metrics.rejected.labels("client_closed").inc()
        except Exception as error:
            note_error(error, context, self.metrics)
            if status == 0:
                openai = scope["path"] in OPENAI_PATHS
                await problem_response(error, request_id, openai=openai)(scope, receive, observed_send)
        finally:
            context.reached_queue()
            self._finish(scope, context, status or CLIENT_CLOSED)

    def _finish(self, scope: Scope, context: RequestContext, status: int) -> None:
        path = scope["path"]
        route = getattr(scope.get("route"), "path", "/openapi.json" if path == "/openapi.json" else UNMATCHED)
        method = known_method(scope["method"])
        ended = time.perf_counter()
        self.metrics.observe_request(route, method, status, ended - context.started)
        if path not in PROBE_PATHS:
            if self.tracing is not None:
                context.trace_id = self.tracing.record(context, method, route, status, ended)
            log_access(context, method, route, status, ended - context.started)

    def _check_head(self, scope: Scope, headers: Headers) -> None:
        """What h11 lets through: long headers that came at once, and two lengths for one body."""
        size = len(scope["path"]) + len(scope["query_string"])
        size += sum(len(name) + len(value) + 4 for name, value in scope["headers"])
        if size > self.settings.max_header_bytes:
            raise headers_too_large(self.settings.max_header_bytes)
        if "transfer-encoding" in headers and "content-length" in headers:
            raise LengthAmbiguous("The body has both Transfer-Encoding and Content-Length; send one of them.")

    def _timeouts_seconds(self, headers: Headers) -> tuple[float, float]:
        """For interactive and for bulk work: what the client asks for, else the default and the maximum."""
        asked = headers.get("x-request-timeout-ms")
        if asked is None:
            return self.settings.default_timeout_seconds, self.settings.max_timeout_seconds
        if not (asked.isascii() and asked.isdigit() and 0 < len(asked) <= 9 and int(asked) > 0):
            raise QueryError("X-Request-Timeout-Ms must be a whole number of milliseconds, like 2000.")
        seconds = min(int(asked) / 1000.0, self.settings.max_timeout_seconds)
        return seconds, seconds


def note_error(error: Exception, context: RequestContext, metrics: Metrics) -> None:
    """Count an error and log what only the operator may read. Each error passes here once."""
    context.error_code = error.code if isinstance(error, SightlineError) else "internal"
    metrics.rejected.labels(context.error_code).inc()
    if not isinstance(error, SightlineError):
        logger.error("Request %s failed.", context.request_id, exc_info=error)
    elif not isinstance(error, SHOWN):
        logger.error("Request %s: %s", context.request_id, error.message)


class Authorise:
    """Lets nothing but probes pass without what the gate asks for, whether there is such a route or not."""

    def __init__(self, app: ASGIApp, gate: Gate) -> None:
        self.app = app
        self.gate = gate

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] not in PROBE_PATHS:
            scope["state"]["context"].key_name = self.gate.check(scope)
        await self.app(scope, receive, send)


class CancelOnDisconnect:
    """Cancels the work of a request whose client has left, once its body has been read."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.app = app
        self.metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] in ("GET", "HEAD"):
            await self.app(scope, receive, send)
            return
        body_read, gone = asyncio.Event(), asyncio.Event()
        answered = False

        async def watched_receive() -> Message:
            if body_read.is_set():
                await gone.wait()
                return {"type": "http.disconnect"}
            message = await receive()
            if message["type"] == "http.disconnect" or not message.get("more_body", False):
                body_read.set()
            return message

        async def watched_send(message: Message) -> None:
            nonlocal answered
            answered = answered or (message["type"] == "http.response.body" and not message.get("more_body", False))
            await send(message)

        async def watch() -> None:
            await body_read.wait()
            while (await receive())["type"] != "http.disconnect":
                pass
            gone.set()

        work = asyncio.ensure_future(_run(self.app, scope, watched_receive, watched_send))
        watcher = asyncio.ensure_future(watch())
        try:
            await asyncio.wait({work, watcher}, return_when=asyncio.FIRST_COMPLETED)
            if not work.done() and not answered:
                work.cancel()
                self.metrics.rejected.labels("client_closed").inc()
                await asyncio.wait({work})
                return
            await work
        finally:
            watcher.cancel()
            work.cancel()
            del work, watcher  # an error's traceback holds this frame: without this a cycle that only gc could end


async def _run(app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
    await app(scope, receive, send)


def _server_timing(context: RequestContext, total_seconds: float) -> str:
    stages = {**context.stages, "total": total_seconds}
    return ", ".join(f"{name};dur={seconds * 1000:.2f}" for name, seconds in stages.items())
