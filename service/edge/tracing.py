"""Traces: the caller's W3C ``traceparent``, and OpenTelemetry spans when the extra ``otel`` is there and wanted.

Spans are made when a request has ended, from the times its stages took: nothing is added to a request on its way,
and no context has to follow it through threads.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING

from service.context import RequestContext
from sightline.errors import DependencyMissing

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

# https://www.w3.org/TR/trace-context/#traceparent-header: later versions may add fields at the end
_TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")


def parse_traceparent(value: str) -> tuple[str, str, int] | None:
    """Trace id (32 hex digits), the caller's span id (16) and flags; None for what is not a ``traceparent``."""
    found = _TRACEPARENT.fullmatch(value)
    return (found[1], found[2], int(found[3], 16)) if found else None


class Tracing:
    """Turns ended requests into spans. Thread-safe as the SDK is; exporting happens in the SDK's own thread."""

    def __init__(self, provider: TracerProvider) -> None:
        from opentelemetry import trace

        self._trace = trace
        self._provider = provider
        self._tracer = provider.get_tracer("sightline")

    def record(self, context: RequestContext, method: str, route: str, status: int, ended: float) -> str:
        """One span for a request and one for each stage; returns the trace id. ``ended`` is on ``perf_counter``."""
        trace = self._trace
        parent = trace.set_span_in_context(trace.INVALID_SPAN)
        if context.traceparent is not None:
            trace_id, span_id, flags = context.traceparent
            caller = trace.SpanContext(int(trace_id, 16), int(span_id, 16), True, trace.TraceFlags(flags & 1))
            parent = trace.set_span_in_context(trace.NonRecordingSpan(caller))
        attributes: dict[str, str | int] = {
            "http.request.method": method, "http.route": route, "http.response.status_code": status,
            "sightline.request_id": context.request_id,
        }  # fmt: skip
        if context.error_code is not None:
            attributes["error.type"] = context.error_code
        span = self._tracer.start_span(
            f"{method} {route}", parent, trace.SpanKind.SERVER, attributes, start_time=context.wall_ns(context.started)
        )
        inside = trace.set_span_in_context(span)
        for name, begin, end in context.intervals:
            stage = self._tracer.start_span(name, inside, start_time=context.wall_ns(begin))
            stage.end(context.wall_ns(end))
        if status >= 500:
            span.set_status(trace.StatusCode.ERROR)
        span.end(context.wall_ns(ended))
        return format(span.get_span_context().trace_id, "032x")

    def close(self) -> None:
        """Send what is left, for at most a few seconds."""
        self._provider.shutdown()


def open_tracing(version: str) -> Tracing:
    """Tracing that exports over OTLP/HTTP, as the standard ``OTEL_…`` variables say. Raises DependencyMissing."""
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        raise DependencyMissing(
            "The setting tracing needs OpenTelemetry; install it with: pip install 'sightline[otel]'."
        ) from error
    make_resource: Callable[..., Resource] = Resource.create
    provider = TracerProvider(resource=make_resource({"service.name": "sightline", "service.version": version}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return Tracing(provider)
