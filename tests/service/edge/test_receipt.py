"""What a connection may hold and for how long, over real sockets with short deadlines (B18, B19)."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from service.edge import intake, receipt
from tests.fakes import FakeEncoder
from tests.service.conftest import MakeService, Service
from tests.service.edge.test_middleware import WAIT_SECONDS, Gate
from tests.service.edge.wire import Client
from tests.service.test_server import Live

GET = b"GET /v1/limits HTTP/1.1\r\nHost: test\r\n\r\n"
POST = b"POST /v1/text-to-image HTTP/1.1\r\nHost: test\r\nContent-Type: application/json\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n"
BODY = b'{"text": "red"}'

MakeLive = Callable[..., Live]


@pytest.fixture
def make_live(make_service: MakeService) -> Iterator[MakeLive]:
    started: list[Live] = []

    def make(**settings: Any) -> Live:
        started.append(Live(make_service(drain_delay_seconds=0.0, **settings)))
        return started[-1]

    yield make
    for one in started:
        one.stop()


def wait_for(live: Live, *, num_open: int) -> None:
    for _ in range(2000):
        if live.service.metric("sightline_open_connections") == num_open:
            return
        threading.Event().wait(0.005)
    raise AssertionError(f"there never were {num_open} open connections")


def cut(live: Live, reason: str) -> float:
    return live.service.metric("sightline_connections_cut_total", reason=reason)


# Headers


def test_a_connection_that_says_nothing_is_closed(make_live: MakeLive) -> None:
    live = make_live(header_timeout_seconds=0.05)
    assert Client(live).ended()
    assert cut(live, "header_timeout") == 1


@pytest.mark.parametrize("before", [b"", GET], ids=["first request", "next request"])
def test_headers_that_do_not_end_are_cut(make_live: MakeLive, before: bytes) -> None:
    live = make_live(header_timeout_seconds=0.1)
    client = Client(live)
    if before:
        client.send(before)
        assert client.answer().status == 200
    done = threading.Event()

    def trickle() -> None:
        client.send(GET[:10])
        while not done.wait(0.01):
            client.send(b"x")

    thread = threading.Thread(target=trickle)
    thread.start()
    answer = client.answer()
    assert (answer.status, answer.code, answer.headers["connection"]) == (408, "body_too_slow", "close")
    assert client.ended()
    done.set()
    thread.join()
    assert cut(live, "header_timeout") == 1


def test_an_idle_connection_outlives_the_header_deadline_and_ends(
    make_live: MakeLive, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(receipt, "KEEP_ALIVE_SECONDS", 0.25)
    live = make_live(header_timeout_seconds=0.05)
    client = Client(live)
    client.send(GET)
    assert client.answer().status == 200
    threading.Event().wait(0.15)
    client.send(GET)
    assert client.answer().status == 200
    assert client.ended()
    assert cut(live, "header_timeout") == 0


def test_pipelined_requests_are_answered_in_order(make_live: MakeLive) -> None:
    live = make_live(header_timeout_seconds=0.1)
    client = Client(live)
    client.send(GET + POST + b"Content-Length: 15\r\n\r\n" + BODY + GET[:-2])
    assert b"max_k" in client.answer().body
    assert b"results" in client.answer().body
    assert client.answer().status == 408


def test_a_slow_answer_is_not_cut(make_service: MakeService) -> None:
    gate = Gate()
    live = Live(make_service(encoder=FakeEncoder(before_encode=gate), header_timeout_seconds=0.05))
    gate.close()
    try:
        client = Client(live)
        client.send(POST + b"Content-Length: 15\r\n\r\n" + BODY)
        assert gate.entered.acquire(timeout=WAIT_SECONDS)
        threading.Event().wait(0.2)
        gate.opened.set()
        assert client.answer().status == 200
    finally:
        gate.opened.set()
        live.stop()


def test_headers_are_bounded_however_they_arrive(make_live: MakeLive, service: Service) -> None:
    """B18: a 200 KB header, in one piece and in many."""
    live = make_live()
    for many in (False, True):
        client = Client(live)
        pieces = [b"GET / HTTP/1.1\r\nHost: test\r\nX: ", *[b"x" * 2000] * 100, b"\r\n\r\n"]
        for piece in pieces if many else [b"".join(pieces)]:
            client.send(piece)
        answer = client.answer()
        assert (answer.status, answer.code) == (431, "headers_too_large")
        assert json.loads(answer.body)["limit_bytes"] == 32_768
    whole = service.get("/v1/limits", headers={"x": "x" * 200_000})
    assert (whole.status_code, whole.json()["code"]) == (431, "headers_too_large")
    query = service.get("/v1/limits?" + "x" * 40_000)
    assert query.status_code == 431


# Bodies


@pytest.fixture
def quick_linger(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(receipt, "_LINGER_SECONDS", 0.1)


@pytest.mark.usefixtures("quick_linger")
def test_a_body_that_stops_is_a_408_and_the_end(make_live: MakeLive) -> None:
    """B18, B19: a Content-Length that promises more than comes."""
    live = make_live(receive_timeout_seconds=0.1)
    client = Client(live)
    client.send(POST + b"Content-Length: 100\r\n\r\n" + BODY)
    answer = client.answer()
    assert (answer.status, answer.code) == (408, "body_too_slow")
    assert client.ended()
    assert cut(live, "unfinished_body") == 1


@pytest.mark.usefixtures("quick_linger")
def test_a_body_below_the_slowest_rate_is_a_408_long_before_the_deadline(
    make_live: MakeLive, monkeypatch: pytest.MonkeyPatch
) -> None:
    """B19: a byte now and then."""
    monkeypatch.setattr(intake, "_SLOW_START_SECONDS", 0.1)
    live = make_live(receive_timeout_seconds=500, min_receive_bytes_per_second=1000)
    client = Client(live)
    client.send(POST + b"Content-Length: 100000\r\n\r\n")
    done = threading.Event()

    def trickle() -> None:
        while not done.wait(0.02):
            client.send(b"x")

    thread = threading.Thread(target=trickle)
    thread.start()
    assert client.answer().status == 408
    assert client.ended()
    done.set()
    thread.join()


def test_a_body_that_keeps_up_is_taken(make_live: MakeLive, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intake, "_SLOW_START_SECONDS", 0.1)
    live = make_live(min_receive_bytes_per_second=1000)
    client = Client(live)
    body = BODY + b" " * 985
    client.send(POST + b"Content-Length: 1000\r\n\r\n")
    for start in range(0, 1000, 200):
        client.send(body[start : start + 200])
        threading.Event().wait(0.05)
    assert client.answer().status == 200


@pytest.mark.usefixtures("quick_linger")
@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"POST /v1/image-to-image HTTP/1.1\r\nHost: t\r\nContent-Length: 10000000\r\n\r\n", 413),
        (b"POST /v1/nothing HTTP/1.1\r\nHost: t\r\n" + CHUNKED, 404),
    ],
)
def test_an_answer_before_the_bodys_end_arrives_and_the_connection_ends(
    make_live: MakeLive, head: bytes, status: int
) -> None:
    """The rest is read and dropped for a moment: closing at once would reset the connection and lose the answer."""
    live = make_live(max_body_bytes=1_000_000)
    client = Client(live)
    client.send(head)
    client.send(b"1000\r\n" + b"x" * 0x1000 + b"\r\n" if b"chunked" in head else b"x" * 2_000_000)
    assert client.answer().status == status
    assert client.ended()
    assert cut(live, "unfinished_body") == 1


def test_a_connection_whose_dropped_body_ends_is_used_again(make_live: MakeLive) -> None:
    live = make_live(max_body_bytes=1024)
    client = Client(live)
    client.send(POST + b"Content-Length: 2000\r\n\r\n")
    assert client.answer().status == 413
    client.send(b"x" * 2000 + GET)
    assert client.answer().status == 200


def test_a_chunked_body_without_end_is_refused_by_its_size(make_live: MakeLive) -> None:
    live = make_live(max_body_bytes=100_000)
    client = Client(live)
    client.send(POST + CHUNKED)
    for _ in range(30):
        client.send(b"1000\r\n" + b"x" * 0x1000 + b"\r\n")
    assert client.answer().status == 413


@pytest.mark.parametrize(
    ("request_bytes", "code"),
    [
        (POST + b"Content-Length: -1\r\n\r\n" + BODY, "malformed_body"),
        (POST + b"Content-Length: 15, 16\r\n\r\n" + BODY, "malformed_body"),
        (POST + b"Content-Length: 15\r\nContent-Length: 16\r\n\r\n" + BODY, "malformed_body"),
        (POST + b"Content-Length: 0x10\r\n\r\n" + BODY, "malformed_body"),
        (POST + b"Content-Length: 15\r\n" + CHUNKED + b"0\r\n\r\n", "ambiguous_length"),
        (POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n", "malformed_body"),
        (POST + CHUNKED + b"nonsense\r\n", "malformed_body"),
        (POST + CHUNKED + b"-5\r\nabcde\r\n", "malformed_body"),
        (POST + CHUNKED + b"f" * 21 + b"\r\n", "malformed_body"),
        (b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", "malformed_body"),
        (b"GET / HTTP/1.1\r\n\r\n", "malformed_body"),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX : y\r\n\r\n", "malformed_body"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01", "malformed_body"),  # TLS
        (b"\r\n\r\n\r\n", "malformed_body"),
    ],
)
def test_what_is_no_http_is_a_400_and_the_end(
    make_live: MakeLive, request_bytes: bytes, code: str, caplog: pytest.LogCaptureFixture
) -> None:
    """B18: a negative or doubled length, two lengths, broken chunks."""
    client = Client(make_live())
    client.send(request_bytes)
    answer = client.answer()
    assert (answer.status, answer.code) == (400, code)
    assert answer.headers["connection"] == "close"
    assert client.ended()
    assert "Traceback" not in caplog.text


def test_bytes_after_a_request_are_never_part_of_it(make_live: MakeLive) -> None:
    """B18: a Content-Length that promises less than comes."""
    client = Client(make_live())
    client.send(POST + b"Content-Length: 15\r\n\r\n" + BODY + b'{"text": "blue"}\r\n\r\n')
    assert client.answer().status == 200
    assert client.answer().status == 400
    assert client.ended()


# Many connections


def test_a_new_connection_takes_the_place_of_the_longest_idle(make_live: MakeLive) -> None:
    """R7: whoever holds every connection cannot shut out the probes."""
    live = make_live(max_connections=3, max_inflight_requests=2)
    used, silent, half = Client(live), Client(live), Client(live)
    half.send(GET[:10])
    wait_for(live, num_open=3)
    used.send(GET)
    used.answer()  # so that the silent one is the longest without a request
    for _ in range(2):
        with httpx.Client(base_url=live.url) as probe:
            assert probe.get("/livez").status_code == 200
        wait_for(live, num_open=2)
    assert silent.ended()
    used.send(GET)
    assert used.answer().status == 200
    assert cut(live, "displaced") == 1


def test_a_connection_at_work_is_never_displaced(make_service: MakeService) -> None:
    gate = Gate()
    live = Live(make_service(encoder=FakeEncoder(before_encode=gate), max_connections=2, max_inflight_requests=1))
    gate.close()
    try:
        working = Client(live)
        working.send(POST + b"Content-Length: 15\r\n\r\n" + BODY)
        assert gate.entered.acquire(timeout=WAIT_SECONDS)
        idle = [Client(live) for _ in range(5)]
        assert all(one.ended() for one in idle[:-1])
        assert cut(live, "displaced") == 4
        gate.opened.set()
        assert working.answer().status == 200
    finally:
        gate.opened.set()
        live.stop()


def test_slow_bodies_hold_neither_the_places_nor_the_connections(make_live: MakeLive) -> None:
    """R7, B19: more of them than requests may be worked on, then more than connections may be open."""
    live = make_live(max_connections=4, max_inflight_requests=2)
    slow = [Client(live) for _ in range(3)]
    for client in slow:
        client.send(POST + b"Content-Length: 15\r\n\r\n" + BODY[:-1])
    while live.service.metric("sightline_buffered_body_bytes") < 3 * 14:
        threading.Event().wait(0.005)
    with httpx.Client(base_url=live.url) as other:
        assert other.post("/v1/text-to-image", json={"text": "red"}).status_code == 200
        wait_for(live, num_open=4)
        assert httpx.get(f"{live.url}/livez").status_code == 200
    slow[-1].send(BODY[-1:])
    assert slow[-1].answer().status == 200
    slow += [Client(live) for _ in range(2)]
    for client in slow[-2:]:
        client.send(POST + b"Content-Length: 15\r\n\r\n" + BODY[:-1])
    for _ in range(3):
        assert httpx.get(f"{live.url}/readyz").status_code == 200


def test_connections_are_counted_to_their_end(make_live: MakeLive) -> None:
    live = make_live()
    clients = [Client(live) for _ in range(5)]
    for client in clients:
        client.send(GET)
        client.answer()
    assert live.service.metric("sightline_open_connections") == 5
    for client in clients:
        client.socket.close()
    wait_for(live, num_open=0)
