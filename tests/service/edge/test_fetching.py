"""B22: pictures by address. What is refused sends no packet; what is asked is asked narrowly and not for long."""

from __future__ import annotations

import asyncio
import gzip
import shutil
import ssl
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from service.edge import fetching
from service.edge.fetching import Fetcher, ImageAddress
from service.edge.problems import BodyTooLarge, UrlFailed, UrlNotAllowed
from service.metrics import Metrics
from sightline.errors import DeadlineExceeded, ImageTooLarge
from tests.service.edge.internet import (
    HOST,
    NOT_LISTED,
    NOT_PLAIN,
    OTHER_PUBLIC,
    PICTURE,
    PUBLIC,
    Handler,
    Local,
    MakeLocal,
    Names,
    answering,
    context,
    fetcher,
    saying,
)  # fmt: skip


def fetch_from(handler: Handler, url: str = f"http://{HOST}/a.png", **options: Any) -> tuple[bytes, Local]:
    """Fetch once from a server on this machine; its connections are not counted as anybody else's."""

    async def scenario() -> tuple[bytes, Local]:
        async with answering(handler) as port:
            local = Local(port, dead=options.pop("dead", ()))
            made = fetcher(transport=local, **options)
            data = await made.fetch(ImageAddress(url), context())
            made.close()
            return data, local

    return asyncio.run(scenario())


# What is refused before anything is sent


@pytest.mark.parametrize("url", NOT_PLAIN + NOT_LISTED)
def test_an_address_that_is_refused_is_not_even_looked_up(url: str) -> None:
    """B22"""
    names = Names([PUBLIC])
    with pytest.raises(UrlNotAllowed):
        asyncio.run(fetcher(names=names).fetch(ImageAddress(url), context()))
    assert names.asked == []


def test_no_packet_reaches_a_listener_on_this_machine() -> None:
    """B22, with the real transport and the real resolver behind it."""
    calls = 0

    async def count(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal calls
        calls += 1
        writer.close()

    async def scenario() -> None:
        server = await asyncio.start_server(count, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        made = Fetcher((HOST, "localhost"), Metrics("0"), allow_http=True, max_bytes=1000)
        for url in (
            f"http://127.0.0.1:{port}/", f"http://localhost:{port}/", f"http://{HOST}\\@127.0.0.1:{port}/",
            f"http://{HOST}#@127.0.0.1:{port}/", f"http://{HOST}:80@127.0.0.1:{port}/", f"http://127.1:{port}/",
            f"http://2130706433:{port}/", f"http://0x7f000001:{port}/", f"http://[::ffff:127.0.0.1]:{port}/",
            "http://localhost/",  # listed, and still not public
        ):  # fmt: skip
            with pytest.raises(UrlNotAllowed):
                await made.fetch(ImageAddress(url), context())
        made.close()
        server.close()
        await server.wait_closed()

    asyncio.run(scenario())
    assert calls == 0


@pytest.mark.parametrize(
    "answer",
    [
        [PUBLIC, "10.0.0.1"],
        ["127.0.0.1"],
        ["64:ff9b::a9fe:a9fe"],
        [OTHER_PUBLIC, PUBLIC, "::1"],
        ["fe80::1%eth0"],
        ["?"],
    ],
)
def test_every_address_of_a_name_must_be_public(answer: list[str]) -> None:
    """B22: a name with two A records, one of them private."""
    with pytest.raises(UrlNotAllowed):
        asyncio.run(fetcher(names=Names(answer)).fetch(ImageAddress(f"https://{HOST}/"), context()))


def test_plain_http_is_refused_unless_it_is_allowed() -> None:
    with pytest.raises(UrlNotAllowed, match="https only"):
        asyncio.run(fetcher(http=False).fetch(ImageAddress(f"http://{HOST}/"), context()))


def test_nothing_is_sent_when_one_of_several_addresses_is_refused() -> None:
    names = Names([PUBLIC])
    inputs: list[str | bytes | ImageAddress] = ["a text"]
    inputs += [ImageAddress(f"https://{HOST}/a"), ImageAddress("https://127.0.0.1/")]
    with pytest.raises(UrlNotAllowed) as refused:
        asyncio.run(fetcher(names=names).fill_in(inputs, context()))
    assert refused.value.details == {"input": 2}
    assert names.asked == []


def test_too_many_addresses_in_one_request_are_refused() -> None:
    inputs = [ImageAddress(f"https://{HOST}/{number}") for number in range(fetching.MAX_URLS + 1)]
    with pytest.raises(UrlNotAllowed, match="16"):
        asyncio.run(fetcher().fill_in(inputs, context()))


# How it is asked


def test_the_connection_goes_to_the_address_that_was_checked() -> None:
    """B22: a name that changes between look-ups is looked up once."""
    names = Names([PUBLIC], ["127.0.0.1"])
    data, local = fetch_from(saying("200 OK", PICTURE), url=f"http://{HOST.upper()}/a.png?b=%2f", names=names)
    assert data == PICTURE
    assert names.asked == [(HOST, 80)]
    (request,) = local.asked
    assert request.url.host == PUBLIC
    assert request.url.raw_path == b"/a.png?b=%2f"
    assert request.headers["host"] == HOST
    assert request.headers["accept-encoding"] == "identity"
    assert request.extensions["sni_hostname"] == HOST
    assert not {"cookie", "authorization", "referer"} & set(request.headers)


def test_the_next_address_is_asked_when_one_does_not_answer() -> None:
    names = Names([OTHER_PUBLIC, PUBLIC])
    data, local = fetch_from(saying("200 OK", PICTURE), names=names, dead=(OTHER_PUBLIC,))
    assert data == PICTURE
    assert [request.url.host for request in local.asked] == [OTHER_PUBLIC, PUBLIC]


def test_proxies_of_the_environment_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:1")
    data, _ = fetch_from(saying("200 OK", PICTURE))
    assert data == PICTURE


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the test's certificate")
def test_the_certificate_must_be_the_names(tmp_path: Path) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
         "-keyout", key, "-out", certificate, "-subj", f"/CN={HOST}", "-addext", f"subjectAltName=DNS:{HOST}"],
        check=True, capture_output=True,
    )  # fmt: skip
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(certificate, key)
    asked_for: list[str | None] = []
    server.sni_callback = lambda connection, name, tls: asked_for.append(name)
    trusting = ssl.create_default_context(cafile=str(certificate))

    async def scenario(host: str) -> bytes:
        async with answering(saying("200 OK", PICTURE), server) as port:
            made = Fetcher(
                (host,), Metrics("0"), allow_http=False, max_bytes=10_000,
                resolve=Names([PUBLIC]), transport=Local(port, verify=trusting),
            )  # fmt: skip
            return await made.fetch(ImageAddress(f"https://{host}/"), context())

    assert asyncio.run(scenario(HOST)) == PICTURE
    with pytest.raises(UrlFailed):
        asyncio.run(scenario("other.example"))
    assert asked_for == [HOST, "other.example"]


# What comes back


async def endless(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
    while True:
        writer.write(b"x" * 4096)
        await writer.drain()


async def trickle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
    while True:
        writer.write(b"x")
        await writer.drain()
        await asyncio.sleep(0.02)


async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read()


async def endless_head(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\n")
    while True:
        writer.write(b"X-More: " + b"x" * 4096 + b"\r\n")
        await writer.drain()


@pytest.mark.parametrize(
    "head",
    [
        "302 Found\r\nLocation: http://169.254.169.254/latest/meta-data/", "301 Moved\r\nLocation: /b",
        "204 No Content", "404 Not Found", "500 Oops", "206 Partial Content", "200 OK\r\nContent-Encoding: gzip",
        "200 OK\r\nContent-Encoding: br", "nonsense",
    ],
)  # fmt: skip
def test_anything_but_the_picture_itself_is_one_and_the_same_failure(head: str) -> None:
    """B22: 302 → metadata, a gzip bomb. The caller cannot tell from our answer what listens there."""
    body = b"" if head.startswith("204") else gzip.compress(b"secret" + bytes(1000))
    with pytest.raises(UrlFailed) as failed:
        fetch_from(saying(head, body))
    assert failed.value.message == fetching._FAILED
    assert failed.value.details == {}


@pytest.mark.parametrize("handler", [endless, saying("200 OK", bytes(10_001))], ids=["endless", "declared"])
def test_a_body_over_the_limit_ends_at_the_limit(handler: Handler) -> None:
    """B22: endless body."""
    with pytest.raises(ImageTooLarge):
        fetch_from(handler)


@pytest.mark.parametrize("handler", [trickle, silent, endless_head], ids=["trickle", "silent", "head"])
def test_a_server_that_takes_its_time_is_left(handler: Handler, monkeypatch: pytest.MonkeyPatch) -> None:
    """B22: 1 byte/s body. Each byte in time does not help: the whole is timed."""
    monkeypatch.setattr(fetching, "_TOTAL_SECONDS", 0.15)
    with pytest.raises(UrlFailed):
        fetch_from(handler)


def test_a_look_up_that_hangs_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetching, "_TOTAL_SECONDS", 0.1)

    class Slow(Names):
        def __call__(self, host: str, port: int) -> list[str]:
            time.sleep(0.3)
            return super().__call__(host, port)

    with pytest.raises(UrlFailed):
        asyncio.run(fetcher(names=Slow([PUBLIC])).fetch(ImageAddress(f"https://{HOST}/"), context()))


def test_a_name_that_does_not_exist_is_a_failure_and_no_traceback() -> None:
    class Nobody(Names):
        def __call__(self, host: str, port: int) -> list[str]:
            raise OSError(-2, "Name or service not known")

    with pytest.raises(UrlFailed):
        asyncio.run(fetcher(names=Nobody([])).fetch(ImageAddress(f"https://{HOST}/"), context()))


def test_the_requests_own_deadline_holds() -> None:
    async def scenario() -> None:
        async with answering(silent) as port:
            await fetcher(transport=Local(port)).fetch(ImageAddress(f"http://{HOST}/"), context(0.1))

    with pytest.raises(DeadlineExceeded):
        asyncio.run(scenario())


def test_what_is_fetched_counts_as_part_of_the_body() -> None:
    counted: list[int] = []

    def count(size: int) -> None:
        counted.append(size)
        if sum(counted) > 100:
            raise BodyTooLarge("The body is larger than the limit; send less.")

    async def scenario() -> None:
        async with answering(saying("200 OK", bytes(101))) as port:
            asked = context()
            asked.count_bytes = count
            await fetcher(transport=Local(port)).fetch(ImageAddress(f"http://{HOST}/"), asked)

    with pytest.raises(BodyTooLarge):
        asyncio.run(scenario())
    assert sum(counted) == 101


def test_only_a_few_are_asked_at_once_and_all_come_back_in_order() -> None:
    now, most = 0, 0

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal now, most
        now += 1
        most = max(most, now)
        await asyncio.sleep(0.02)
        now -= 1
        await saying("200 OK", PICTURE)(reader, writer)

    async def scenario() -> list[str | bytes]:
        async with answering(handler) as port:
            inputs: list[str | bytes | ImageAddress] = ["first"]
            inputs += [ImageAddress(f"http://{HOST}/{number}") for number in range(fetching.MAX_URLS)]
            return await fetcher(transport=MakeLocal(port)).fill_in([*inputs, b"last"], context())

    assert asyncio.run(scenario()) == ["first", *[PICTURE] * fetching.MAX_URLS, b"last"]
    assert most == fetching._MAX_PARALLEL


def test_outcomes_are_counted() -> None:
    metrics = Metrics("0")

    async def scenario() -> None:
        async with answering(saying("200 OK", PICTURE)) as port:
            made = Fetcher(
                (HOST,), metrics, allow_http=True, max_bytes=10_000, resolve=Names([PUBLIC], ["::1"]),
                transport=Local(port),
            )  # fmt: skip
            await made.fetch(ImageAddress(f"http://{HOST}/"), context())
            for url in (f"http://{HOST}/", "http://127.0.0.1/"):
                with pytest.raises(UrlNotAllowed):
                    await made.fetch(ImageAddress(url), context())

    asyncio.run(scenario())
    for outcome, number in (("ok", 1), ("not_allowed", 2)):
        assert metrics.registry.get_sample_value("sightline_url_fetches_total", {"outcome": outcome}) == number
