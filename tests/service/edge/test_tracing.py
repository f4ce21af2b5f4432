"""Spans of requests, read back from the SDK's own exporter in memory."""

from __future__ import annotations

import builtins
from typing import Any

import httpx
import pytest

from service.app import create_app
from service.edge.tracing import Tracing, open_tracing, parse_traceparent
from sightline.errors import DependencyMissing
from tests.fakes import picture_bytes
from tests.service.conftest import Service
from tests.service.edge.test_logs import TRACE_ID, TRACEPARENT

sdk = pytest.importorskip("opentelemetry.sdk.trace")


@pytest.mark.parametrize(
    ("value", "known"),
    [
        (TRACEPARENT, True),
        (TRACEPARENT.replace("00-", "cc-", 1) + "-more", True),
        (TRACEPARENT.replace("00-", "ff-", 1), False),
        ("", False),
        (TRACEPARENT.upper(), False),
        (f"00-{'0' * 32}-b7ad6b7169203331-01", False),
        (f"00-{TRACE_ID}-{'0' * 16}-01", False),
        (TRACEPARENT + "\n", False),
        ("00-" + "a" * 5000, False),
    ],
)
def test_whose_trace_it_is(value: str, known: bool) -> None:
    assert parse_traceparent(value) == ((TRACE_ID, "b7ad6b7169203331", 1) if known else None)


async def ask(service: Service, tracing: Tracing, path: str, **options: Any) -> httpx.Response:
    app = create_app(service.engine, service.settings, tracing=tracing)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        return await client.request("POST" if options else "GET", path, **options)


@pytest.fixture
def exporter() -> Any:
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    return InMemorySpanExporter()


@pytest.fixture
def tracing(exporter: Any) -> Tracing:
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor

    provider = sdk.TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    return Tracing(provider)


def spans_of(service: Service, tracing: Tracing, exporter: Any, path: str, **options: Any) -> dict[str, Any]:
    import asyncio

    asyncio.run(ask(service, tracing, path, **options))
    return {span.name: span for span in exporter.get_finished_spans()}


def test_a_request_and_its_stages_in_the_callers_trace(service: Service, tracing: Tracing, exporter: Any) -> None:
    headers = {"traceparent": TRACEPARENT, "x-request-id": "r-1"}
    spans = spans_of(
        service, tracing, exporter, "/v1/image-to-image", content=picture_bytes("red", (40, 40)), headers=headers
    )
    request = spans.pop("POST /v1/image-to-image")
    assert {"receive", "decode", "encode", "search", "serialise"} <= spans.keys()
    assert format(request.context.trace_id, "032x") == TRACE_ID
    assert format(request.parent.span_id, "016x") == "b7ad6b7169203331"
    assert request.attributes["http.response.status_code"] == 200
    assert request.attributes["http.route"] == "/v1/image-to-image"
    assert request.attributes["sightline.request_id"] == "r-1"
    for stage in spans.values():
        assert stage.parent.span_id == request.context.span_id
        assert request.start_time <= stage.start_time <= stage.end_time <= request.end_time


def test_a_request_without_a_caller_begins_a_trace(service: Service, tracing: Tracing, exporter: Any) -> None:
    spans = spans_of(service, tracing, exporter, "/v1/nothing")
    (request,) = spans.values()
    assert request.name == "GET __unmatched__"
    assert request.parent is None
    assert request.attributes["error.type"] == "route_not_found"


def test_a_caller_who_samples_not_is_obeyed(service: Service, tracing: Tracing, exporter: Any) -> None:
    headers = {"traceparent": TRACEPARENT[:-1] + "0"}
    assert spans_of(service, tracing, exporter, "/v1/text-to-image", json={"text": "red"}, headers=headers) == {}


def test_probes_have_no_spans(service: Service, tracing: Tracing, exporter: Any) -> None:
    assert spans_of(service, tracing, exporter, "/readyz") == {}


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = builtins.__import__

    def lacking(name: str, *arguments: Any, **options: Any) -> Any:
        if name.startswith("opentelemetry.exporter"):
            raise ImportError(name)
        return whole(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", lacking)
    with pytest.raises(DependencyMissing, match=r"pip install 'sightline\[otel\]'"):
        open_tracing("0.0.0")
