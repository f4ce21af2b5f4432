"""Who is turned away at the door, with what answer, and that nothing odd slips past the ordinary way."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from service.edge.door import Door
from service.edge.listener import bind
from service.metrics import Metrics
from service.server import DrainingServer
from sightline.errors import Overloaded
from tests.service.conftest import MakeService
from tests.service.edge.test_middleware import Gate, gated


def make_door(room: int, clock: Callable[[], float] = time.monotonic) -> Door:
    return Door(
        lambda units: units <= room, lambda: Overloaded("busy", retry_after_seconds=7), Metrics("0"),
        image_units=8, max_body_bytes=100_000, clock=clock,
    )  # fmt: skip


def request(path: str = "/v1/image-to-image", length: int = 50_000, extra: str = "", body: bytes = b"") -> bytes:
    return f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n{extra}\r\n".encode() + body


def test_with_room_everybody_gets_in() -> None:
    assert make_door(8).turn_away(request()) is None


def test_without_room_the_answer_comes_from_the_first_bytes() -> None:
    away = make_door(7).turn_away(request(extra="X-Request-ID: abc\r\n", body=b"12345"))
    assert away is not None
    head, body = away.answer.split(b"\r\n\r\n")
    assert away.bytes_to_drop == 50_000 - 5
    assert head.startswith(b"HTTP/1.1 429 ")
    assert b"retry-after: 7" in head
    assert b"x-request-id: abc" in head
    assert f"content-length: {len(body)}".encode() in head
    assert json.loads(body)["code"] == "overloaded"


def test_openais_route_has_openais_shape() -> None:
    away = make_door(0).turn_away(request("/v1/embeddings?x=1"))
    assert away is not None
    assert json.loads(away.answer.split(b"\r\n\r\n")[1])["error"]["type"] == "rate_limit_error"


def test_a_text_gets_in_where_a_picture_does_not() -> None:
    door = make_door(1)
    assert door.turn_away(request("/v1/text-to-image", length=40)) is None
    assert door.turn_away(request("/v1/image-to-image")) is not None


@pytest.mark.parametrize(
    "data",
    [
        request("/v1/limits"),
        request("/readyz"),
        request("/v1/admin/reload"),
        request().replace(b"POST", b"GET"),
        request(extra="Transfer-Encoding: chunked\r\n"),
        request(extra="Content-Length: 7\r\n"),
        request(extra="Content-Length : 7\r\n"),
        request(extra="x: y\ncontent-length: 7\r\n"),
        request(extra="Expect: 100-continue\r\n"),
        request(extra="Origin: https://a.example\r\n"),
        request(extra="Connection: close\r\n"),
        request(extra="X: a\r\n b\r\n"),
        request(length=200_000),
        request(length=3, body=b"123POST / HTTP/1.1\r\n\r\n"),
        request()[:-2],
        request().replace(b"50000", b"-1"),
        request().replace(b"50000", b"5e4"),
        b"",
        b"\r\n\r\n",
    ],
)
def test_anything_unusual_takes_the_ordinary_way(data: bytes) -> None:
    assert make_door(0).turn_away(data) is None


def test_who_is_on_the_way_to_the_queue_counts_as_if_there() -> None:
    door = make_door(16)
    coming = door.expect("/v1/image-to-image", {b"content-length": b"50000"})
    assert coming is not None
    assert door.turn_away(request()) is None
    door.expect("/v1/text-to-image", {b"content-length": b"30"})
    assert door.turn_away(request()) is not None
    coming.reached()
    coming.reached()
    assert door.turn_away(request()) is None
    assert door.turn_away(request()) is None  # asking counts nothing
    assert door.expect("/v1/limits", {}) is None


def test_slow_bodies_do_not_close_the_door() -> None:
    """B19: 500 clients that send a byte a second turned everybody else's searches away."""
    now = [0.0]
    door = make_door(16, lambda: now[0])
    slow = [door.expect("/v1/image-to-image", {b"content-length": b"50000"}) for _ in range(500)]
    quick = door.expect("/v1/image-to-image", {b"content-length": b"50000"})
    assert quick is not None
    quick.whole()
    assert door.turn_away(request()) is not None, "they may all be here in a millisecond"
    now[0] += 0.1
    assert door.turn_away(request()) is None
    assert door.expected_units == 8, "what has come stays counted until it is in the queue"
    for one in slow:
        assert one is not None
        one.whole()
    assert door.turn_away(request()) is not None
    for one in slow:
        assert one is not None
        one.reached()
    quick.reached()
    quick.whole()
    assert door.expected_units == 0


def asking(text: object) -> bytes:
    body = json.dumps({"text": text}).encode()
    return request("/v1/text-to-image", len(body), "Content-Type: application/json\r\n", body)


async def answer_of(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)
    length = next(int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
    return head, await asyncio.wait_for(reader.readexactly(length), 10)


@asynccontextmanager
async def full_server(make_service: MakeService) -> AsyncIterator[tuple[Gate, int]]:
    """A server whose queue has room for one picture, and holds one."""
    service, gate = gated(make_service, max_queue_units=64, max_queue_seconds=1e-6, drain_delay_seconds=0)
    service.engine.batcher._admission._least = 8
    listener = bind("127.0.0.1", 0)
    server = DrainingServer(service.engine, service.settings, service.app)
    task = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        while not server.started:
            await asyncio.sleep(0.01)
        yield gate, listener.getsockname()[1]
    finally:
        gate.opened.set()
        server.should_exit = True
        await task


def test_a_connection_that_was_turned_away_goes_on(make_service: MakeService) -> None:
    """The refused body is dropped, whole and in parts, and the next request on the connection is understood."""
    one = asking("red")
    eight = asking(["red", "green", "blue", "white", "black", "red 2", "green 2", "blue 2"])

    async def scenario() -> None:
        async with full_server(make_service) as (gate, port):
            first_reader, first = await asyncio.open_connection("127.0.0.1", port)
            first.write(eight)
            await gate.busy()
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            for cut in (200, 60_000):
                picture = request(length=70_000, body=(b"\r\n\r\nPOST / HTTP/1.1" * 4000)[:70_000])
                writer.write(picture[:cut])
                head, _ = await answer_of(reader)
                assert head.startswith(b"HTTP/1.1 429")
                writer.write(picture[cut:])
            gate.opened.set()
            assert (await answer_of(first_reader))[0].startswith(b"HTTP/1.1 200")
            writer.write(one)
            head, found = await answer_of(reader)
            assert head.startswith(b"HTTP/1.1 200")
            assert "results" in json.loads(found)
            first.close()
            writer.close()

    asyncio.run(scenario())
