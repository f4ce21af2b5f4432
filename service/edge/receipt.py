"""What one connection may hold, and for how long: uvicorn's HTTP/1.1 protocol with deadlines for receiving.

uvicorn bounds neither the time a client takes for its headers nor the number of connections, so 500 clients that send a
byte a second sit there for ever (slowloris). Here a connection is always in one phase, and each but the second has a
deadline:

* head: nothing or a part of a request line and headers has come: ``header_timeout_seconds``, then 408;
* request: somebody is at work; bodies have their own deadline (``service.edge.intake``), and answers none;
* idle: between two requests: ``keep_alive_seconds``;
* linger: answered before the whole body came (413, 429, 401): it is read and dropped for a moment, because closing
  at once would reset the connection and the client would never read its answer; then the connection ends.

Beyond ``max_connections`` a new connection takes the place of the one that has been in its phase for longest, those at
work aside (nginx does so with idle ones): closing the newcomer instead would let whoever holds the connections shut out
the probes.
"""

from __future__ import annotations

import asyncio
import enum
import secrets
import sys
from collections.abc import Mapping
from typing import Any, ClassVar, cast

import h11
import pydantic_core
from uvicorn.protocols.http.h11_impl import STATUS_PHRASES, H11Protocol

from service.edge.door import Coming, Door
from service.edge.problems import PROBLEM_TYPE, BodyMalformed, BodyTooSlow, HeadersTooLarge, problem_of
from service.metrics import UNMATCHED, Metrics
from service.settings import Settings
from sightline.errors import SightlineError

KEEP_ALIVE_SECONDS = 65
"""Longer than the 60 s after which common proxies drop an idle connection, so that they never race our close."""
_LINGER_SECONDS = 2.0


class Phase(enum.Enum):
    HEAD = "head"
    BODY = "body"
    WORK = "work"
    IDLE = "idle"
    LINGER = "linger"


class Connections:
    """The open connections of one server; those that are not at work in the order in which they entered their phase.

    For one event loop. ``sightline_open_connections`` and ``sightline_connections_cut_total`` follow it.
    """

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        self.settings = settings
        self.metrics = metrics
        self.deadlines_seconds: Mapping[Phase, float] = {
            Phase.HEAD: settings.header_timeout_seconds,
            Phase.IDLE: KEEP_ALIVE_SECONDS,
            Phase.LINGER: _LINGER_SECONDS,
        }
        self._open: set[BoundedProtocol] = set()
        self._endable: dict[BoundedProtocol, None] = {}
        metrics.open_connections.set_function(lambda: len(self._open))

    def add(self, one: BoundedProtocol) -> None:
        """Count a new connection, and end another one where there are too many."""
        self._open.add(one)
        if len(self._open) > self.settings.max_connections:
            next(iter(self._endable), one).cut("displaced")

    def note(self, one: BoundedProtocol, phase: Phase) -> None:
        """A connection has entered a phase."""
        self._endable.pop(one, None)
        if one in self._open and phase is not Phase.WORK:
            self._endable[one] = None

    def remove(self, one: BoundedProtocol) -> None:
        self._open.discard(one)
        self._endable.pop(one, None)


class OneWrite:
    """A transport that sends what is written within one turn of the event loop at once, else as the one it wraps.

    uvicorn writes the head of an answer and its body separately: two system calls and two packets for a few hundred
    bytes, 0.05 ms of the 0.5 that a text costs beside the encoder.
    """

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._held: list[bytes] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        if not self._held:
            self._loop.call_soon(self._flush)
        self._held.append(data)

    def write_now(self, data: bytes) -> None:
        """Send this at once, after what is held: for an answer that is complete."""
        self._held.append(data)
        self._flush()

    def close(self) -> None:
        """Send what is held, then close."""
        self._flush()
        self._transport.close()

    def _flush(self) -> None:
        held, self._held = self._held, []
        if held and not self._transport.is_closing():
            self._transport.write(held[0] if len(held) == 1 else b"".join(held))


class BoundedProtocol(H11Protocol):
    """One connection. Make a class for each server with ``bounded_protocol``: uvicorn makes the objects."""

    connections_of_server: ClassVar[Connections]
    door: ClassVar[Door]
    _bytes_to_drop = 0
    _coming: Coming | None = None
    _phase: Phase | None = None
    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(cast(asyncio.Transport, OneWrite(transport, self.loop)))
        self._enter(Phase.HEAD)
        self.connections_of_server.add(self)
        self.connections_of_server.note(self, Phase.HEAD)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        self.connections_of_server.remove(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._bytes_to_drop:
            num_dropped = min(len(data), self._bytes_to_drop)
            self._bytes_to_drop -= num_dropped
            data = data[num_dropped:]
            if not data:
                return
        if self._between_requests():
            turned_away = self.door.turn_away(data)
            if turned_away is not None:
                self._bytes_to_drop = turned_away.bytes_to_drop
                self._unset_keepalive_if_required()
                cast(OneWrite, self.transport).write_now(turned_away.answer)
                self._enter(Phase.IDLE)
                self.connections_of_server.note(self, Phase.IDLE)
                return
        before = self.cycle
        super().data_received(data)
        if self.cycle is not None and self.cycle is not before:
            scope = self.cycle.scope
            self._coming = self.door.expect(scope["path"], dict(scope["headers"]))
            if self._coming is not None:
                scope["state"]["reached_queue"] = self._coming.reached
        if self._coming is not None and self.conn.their_state is not h11.SEND_BODY:
            self._coming.whole()
            self._coming = None
        self._follow()

    def _between_requests(self) -> bool:
        idle = self.conn.their_state is h11.IDLE and not self.conn.trailing_data[0]
        return idle and (self.cycle is None or self.cycle.response_complete)

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._follow()

    def cut(self, reason: str) -> None:
        """End the connection now; what was written and not yet sent is lost."""
        connections = self.connections_of_server
        connections.metrics.connections_cut.labels(reason).inc()
        connections.remove(self)
        self._stop_timer()
        self.transport.abort()

    def send_400_response(self, msg: str) -> None:
        """uvicorn calls this while it handles h11's error: what came is no HTTP, or too much of it."""
        error = sys.exc_info()[1]
        if getattr(error, "error_status_hint", 400) == 431:
            self._refuse(headers_too_large(self.connections_of_server.settings.max_header_bytes))
        else:
            self._refuse(BodyMalformed("This is not valid HTTP/1.1; check the request line, headers and chunks."))

    def _follow(self) -> None:
        phase = self._now()
        if phase is not self._phase and not self.transport.is_closing():
            self._enter(phase)
            self.connections_of_server.note(self, phase)

    def _now(self) -> Phase:
        if self.cycle is not None and not self.cycle.response_complete:
            return Phase.BODY if self.conn.their_state is h11.SEND_BODY else Phase.WORK
        if self.conn.their_state is h11.IDLE:
            if self.cycle is None or self._phase is Phase.HEAD or self.conn.trailing_data[0]:
                return Phase.HEAD
            return Phase.IDLE
        return Phase.LINGER

    def _enter(self, phase: Phase) -> None:
        self._phase = phase
        self._stop_timer()
        seconds = self.connections_of_server.deadlines_seconds.get(phase)
        if seconds is not None:
            self._timer = self.loop.call_later(seconds, self._expire)

    def _expire(self) -> None:
        metrics = self.connections_of_server.metrics
        if self._phase is Phase.HEAD:
            metrics.connections_cut.labels("header_timeout").inc()
            if self.conn.trailing_data[0]:
                self._refuse(BodyTooSlow("The request's headers did not arrive in time; send them at once."))
                return
        elif self._phase is Phase.LINGER:
            metrics.connections_cut.labels("unfinished_body").inc()
        self.transport.close()

    def _refuse(self, error: SightlineError) -> None:
        """Answer a request that never got as far as the app, and close."""
        request_id = secrets.token_hex(8)
        problem = problem_of(error, request_id)
        status = problem["status"]
        metrics = self.connections_of_server.metrics
        metrics.rejected.labels(error.code).inc()
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            metrics.observe_request(UNMATCHED, "_OTHER", status, 0.0)
            body = pydantic_core.to_json(problem)
            headers = [
                ("content-type", PROBLEM_TYPE), ("content-length", str(len(body))), ("connection", "close"),
                ("x-request-id", request_id), ("cache-control", "no-store"),
            ]  # fmt: skip
            events: tuple[Any, ...] = (
                h11.Response(status_code=status, headers=headers, reason=STATUS_PHRASES[status]),
                h11.Data(data=body),
                h11.EndOfMessage(),
            )
            for event in events:
                self.transport.write(self.conn.send(event))
        if self.cycle is not None and not self.cycle.response_complete:  # a broken chunk: the app hears of an end
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        self.transport.close()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def bounded_protocol(settings: Settings, metrics: Metrics, door: Door) -> type[BoundedProtocol]:
    """The protocol class of one server."""
    own = {"connections_of_server": Connections(settings, metrics), "door": door}
    return type("ServerProtocol", (BoundedProtocol,), own)


def headers_too_large(limit_bytes: int) -> HeadersTooLarge:
    return HeadersTooLarge(
        f"The request line and headers are larger than the limit of {limit_bytes:,} bytes; send less in them.",
        limit_bytes=limit_bytes,
    )
