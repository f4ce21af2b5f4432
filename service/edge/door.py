"""Turning requests away at the door, while the encoder's queue is full.

A service that is asked for ten times what it can do must spend its time on what it accepts. To parse a request, read
its body and build an answer takes a millisecond of Python; at ten times the capacity that alone is more than the
machine has (measured: goodput fell to 44 %). So while the queue has no room, a request that would need it is answered
with 429 from its first bytes, and its body is dropped as it comes, without being parsed. The connection stays open.

Only plain requests are met here: anything unusual about the framing (chunks, ``Expect``, pipelining, an ``Origin`` that
wants CORS headers, a body over the limit) takes the ordinary way, which ends in the same 429 or says what is wrong.
Requests that got in and have not reached the queue yet are counted as if they had, so that a freed place lets in one
request and not all that arrive within a millisecond. One whose body takes longer than 50 ms to come counts only once it
is whole: else a few hundred clients who send a byte a second would close the door to everybody. Belongs to one event
loop.
"""

from __future__ import annotations

import re
import secrets
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import pydantic_core

from service.edge.problems import PROBLEM_TYPE, openai_error_of, problem_of
from service.metrics import Metrics
from sightline.errors import Overloaded

ENCODING_PATHS = frozenset(
    {"/v1/text-to-image", "/v1/image-to-text", "/v1/image-to-image", "/v1/zero-shot", "/v1/embeddings", "/knn-service"}
)
_OPENAI_PATH = "/v1/embeddings"
_TEXT_BYTES = 4096
"""A body below this is taken for a text, a larger one for a picture, until it is known better."""
_PATIENCE_SECONDS = 0.05
_REQUEST_LINE = re.compile(rb"POST ([!-~]{1,64}?)(?:\?[!-~]*)? HTTP/1\.1\r\n")
_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*(\d{1,12})[ \t]*\r\n")
_REQUEST_ID = re.compile(rb"\r\nx-request-id:[ \t]*([A-Za-z0-9._:-]{1,64})[ \t]*\r\n", re.IGNORECASE)
_UNUSUAL = (
    b"transfer-encoding",
    b"\r\nexpect:",
    b"\r\norigin:",
    b"\r\nconnection: close",
    b"\r\nupgrade:",
    b"\r\n ",
    b"\r\n\t",
)


@dataclass(frozen=True)
class TurnedAway:
    """The answer to a request that was not let in, and how much of its body is still to come."""

    answer: bytes
    bytes_to_drop: int


class Coming:
    """A request that was let in, on its way to the queue."""

    def __init__(self, door: Door, units: int, since: float) -> None:
        self._door = door
        self._units = units
        self._counted = self._whole = self._reached = False
        self.since = since
        self._count(counted=True)

    def whole(self) -> None:
        """Its body has come."""
        self._whole = True
        self._count(counted=not self._reached)

    def reached(self) -> None:
        """It is in the queue, or has ended; may be said several times."""
        self._reached = True
        self._count(counted=False)

    def forgive(self) -> None:
        """Its body is long in coming: do not count it meanwhile."""
        self._count(counted=self._counted and self._whole)

    def _count(self, *, counted: bool) -> None:
        self._door.expected_units += self._units * (counted - self._counted)
        self._counted = counted


class Door:
    """``has_room`` says whether so many units, on top of what is admitted, would be accepted; ``refusal`` why not."""

    def __init__(
        self,
        has_room: Callable[[int], bool],
        refusal: Callable[[], Overloaded],
        metrics: Metrics,
        *,
        image_units: int,
        max_body_bytes: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._clock = clock
        self._has_room = has_room
        self._refusal = refusal
        self._metrics = metrics
        self._image_units = image_units
        self._max_body_bytes = max_body_bytes
        self.expected_units = 0
        self._coming: deque[Coming] = deque()

    def expect(self, path: str, headers: Mapping[bytes, bytes]) -> Coming | None:
        """A request has come in: count its work until it reaches the queue or ends."""
        if path not in ENCODING_PATHS:
            return None
        length = headers.get(b"content-length", b"")
        units = 1 if length.isdigit() and int(length) < _TEXT_BYTES else self._image_units
        now = self._clock()
        self._forgive(now)
        coming = Coming(self, units, now)
        self._coming.append(coming)
        return coming

    def _forgive(self, now: float) -> None:
        while self._coming and self._coming[0].since + _PATIENCE_SECONDS < now:
            self._coming.popleft().forgive()

    def turn_away(self, data: bytes) -> TurnedAway | None:
        """What to answer to the first bytes of a request, or None to let it in."""
        if self._has_room(self.expected_units + self._image_units):
            return None
        self._forgive(self._clock())
        if self._has_room(self.expected_units + self._image_units):
            return None
        line = _REQUEST_LINE.match(data)
        head_end = data.find(b"\r\n\r\n")
        if line is None or head_end < 0:
            return None
        path = line[1].decode("ascii")
        head = data[line.end() - 2 : head_end + 2]
        lower = head.lower()
        length = _LENGTH.search(lower)
        if (
            path not in ENCODING_PATHS
            or length is None
            or lower.count(b"content-length") != 1
            or lower.count(b"\n") != lower.count(b"\r\n")  # h11 would find other lines in it than we
            or any(sign in lower for sign in _UNUSUAL)
        ):
            return None
        num_bytes = int(length[1])
        to_drop = head_end + 4 + num_bytes - len(data)
        if num_bytes > self._max_body_bytes or to_drop < 0:
            return None
        if num_bytes < _TEXT_BYTES and self._has_room(self.expected_units + 1):
            return None
        given = _REQUEST_ID.search(head)
        request_id = given[1].decode("ascii") if given else secrets.token_hex(8)
        self._metrics.rejected.labels(Overloaded.code).inc()
        self._metrics.observe_request(path, "POST", 429, 0.0)
        return TurnedAway(self._answer(path, request_id), to_drop)

    def _answer(self, path: str, request_id: str) -> bytes:
        error = self._refusal()
        openai = path == _OPENAI_PATH
        body = pydantic_core.to_json(openai_error_of(error, request_id)[1] if openai else problem_of(error, request_id))
        kind = "application/json" if openai else PROBLEM_TYPE
        return (
            f"HTTP/1.1 429 Too Many Requests\r\ncontent-type: {kind}\r\ncontent-length: {len(body)}\r\n"
            f"retry-after: {error.details['retry_after_seconds']}\r\nx-request-id: {request_id}\r\n"
            "cache-control: no-store\r\nx-content-type-options: nosniff\r\n\r\n"
        ).encode("ascii") + body
