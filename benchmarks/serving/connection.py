"""A keep-alive HTTP/1.1 connection that sends bytes made beforehand: the generator must not eat the server's cores.

Only what a load generator needs: one request at a time, status, ``Retry-After``, body length (and the body on
request). About 60 µs of processor time a request, where a general client takes a millisecond.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass


class ConnectionLost(Exception):
    """The server closed the connection, or it never opened; the text says which."""


@dataclass(frozen=True)
class Answer:
    """What came back. ``retry_after`` is the header as sent; ``body`` is empty unless it was asked for."""

    status: int
    retry_after: str | None
    num_bytes: int
    body: bytes
    reusable: bool


class Connection(asyncio.Protocol):
    """One socket, used by one caller at a time. Not thread-safe."""

    def __init__(self, keep_body: bool = False) -> None:
        self._keep_body = keep_body
        self._transport: asyncio.Transport | None = None
        self._waiting: asyncio.Future[Answer] | None = None
        self._buffer = bytearray()
        self._length: int | None = None  # of the body; -1: chunked
        self._body_at = 0
        self._head: tuple[int, str | None, bool] = (0, None, True)
        self.closed = False

    async def exchange(self, request: bytes) -> Answer:
        """Send a whole request, return its answer. Raises ConnectionLost."""
        if self.closed or self._transport is None:
            raise ConnectionLost("the connection is closed")
        self._waiting = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        try:
            return await self._waiting
        finally:
            self._waiting = None

    def close(self) -> None:
        self.closed = True
        if self._transport is not None:
            self._transport.abort()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if self._length is None and not self._read_head():
            return
        assert self._length is not None
        if self._length >= 0:
            end = self._body_at + self._length
            if len(self._buffer) >= end:
                self._finish(self._length, bytes(self._buffer[self._body_at : end]) if self._keep_body else b"")
        elif self._buffer.endswith(b"0\r\n\r\n"):
            body = unchunk(self._buffer[self._body_at :])
            if body is not None:
                self._finish(len(body), body if self._keep_body else b"")

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_exception(ConnectionLost("the server closed the connection before it had answered"))

    def _read_head(self) -> bool:
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            return False
        status, length, retry_after, reusable = parse_head(bytes(self._buffer[:end]))
        if 100 <= status < 200:
            del self._buffer[: end + 4]
            return self._read_head()
        self._head = (status, retry_after, reusable)
        self._length = length
        self._body_at = end + 4
        return True

    def _finish(self, num_bytes: int, body: bytes) -> None:
        status, retry_after, reusable = self._head
        self._buffer.clear()
        self._length = None
        if not reusable:
            self.close()
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(Answer(status, retry_after, num_bytes, body, reusable))


async def connect(host: str, port: int, keep_body: bool = False) -> Connection:
    """Open a connection. Raises ConnectionLost."""
    try:
        _, connection = await asyncio.get_running_loop().create_connection(lambda: Connection(keep_body), host, port)
    except OSError as error:
        raise ConnectionLost(f"no connection to {host}:{port}: {error}") from error
    return connection


def parse_head(head: bytes) -> tuple[int, int, str | None, bool]:
    """Status, body length (-1: chunked), ``Retry-After`` and whether the connection stays open."""
    lines = head.split(b"\r\n")
    status = int(lines[0].split(b" ", 2)[1])
    length, retry_after, reusable = 0, None, True
    for line in lines[1:]:
        name, _, value = line.partition(b":")
        name, value = name.strip().lower(), value.strip()
        if name == b"content-length":
            length = int(value)
        elif name == b"transfer-encoding" and value.lower() == b"chunked":
            length = -1
        elif name == b"retry-after":
            retry_after = value.decode("latin-1")
        elif name == b"connection" and value.lower() == b"close":
            reusable = False
    return status, length, retry_after, reusable


def unchunk(data: bytes | bytearray) -> bytes | None:
    """The body of a chunked answer, or None while it is incomplete."""
    body, at = bytearray(), 0
    while True:
        line_end = data.find(b"\r\n", at)
        if line_end < 0:
            return None
        size = int(bytes(data[at:line_end]).split(b";")[0], 16)
        at = line_end + 2
        if size == 0:
            return bytes(body)
        if len(data) < at + size + 2:
            return None
        body += data[at : at + size]
        at += size + 2
