"""HTTP over bare sockets: an ordinary client would be most of the work on a machine shared with the service."""

from __future__ import annotations

import asyncio
import contextlib
import re
from dataclasses import dataclass
from urllib.parse import urlsplit


@dataclass(frozen=True)
class Answer:
    """Header names and values are in small letters."""

    status: int
    head: bytes
    body: bytes


def http(method: str, path: str, body: bytes = b"", kind: str = "application/json") -> bytes:
    """The bytes of a request."""
    head = f"{method} {path} HTTP/1.1\r\nHost: test\r\nContent-Length: {len(body)}\r\n"
    if body:
        head += f"Content-Type: {kind}\r\n"
    return head.encode() + b"\r\n" + body


class Client:
    """One connection that is kept open as long as the service keeps it."""

    def __init__(self, url: str) -> None:
        place = urlsplit(url)
        assert place.hostname is not None
        assert place.port is not None
        self._address = (place.hostname, place.port)
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def send(self, request: bytes) -> None:
        """Send and wait for nothing."""
        if self._writer is None or self._writer.is_closing():
            self._reader, self._writer = await asyncio.open_connection(*self._address)
        self._writer.write(request)
        await self._writer.drain()

    async def ask(self, request: bytes) -> Answer:
        """Send and read the answer."""
        await self.send(request)
        assert self._reader is not None
        head = (await self._reader.readuntil(b"\r\n\r\n")).lower()
        length = re.search(rb"\r\ncontent-length: (\d+)", head)
        assert length is not None, head
        body = await self._reader.readexactly(int(length[1]))
        if b"\r\nconnection: close" in head:
            await self.close()
        return Answer(int(head[9:12]), head, body)

    async def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
            with contextlib.suppress(ConnectionError):
                await self._writer.wait_closed()
            self._writer = None


@dataclass(frozen=True)
class State:
    """What a process holds, as it says itself."""

    resident_bytes: float
    open_files: float
    num_series: int
    held: dict[str, float]


async def state_of(url: str) -> State:
    """Ask /metrics."""
    client = Client(url)
    answer = await client.ask(http("GET", "/metrics"))
    await client.close()
    lines = [line for line in answer.body.decode().splitlines() if line and not line.startswith("#")]
    values = {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines}
    held = ("sightline_inflight_requests", "sightline_buffered_body_bytes", "sightline_admitted_units",
            "sightline_inflight_pixels")  # fmt: skip
    return State(
        values["process_resident_memory_bytes"], values["process_open_fds"], len(lines),
        {name: values[name] for name in held},
    )  # fmt: skip
