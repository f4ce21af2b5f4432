"""The generators against a small server: schedules, counting, damaged pictures, broken connections."""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from benchmarks.serving.connection import parse_head, unchunk
from benchmarks.serving.load import Recorded, Target, closed_loop, open_loop, schedule
from benchmarks.serving.pictures import Pool, open_pool
from benchmarks.serving.requests import INFINITY, Prepared, prepare
from benchmarks.serving.summary import LOST, UNANSWERED
from sightline.images import ImageLimits, decode_image

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
BUSY = b"HTTP/1.1 429 Too Many Requests\r\nRetry-After: 3\r\nContent-Length: 0\r\n\r\n"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"
CLOSING = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok"
HANG, BREAK = b"hang", b"break"


def test_constant_arrivals_are_evenly_spaced() -> None:
    assert list(schedule(4, 1.0, "constant")) == [0, 0.25, 0.5, 0.75]


def test_poisson_arrivals_have_the_rate_and_are_repeatable() -> None:
    dues = list(schedule(50, 100.0, "poisson", seed=3))
    assert dues == list(schedule(50, 100.0, "poisson", seed=3)) != list(schedule(50, 100.0, "poisson", seed=4))
    assert dues == sorted(dues) and dues[0] > 0 and dues[-1] < 100
    assert len(dues) == pytest.approx(5000, rel=0.05)


def test_a_rate_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="rate"):
        next(schedule(0, 1, "constant"))


def test_heads_and_chunks_are_read() -> None:
    assert parse_head(BUSY.removesuffix(b"\r\n\r\n")) == (429, 0, "3", True)
    assert parse_head(b"HTTP/1.1 200 OK\r\nconnection: Close\r\ntransfer-encoding: chunked") == (200, -1, None, False)
    assert unchunk(b"3\r\nabc\r\n1;x=y\r\nd\r\n0\r\n\r\n") == b"abcd"
    assert unchunk(b"3\r\nab") is None


def under(answers: list[bytes], load: Callable[[int], Awaitable[Recorded]]) -> Recorded:
    """Run a load against a server that gives the answers in turn."""

    async def run() -> Recorded:
        turn = itertools.cycle(answers)

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                while await reader.readuntil(b"\r\n\r\n"):
                    answer = next(turn)
                    if answer == HANG:
                        await asyncio.sleep(60)
                    if answer == BREAK:
                        break
                    writer.write(answer)
                    if answer == CLOSING:
                        break
            except (asyncio.IncompleteReadError, ConnectionError):
                pass
            finally:
                writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        recorded = await load(port)
        server.close()
        return recorded

    return asyncio.run(run())


def target(port: int) -> Target:
    return Target("127.0.0.1", port, [Prepared(b"GET / HTTP/1.1\r\n\r\n"), Prepared(b"GET /x HTTP/1.1\r\n\r\n", False)])


def test_a_closed_loop_keeps_its_clients_busy() -> None:
    recorded = under([OK, CHUNKED, BUSY], lambda port: closed_loop(target(port), 3, 0.2))
    assert {sample.status for sample in recorded.samples} == {200, 429}
    assert {sample.retry_after for sample in recorded.samples if sample.status == 429} == {"3"}
    assert {sample.num_bytes for sample in recorded.samples if sample.status == 200} == {2}
    assert {sample.healthy for sample in recorded.samples} == {True, False}
    assert recorded.num_connections == 3


def test_a_closed_loop_counts_what_was_never_answered() -> None:
    recorded = under([OK, HANG], lambda port: closed_loop(target(port), 1, 0.1, drain_seconds=0.1))
    assert [sample.status for sample in recorded.samples] == [200, UNANSWERED]


def test_an_open_loop_sends_what_is_due_and_reuses_connections() -> None:
    recorded = under([OK], lambda port: open_loop(target(port), 50, 0.2, arrivals="constant"))
    assert len(recorded.samples) == 10
    assert all(sample.due <= sample.sent <= sample.done for sample in recorded.samples)
    assert 1 <= recorded.num_connections <= 10


def test_an_open_loop_does_not_wait_for_a_server_that_hangs() -> None:
    """Coordinated omission: the requests behind a hanging one are sent all the same, and it is counted."""
    recorded = under(
        [HANG, OK, OK], lambda port: open_loop(target(port), 30, 0.2, arrivals="constant", drain_seconds=0.25)
    )
    statuses = [sample.status for sample in recorded.samples]
    assert statuses.count(UNANSWERED) == 2
    assert statuses.count(200) == 4


def test_broken_connections_are_counted_and_replaced() -> None:
    recorded = under([CLOSING, OK, BREAK], lambda port: closed_loop(target(port), 1, 0.3))
    statuses = {sample.status for sample in recorded.samples}
    assert statuses == {200, LOST}
    refused = asyncio.run(open_loop(Target("127.0.0.1", 1, [Prepared(b"GET / HTTP/1.1\r\n\r\n")]), 50, 0.1))
    assert {sample.status for sample in refused.samples} == {LOST}


def test_damaged_pictures_are_an_exact_share_in_a_fixed_place() -> None:
    pool = Pool(tuple(bytes([n % 256]) * 40 for n in range(500)), ("a dog",), "drawn")
    prepared = prepare("image-to-image", pool, "h", 1, corrupt=0.01)
    damaged = [place for place, request in enumerate(prepared) if not request.healthy]
    assert damaged == [99, 199, 299, 399, 499]
    assert len(prepared[99].wire) == len(prepared[98].wire) - 20
    assert all(request.healthy for request in prepare("openai-image", pool, "h", 1))


def test_no_two_requests_carry_the_same_picture(tmp_path: Path) -> None:
    """Neither raw nor in base64; the pixels stay the same."""
    pool = open_pool(tmp_path, None, 2)
    pixels = decode_image(pool.pictures[0], ImageLimits()).tobytes()
    for shape in ("image-to-image", "openai-image"):
        asked = Target("h", 1, prepare(shape, pool, "h", 1), first=10)
        wires = [wire for _, wire in itertools.islice(asked.pool(), 6)]
        assert len(set(wires)) == 6
        assert len({len(wire) for wire in wires[::2]}) == 1
        body = wires[2].split(b"\r\n\r\n", 1)[1]
        if shape == "openai-image":
            body = base64.b64decode(json.loads(body)["input"][0].partition(",")[2], validate=True)
        assert body not in pool.pictures
        assert decode_image(body, ImageLimits()).tobytes() == pixels


def test_both_servers_get_the_same_picture_in_their_own_dialect() -> None:
    pool = Pool((b"\xff\xd8picture",), ("a dog",), "drawn")
    ours = prepare("openai-image", pool, "h", 1)[0].wire
    theirs = prepare("openai-image", pool, "h", 1, INFINITY)[0].wire
    assert ours.startswith(b"POST /v1/embeddings ") and theirs.startswith(b"POST /embeddings ")
    assert b'"modality": "image"' in theirs
    assert theirs.split(b"\r\n\r\n")[1].startswith(ours.split(b"\r\n\r\n")[1].removesuffix(b"}"))
    head, body = ours.split(b"\r\n\r\n")
    assert f"Content-Length: {len(body)}".encode() in head
