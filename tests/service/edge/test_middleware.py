"""Limits, deadlines, request ids, and what happens when a client leaves."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.fakes import FakeEncoder, picture_bytes
from tests.service.conftest import MakeService, Service

GREEN = picture_bytes("green")
WAIT_SECONDS = 10.0


class Gate:
    """A fake encoder's hook that stops every batch after the warm-up until it is opened."""

    def __init__(self) -> None:
        self.opened = threading.Event()
        self.opened.set()
        self.entered = threading.Semaphore(0)
        self.batches: list[Any] = []

    def __call__(self, modality: str, batch: Any) -> None:
        self.entered.release()
        assert self.opened.wait(WAIT_SECONDS)
        self.batches.append(batch)

    def close(self) -> None:
        while self.entered.acquire(blocking=False):
            pass
        self.batches.clear()
        self.opened.clear()

    async def busy(self) -> None:
        assert await asyncio.to_thread(self.entered.acquire, timeout=WAIT_SECONDS)


def gated(make_service: MakeService, **settings: Any) -> tuple[Service, Gate]:
    gate = Gate()
    service = make_service(encoder=FakeEncoder(before_encode=gate), **settings)
    gate.close()
    return service, gate


@pytest.mark.parametrize("given", ["abc-123", "A.b:c_d"])
def test_a_request_id_is_kept(service: Service, given: str) -> None:
    assert service.get("/livez", headers={"x-request-id": given}).headers["x-request-id"] == given


@pytest.mark.parametrize("given", ["", "x" * 65, "a b", "a\tb", "ä"])
def test_a_request_id_that_could_hurt_a_log_is_replaced(service: Service, given: str) -> None:
    returned = service.get("/livez", headers={"x-request-id": given.encode()}).headers["x-request-id"]
    assert returned != given
    assert len(returned) == 16


def test_a_body_over_the_limit_is_refused_by_its_declared_length(make_service: MakeService) -> None:
    service = make_service(max_body_bytes=2000)

    async def never_read() -> AsyncIterator[bytes]:
        raise AssertionError("the body was read")
        yield b""

    response = service.post("/v1/image-to-image", content=never_read(), headers={"content-length": "2001"})
    assert (response.status_code, response.json()["code"]) == (413, "body_too_large")
    assert response.json()["limit_bytes"] == 2000


@pytest.mark.parametrize(
    "headers",
    [
        {"content-type": "image/png"},
        {"content-type": "application/json"},
        {"content-type": "multipart/form-data; boundary=x"},
    ],
)
def test_a_body_over_the_limit_is_refused_without_a_declared_length(
    make_service: MakeService, headers: dict[str, str]
) -> None:
    service = make_service(max_body_bytes=2000)
    sent = 0

    async def chunks() -> AsyncIterator[bytes]:
        nonlocal sent
        for _ in range(100):
            sent += 500
            yield b'--x\r\nContent-Disposition: form-data; name="image"; filename="x"\r\n\r\n' + b"x" * 500

    response = service.post("/v1/image-to-image", content=chunks(), headers=headers)
    assert (response.status_code, response.json()["code"]) == (413, "body_too_large")
    assert sent <= 2500
    assert service.metric("sightline_buffered_body_bytes") == 0


@pytest.mark.parametrize("length", ["-1", "9" * 40, "12x"])
def test_a_length_that_is_none(service: Service, length: str) -> None:
    response = service.post("/v1/image-to-image", content=b"x", headers={"content-length": length})
    assert response.status_code == 413


def test_bodies_held_at_once_are_bounded(make_service: MakeService) -> None:
    service = make_service(max_body_bytes=2000, max_buffered_bytes=2500)

    async def scenario() -> None:
        holding = asyncio.Event()
        release = asyncio.Event()

        async def slow() -> AsyncIterator[bytes]:
            yield b"x" * 1500
            holding.set()
            await release.wait()
            yield b"x"

        async with service.client() as client:
            first = asyncio.ensure_future(client.post("/v1/image-to-image", content=slow()))
            await holding.wait()
            second = await client.post("/v1/image-to-image", content=b"x" * 1200)
            assert (second.status_code, second.json()["code"]) == (429, "overloaded")
            release.set()
            assert (await first).status_code == 415

    asyncio.run(scenario())


def test_a_body_that_comes_too_slowly(make_service: MakeService) -> None:
    service = make_service(receive_timeout_seconds=0.02)

    async def scenario() -> None:
        never = asyncio.Event()

        async def slow() -> AsyncIterator[bytes]:
            yield b"x"
            await never.wait()

        async with service.client() as client:
            response = await client.post("/v1/image-to-image", content=slow())
            assert (response.status_code, response.json()["code"]) == (408, "body_too_slow")

    asyncio.run(scenario())


def test_too_many_requests_at_once_are_refused_but_probes_are_not(make_service: MakeService) -> None:
    service, gate = gated(make_service, max_inflight_requests=1)

    async def scenario() -> None:
        async with service.client() as client:
            first = asyncio.ensure_future(client.post("/v1/text-to-image", json={"text": "red"}))
            await gate.busy()
            refused = await client.post("/v1/text-to-image", json={"text": "red"})
            assert (refused.status_code, refused.json()["code"]) == (429, "overloaded")
            assert int(refused.headers["retry-after"]) >= 1
            for probe in ("/livez", "/readyz", "/metrics"):
                assert (await client.get(probe)).status_code == 200
            gate.opened.set()
            assert (await first).status_code == 200

    asyncio.run(scenario())


def test_work_beyond_the_queue_is_refused_before_it_is_decoded(make_service: MakeService) -> None:
    service, gate = gated(make_service, max_queue_units=64)

    async def scenario() -> None:
        async with service.client() as client:
            pictures = [picture_bytes("green", (32, 24 + number)) for number in range(8)]  # each one is encoded
            waiting = [asyncio.ensure_future(client.post("/v1/image-to-image", content=one)) for one in pictures]
            await gate.busy()
            while service.metric("sightline_admitted_units") < 64:
                await asyncio.sleep(0.001)
            refused = await client.post("/v1/image-to-image", content=b"not even a picture")
            assert (refused.status_code, refused.json()["code"]) == (429, "overloaded")
            gate.opened.set()
            assert {(await one).status_code for one in waiting} == {200}

    asyncio.run(scenario())
    assert service.metric("sightline_admitted_units") == 0


def test_a_deadline_ends_a_request_that_waits_for_the_encoder(make_service: MakeService) -> None:
    service, gate = gated(make_service)
    for options in ({"json": {"text": "red"}}, {"json": {"text": ["red"] * 64}}):
        response = service.post("/v1/text-to-image", headers={"x-request-timeout-ms": "20"}, **options)
        assert (response.status_code, response.json()["code"]) == (504, "deadline_exceeded")
    gate.opened.set()


def test_bulk_work_that_names_no_deadline_has_the_longest(make_service: MakeService) -> None:
    service, gate = gated(make_service, default_timeout_seconds=0.02, max_timeout_seconds=20, bulk_from_items=10)

    async def scenario() -> None:
        async with service.client() as client:
            bulk = asyncio.ensure_future(client.post("/v1/text-to-image", json={"text": ["red"] * 10, "k": 1}))
            await gate.busy()
            assert (await client.post("/v1/text-to-image", json={"text": "red"})).status_code == 504
            gate.opened.set()
            assert (await bulk).status_code == 200

    asyncio.run(scenario())


def test_a_deadline_ends_a_request_that_is_being_decoded(
    make_service: MakeService, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = make_service()

    async def hang(data: bytes) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(service.engine.decoder, "decode", hang)
    response = service.post("/v1/image-to-image", content=GREEN, headers={"x-request-timeout-ms": "20"})
    assert (response.status_code, response.json()["code"]) == (504, "deadline_exceeded")
    assert service.metric("sightline_admitted_units") == 0


def test_a_client_may_not_ask_for_more_time_than_the_maximum(make_service: MakeService) -> None:
    service, gate = gated(make_service, default_timeout_seconds=0.02, max_timeout_seconds=0.02)
    response = service.post("/v1/text-to-image", json={"text": "red"}, headers={"x-request-timeout-ms": "60000"})
    assert response.status_code == 504
    gate.opened.set()


def test_a_client_that_leaves_takes_its_work_along(make_service: MakeService) -> None:
    service, gate = gated(make_service)

    async def scenario() -> None:
        async with service.client() as client:
            first = asyncio.ensure_future(client.post("/v1/text-to-image", json={"text": "red"}))
            await gate.busy()
            leaver = await Leaver.ask(service, b'{"text": ["blue", "green"]}')
            while service.metric("sightline_queue_items", modality="text", lane="interactive") < 2:
                await asyncio.sleep(0.001)
            leaver.leave.set()
            await leaver.finished
            assert service.metric("sightline_queue_items", modality="text", lane="interactive") == 0
            assert leaver.sent == []
            gate.opened.set()
            assert (await first).status_code == 200

    asyncio.run(scenario())
    assert gate.batches == [["red"]]
    labels = {"route": "/v1/text-to-image", "method": "POST"}
    assert service.metric("sightline_http_requests_total", **labels, status="499") == 1
    assert service.metric("sightline_admitted_units") == 0


def test_a_client_that_leaves_while_sending_is_no_fault_of_ours(
    make_service: MakeService, caplog: pytest.LogCaptureFixture
) -> None:
    service = make_service()

    async def scenario() -> None:
        leaver = await Leaver.ask(service, b'{"text": ', more_body=True)
        leaver.leave.set()
        await leaver.finished
        assert leaver.sent == []

    asyncio.run(scenario())
    assert "Traceback" not in caplog.text
    assert service.metric("sightline_rejected_total", reason="client_closed") == 1


class Leaver:
    """An ASGI client that hangs up when ``leave`` is set."""

    def __init__(self, body: bytes, more_body: bool) -> None:
        self.leave = asyncio.Event()
        self.sent: list[Any] = []
        self.finished: asyncio.Future[None]
        self._messages = [{"type": "http.request", "body": body, "more_body": more_body}]

    @classmethod
    async def ask(cls, service: Service, body: bytes, *, more_body: bool = False) -> Leaver:
        leaver = cls(body, more_body)
        scope = {
            "type": "http", "method": "POST", "path": "/v1/text-to-image", "raw_path": b"/v1/text-to-image",
            "query_string": b"", "headers": [(b"content-type", b"application/json")], "http_version": "1.1",
            "scheme": "http", "server": ("test", 80), "client": ("test", 1), "root_path": "",
            "asgi": {"version": "3.0"},
        }  # fmt: skip
        leaver.finished = asyncio.ensure_future(service.app(scope, leaver.receive, leaver.send))
        await asyncio.sleep(0)
        return leaver

    async def receive(self) -> Any:
        if self._messages:
            return self._messages.pop()
        await self.leave.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Any) -> None:
        self.sent.append(message)
