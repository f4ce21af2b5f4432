"""Pictures from addresses: off unless the operator names the hosts, and then as narrow as it can be.

An address is taken apart once, by one strict grammar, and what is connected to is built from those parts: a checker
and a client that read a URL differently are how such checks are passed by (vLLM CVE-2026-24779). The name is looked up
once, every address found must be public, and the connection goes to that very address with the name in SNI,
certificate check and ``Host``; so a name that changes its mind between look-ups (DNS rebinding) gains nothing.
No redirects, no proxies, no cookies, no decompression. What a fetch did wrong is told in one sentence for all cases:
a caller must not learn from us what listens where.

A fetched picture counts against the limits of a body (``RequestContext.count_bytes``) and its bytes are looked at like
any other's: the content type that a server claims is ignored.
"""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import httpx

from service.context import RequestContext, deadline_exceeded, naming_input
from service.edge.hosts import HOST_NAME, is_public, parse_address
from service.edge.problems import UrlFailed, UrlNotAllowed
from service.metrics import Metrics
from service.threads import DaemonPool
from sightline.errors import ImageTooLarge, SightlineError

Resolver = Callable[[str, int], list[str]]
"""Name and port → addresses as text. Blocks; runs in a thread. Raises OSError."""

MAX_URLS = 16
"""Addresses in one request: a caller must not turn one request into a flood at somebody else's door."""

_CONNECT_SECONDS = 2.0
_TOTAL_SECONDS = 5.0
_MAX_PARALLEL = 8
_MAX_URL_CHARS = 2048
_PORTS = {"https": 443, "http": 80}
_URL = re.compile(
    rf"(?P<scheme>https?)://(?P<host>{HOST_NAME})(?::(?P<port>[0-9]{{1,5}}))?"
    r"(?P<target>(?:/(?:[a-z0-9._~!$&'()*+,;=:@/-]|%[0-9a-f]{2})*)?(?:\?(?:[a-z0-9._~!$&'()*+,;=:@/?-]|%[0-9a-f]{2})*)?)",
    re.IGNORECASE | re.ASCII,
)
_OUTCOMES: dict[type[SightlineError], str] = {UrlNotAllowed: "not_allowed", UrlFailed: "failed"}
_FAILED = (
    "The picture could not be fetched from its address: the server there must answer 200 within 5 s with the picture "
    "itself, not redirected and not compressed; check the address or send the bytes."
)


@dataclass(frozen=True)
class ImageAddress:
    """Where a picture is said to be; not checked yet."""

    url: str


@dataclass(frozen=True)
class _Target:
    scheme: str
    host: str
    port: int
    path: str


class Fetcher:
    """Fetches pictures. Its methods belong to one event loop; ``resolve`` and ``transport`` are for tests."""

    def __init__(
        self,
        hosts: Sequence[str],
        metrics: Metrics,
        *,
        allow_http: bool,
        max_bytes: int,
        resolve: Resolver | None = None,
        transport: Callable[[], httpx.AsyncBaseTransport] | None = None,
    ) -> None:
        self._hosts = frozenset(hosts)
        self._schemes = frozenset({"https", "http"} if allow_http else {"https"})
        self._max_bytes = max_bytes
        self._metrics = metrics
        self._resolve = resolve or _look_up
        self._transport = transport or _Transports()
        self._slots = asyncio.Semaphore(_MAX_PARALLEL)
        self._resolvers = DaemonPool(_MAX_PARALLEL, "resolve")

    @property
    def max_urls(self) -> int:
        """How many addresses a request may hold; 0 when none are fetched."""
        return MAX_URLS if self._hosts else 0

    async def fetch(self, address: ImageAddress, context: RequestContext) -> bytes:
        """The bytes at one address; see ``fill_in``."""
        (data,) = await self.fill_in([address], context)
        assert isinstance(data, bytes)
        return data

    async def fill_in(self, inputs: Sequence[str | bytes | ImageAddress], context: RequestContext) -> list[str | bytes]:
        """The inputs in order with fetched bytes in place of addresses.

        Raises UrlNotAllowed, UrlFailed, ImageTooLarge, BodyTooLarge, Overloaded or DeadlineExceeded: the first one's.
        Nothing is sent before every address of the request has passed the grammar and the list of hosts.
        """
        places = [place for place, one in enumerate(inputs) if isinstance(one, ImageAddress)]
        if not places:
            return [one for one in inputs if not isinstance(one, ImageAddress)]
        if self._hosts and len(places) > MAX_URLS:
            raise UrlNotAllowed(
                f"The request holds more than {MAX_URLS} addresses of pictures; send fewer at once, or the bytes.",
                limit_urls=MAX_URLS,
            )
        targets = {}
        for place in places:
            with naming_input(place, len(inputs)):
                targets[place] = self._checked(inputs[place])
        with context.stage("fetch"):
            fetched = await self._fetch_all(targets, len(inputs), context)
        return [fetched[place] if isinstance(one, ImageAddress) else one for place, one in enumerate(inputs)]

    def close(self) -> None:
        """End the threads that look up names; a look-up that hangs is left behind."""
        self._resolvers.shutdown()

    # Parts

    def _checked(self, one: str | bytes | ImageAddress) -> _Target:
        assert isinstance(one, ImageAddress)
        try:
            return self._target(one.url)
        except UrlNotAllowed:
            self._count("not_allowed")
            raise

    def _target(self, url: str) -> _Target:
        if not self._hosts:
            raise UrlNotAllowed("Pictures are not fetched from addresses here; send the bytes in base64.")
        found = _URL.fullmatch(url) if len(url) <= _MAX_URL_CHARS else None
        if found is None:
            raise UrlNotAllowed(
                f"The address of the picture is not plain enough; write https://host/path in ASCII, up to "
                f"{_MAX_URL_CHARS} characters, without user, fragment, backslash or numbers for the host."
            )
        scheme, host = found["scheme"].lower(), found["host"].lower()
        port = _PORTS[scheme]
        if scheme not in self._schemes:
            raise UrlNotAllowed("Pictures are fetched over https only; use an https address or send the bytes.")
        if found["port"] is not None and int(found["port"]) != port:
            raise UrlNotAllowed(f"Pictures are fetched from port {port} only; leave the port out or send the bytes.")
        if host not in self._hosts:
            raise UrlNotAllowed("Pictures are not fetched from this host; use an allowed one or send the bytes.")
        path = found["target"]
        return _Target(scheme, host, port, path if path.startswith("/") else "/" + path)

    async def _fetch_all(
        self, targets: dict[int, _Target], num_inputs: int, context: RequestContext
    ) -> dict[int, bytes]:
        async def fetch(place: int) -> bytes:
            with naming_input(place, num_inputs):
                return await self._fetch(targets[place], context)

        try:
            async with asyncio.timeout_at(context.deadline), asyncio.TaskGroup() as group:
                tasks = {place: group.create_task(fetch(place)) for place in targets}
        except TimeoutError:
            raise deadline_exceeded() from None
        except BaseExceptionGroup as failures:
            raise failures.exceptions[0] from None
        return {place: task.result() for place, task in tasks.items()}

    async def _fetch(self, target: _Target, context: RequestContext) -> bytes:
        outcome = "cancelled"
        try:
            async with self._slots:
                try:
                    async with asyncio.timeout(_TOTAL_SECONDS):
                        data = await self._ask(target, await self._addresses(target), context)
                except (TimeoutError, httpx.HTTPError, OSError) as error:
                    raise UrlFailed(_FAILED) from error
            outcome = "ok"
            return data
        except SightlineError as error:
            outcome = _OUTCOMES.get(type(error), "refused")
            raise
        finally:
            self._count(outcome)

    async def _addresses(self, target: _Target) -> list[str]:
        """Every address of the name, looked up once; all of them public."""
        loop = asyncio.get_running_loop()
        found = await loop.run_in_executor(self._resolvers, self._resolve, target.host, target.port)
        if not found:
            raise UrlFailed(_FAILED)
        for one in found:
            try:
                public = is_public(parse_address(one))
            except ValueError:
                public = False
            if not public:
                raise UrlNotAllowed("Pictures are not fetched from this host; use an allowed one or send the bytes.")
        return list(dict.fromkeys(found))

    async def _ask(self, target: _Target, addresses: Sequence[str], context: RequestContext) -> bytes:
        """Ask the first address that takes the connection."""
        for position, address in enumerate(addresses):
            async with self._transport() as transport:
                try:
                    response = await transport.handle_async_request(_request(target, address))
                except (httpx.ConnectError, httpx.ConnectTimeout):
                    if position + 1 == len(addresses):
                        raise
                    continue
                try:
                    return await self._read(response, context)
                finally:
                    await response.aclose()
        raise UrlFailed(_FAILED)

    async def _read(self, response: httpx.Response, context: RequestContext) -> bytes:
        if response.status_code != 200 or response.headers.get("content-encoding", "identity").lower() != "identity":
            raise UrlFailed(_FAILED)
        self._check_size(int(length) if (length := response.headers.get("content-length", "0")).isdigit() else 0)
        parts, size = [], 0
        assert isinstance(response.stream, httpx.AsyncByteStream)
        async for part in response.stream:
            size += len(part)
            self._check_size(size)
            context.count_bytes(len(part))
            parts.append(part)
        return b"".join(parts)

    def _check_size(self, size: int) -> None:
        if size > self._max_bytes:
            raise ImageTooLarge(
                f"The picture at the address is larger than the limit of {self._max_bytes:,} bytes; use a smaller one.",
                limit_bytes=self._max_bytes,
            )

    def _count(self, outcome: str) -> None:
        self._metrics.url_fetches.labels(outcome).inc()


class _Transports:
    """A fresh connection for each fetch: one that was checked for a name is never used for another.

    No look at the environment: neither its proxies nor its certificates.
    """

    def __init__(self) -> None:
        self._context: ssl.SSLContext | None = None

    def __call__(self) -> httpx.AsyncBaseTransport:
        if self._context is None:
            self._context = httpx.create_ssl_context(trust_env=False)
        return httpx.AsyncHTTPTransport(verify=self._context, trust_env=False, retries=0)


def _request(target: _Target, address: str) -> httpx.Request:
    """A request to the address itself that names the host in ``Host``, SNI and the check of the certificate."""
    return httpx.Request(
        "GET",
        httpx.URL(scheme=target.scheme, host=address, port=target.port, raw_path=target.path.encode("ascii")),
        headers={
            "Host": target.host, "User-Agent": "sightline", "Accept": "image/*", "Accept-Encoding": "identity",
            "Connection": "close",
        },
        extensions={
            "sni_hostname": target.host,
            "timeout": dict.fromkeys(("read", "write", "pool"), _TOTAL_SECONDS) | {"connect": _CONNECT_SECONDS},
        },
    )  # fmt: skip


def _look_up(host: str, port: int) -> list[str]:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG)
    return [str(entry[4][0]) for entry in found]
