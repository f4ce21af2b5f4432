"""Log lines: what a record holds, and that nobody else can write one."""

from __future__ import annotations

import io
import json
import logging
import threading
from typing import Any

import pytest

from service.edge.logs import ConsoleFormatter, logging_to, printable
from tests.fakes import picture_bytes
from tests.service.conftest import MakeService, Service
from tests.service.edge.conftest import API_KEY
from tests.service.edge.test_keys import bearer

TRACE_ID = "0af7651916cd43dd8448eb211c80319c"
TRACEPARENT = f"00-{TRACE_ID}-b7ad6b7169203331-01"
NASTY = "\x1b[2J\x07\r\n2031-01-01 forged \x00\u202e\x85"


def lines_of(service: Service, *requests: tuple[str, str, dict[str, Any]], level: Any = "info") -> list[dict[str, Any]]:
    stream = io.StringIO()
    with logging_to(stream, "json", level):
        for method, path, options in requests:
            service.request(method, path, **options)
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_one_record_for_each_request(service: Service) -> None:
    body = b'{"text": "a red bicycle"}'
    headers = {"content-type": "application/json", "x-request-id": "r-1", "traceparent": TRACEPARENT}
    (line,) = lines_of(service, ("POST", "/v1/text-to-image", {"content": body, "headers": headers}))
    assert line.pop("ts").endswith("+00:00")
    assert line.pop("duration_ms") > 0
    assert {"encode", "search", "serialise"} <= line.pop("stages_ms").keys()
    assert line.pop("cache") in (["hit"], ["miss"])
    message = line.pop("message")
    assert message.startswith("POST /v1/text-to-image 200 in ")
    assert line == {
        "level": "info", "logger": "service.edge.access_log", "request_id": "r-1", "trace_id": TRACE_ID,
        "method": "POST", "route": "/v1/text-to-image", "status": 200, "bytes_in": len(body), "client_closed": False,
    }  # fmt: skip


def test_an_error_has_its_code_and_a_key_its_holder(make_service: MakeService, tmp_path: Any) -> None:
    (tmp_path / "keys").write_text(f"shop: {API_KEY}")
    service = make_service(api_keys_file=tmp_path / "keys")
    refused, wrong = lines_of(
        service, ("GET", "/v1/limits", {}), ("POST", "/v1/text-to-image", {"json": {}, "headers": bearer(API_KEY)})
    )
    assert (refused["status"], refused["error"], refused["route"]) == (401, "unauthenticated", "__unmatched__")
    assert "key" not in refused
    assert (wrong["status"], wrong["error"], wrong["key"]) == (422, "invalid_request", "shop")


def test_probes_are_not_recorded_and_less_can_be(service: Service) -> None:
    assert lines_of(service, ("GET", "/livez", {}), ("GET", "/readyz", {})) == []
    assert lines_of(service, ("GET", "/v1/limits", {}), level="warning") == []


@pytest.mark.parametrize("style", ["json", "console"])
def test_no_line_holds_what_was_asked_or_shown(make_service: MakeService, tmp_path: Any, style: Any) -> None:
    (tmp_path / "keys").write_text(f"shop: {API_KEY}")
    service = make_service(api_keys_file=tmp_path / "keys")
    stream = io.StringIO()
    with logging_to(stream, style, "debug"):
        service.post("/v1/text-to-image", json={"text": "my secret wish"}, headers=bearer(API_KEY))
        service.post("/v1/text-to-image", json={"text": ["my secret wish", ""]}, headers=bearer(API_KEY))
        service.post("/v1/image-to-image", content=picture_bytes("red"), headers=bearer(API_KEY))
        service.get("/v1/my-secret-path?my-secret-query=1", headers=bearer("my-secret-key-0123456"))
        service.request("SECRET", "/v1/limits", headers=bearer(API_KEY))
    text = stream.getvalue().lower()
    assert text.count("\n") == 5
    assert "secret" not in text
    assert API_KEY not in text


@pytest.mark.parametrize("style", ["json", "console"])
def test_control_bytes_cannot_break_or_colour_a_line(style: Any) -> None:
    stream = io.StringIO()
    with logging_to(stream, style, "info"):
        logging.getLogger("service.test").warning("%s", NASTY, extra={"fields": {"request_id": NASTY}})
        try:
            raise ValueError(NASTY)
        except ValueError:
            logging.getLogger("service.test").exception("It failed.")
    lines = stream.getvalue().split("\n")
    assert all(line.isprintable() for line in lines)
    starts = [line for line in lines if line and not line.startswith("    ")]
    assert len(starts) == 2, lines
    assert "ValueError" in stream.getvalue()


def test_printable_keeps_what_can_be_read() -> None:
    assert printable("ein Fahrrad, 自転車") == "ein Fahrrad, 自転車"
    assert printable("a\x1b\n\u202e") == "a\\x1b\\n\\u202e"


def test_who_reads_too_slowly_stops_nobody() -> None:
    """Lines that nobody takes are dropped; logging neither blocks nor fails."""
    reading = threading.Event()

    class Stuck(io.StringIO):
        def write(self, text: str) -> int:
            assert reading.wait(10)
            return super().write(text)

    stream = Stuck()
    with logging_to(stream, "json", "info"):
        for number in range(11_000):
            logging.getLogger("service.test").warning("%d", number)
        reading.set()
    assert 10_000 <= len(stream.getvalue().splitlines()) <= 10_001


def test_auto_is_for_people_on_a_terminal_only() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    for stream, first in ((io.StringIO(), "{"), (Terminal(), None)):
        with logging_to(stream, "auto", "info"):
            logging.getLogger("service.test").info("Something.")
        assert stream.getvalue().startswith("{") is (first is not None)


def test_levels_are_put_back() -> None:
    before = logging.getLogger("service").level
    with logging_to(io.StringIO(), "json", "debug"):
        assert logging.getLogger("service.anything").isEnabledFor(logging.DEBUG)
        assert not logging.getLogger("uvicorn.error").isEnabledFor(logging.WARNING)
    assert logging.getLogger("service").level == before


def test_a_line_for_people_names_the_request() -> None:
    record = logging.makeLogRecord({"msg": "GET / 200", "levelname": "INFO", "fields": {"request_id": "r-1", "x": 1}})
    assert ConsoleFormatter().format(record).endswith("info    GET / 200 request_id=r-1")
