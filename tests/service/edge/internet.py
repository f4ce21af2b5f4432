"""An internet of one host for the fetcher's tests: names that resolve as told, and servers that behave badly."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

import httpx

from service.context import RequestContext
from service.edge.fetching import Fetcher
from service.metrics import Metrics
from tests.fakes import picture_bytes

HOST = "good.example"
PUBLIC, OTHER_PUBLIC = "93.184.216.34", "8.8.8.8"
PICTURE = picture_bytes("green")
Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

NOT_PLAIN = [
    "https://127.0.0.1/", "https://0.0.0.0/", "https://[::1]/", "https://[::ffff:127.0.0.1]/",
    "https://169.254.169.254/latest/meta-data/", "https://[fd00:ec2::254]/", "https://[64:ff9b::a9fe:a9fe]/",
    "https://[2002:7f00:1::]/", "https://127.1/", "https://2130706433/", "https://0x7f000001/",
    "https://0177.0.0.1/", "https://①②⑦.0.0.1/",
    f"http://{HOST}\\@127.0.0.1/", f"http://{HOST}#@127.0.0.1/", f"http://{HOST}:80@127.0.0.1/",
    f"https://{HOST}@127.0.0.1/", f"https://user:password@{HOST}/", f"https://@{HOST}/", f"https:/{HOST}/a",
    f"https:///{HOST}/", f"https:\\\\{HOST}\\a", f"//{HOST}/a", f"https://{HOST}:/a", f"https://{HOST}./a",
    f"https://{HOST}/a b", f"https://{HOST}/a\tb", f"https://{HOST}/a\r\nHost: x", f"https://{HOST}/\x00",
    f"https://{HOST}/ä", f"https://{HOST}/%zz", f"https://{HOST}/a#b", f"https://{HOST}\u3002/", f" https://{HOST}/",
    f"https://{HOST}/\n", f"https://{HOST}/" + "a" * 2048, f"https://{HOST}%2f@127.0.0.1/", "https://", "https:",
    "file:///etc/passwd", f"gopher://{HOST}/", f"ftp://{HOST}/a.png", "javascript:alert(1)", "ht\u200btps://x/",
]  # fmt: skip
NOT_LISTED = [
    "https://other.example/", f"https://sub.{HOST}/", f"https://{HOST}.other.example/", "https://localhost/",
    f"https://{HOST}:8443/", f"https://{HOST}:80/", f"http://{HOST}:443/", f"https://{HOST}:99999/",
]  # fmt: skip


class Names:
    """A resolver: each look-up takes the next answer, and the last one stays."""

    def __init__(self, *answers: Sequence[str]) -> None:
        self._answers = list(answers)
        self.asked: list[tuple[str, int]] = []

    def __call__(self, host: str, port: int) -> list[str]:
        self.asked.append((host, port))
        return list(self._answers.pop(0) if len(self._answers) > 1 else self._answers[0])


class Local(httpx.AsyncBaseTransport):
    """Sends what is meant for the internet to a port of this machine, and remembers where it was meant to go."""

    def __init__(self, port: int, *, verify: ssl.SSLContext | bool = True, dead: Sequence[str] = ()) -> None:
        self._port, self._verify, self._dead = port, verify, dead
        self.asked: list[httpx.Request] = []
        self._inner = httpx.AsyncHTTPTransport(verify=verify, trust_env=False)

    def __call__(self) -> Local:
        self._inner = httpx.AsyncHTTPTransport(verify=self._verify, trust_env=False)
        return self

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(request)
        if request.url.host in self._dead:
            raise httpx.ConnectError("nobody there")
        url = request.url.copy_with(host="127.0.0.1", port=self._port)
        return await self._inner.handle_async_request(
            httpx.Request("GET", url, headers=request.headers, extensions=request.extensions)
        )

    async def aclose(self) -> None:
        await self._inner.aclose()


def context(seconds: float = 30.0) -> RequestContext:
    deadline = time.monotonic() + seconds
    return RequestContext("test", deadline, deadline, lambda stage, seconds: None)


def fetcher(
    *, names: Names | None = None, transport: Any = None, http: bool = True, max_bytes: int = 10_000
) -> Fetcher:
    return Fetcher(
        (HOST,), Metrics("0"), allow_http=http, max_bytes=max_bytes,
        resolve=names or Names([PUBLIC]), transport=transport or forbidden,
    )  # fmt: skip


def forbidden() -> httpx.AsyncBaseTransport:
    raise AssertionError("a connection was made")


@contextlib.asynccontextmanager
async def answering(handler: Handler, tls: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """A server on this machine; yields its port."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            await reader.readuntil(b"\r\n\r\n")
            await handler(reader, writer)
        writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0, ssl=tls)
    async with server:
        yield server.sockets[0].getsockname()[1]


def saying(head: str, body: bytes = b"") -> Handler:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(f"HTTP/1.1 {head}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
        await writer.drain()

    return handler


class MakeLocal:
    """A new transport each time, for fetches side by side."""

    def __init__(self, port: int) -> None:
        self._port = port

    def __call__(self) -> httpx.AsyncBaseTransport:
        return Local(self._port)
