"""One record for each request but a probe: who, what, how long, how it ended. Never what was asked or shown."""

from __future__ import annotations

import logging

from service.context import RequestContext

logger = logging.getLogger(__name__)


def log_access(context: RequestContext, method: str, route: str, status: int, seconds: float) -> None:
    """Log a request that has ended. ``status`` 499 says that its client left before an answer began.

    ``route`` is a template and ``method`` one of the usual ones, so that no line holds what a stranger wrote.
    """
    level = logging.WARNING if status >= 500 else logging.INFO
    if not logger.isEnabledFor(level):
        return
    fields: dict[str, object] = {
        "request_id": context.request_id,
        "trace_id": context.trace_id,
        "method": method,
        "route": route,
        "status": status,
        "duration_ms": round(seconds * 1000, 2),
        "stages_ms": {name: round(spent * 1000, 2) for name, spent in context.stages.items()},
        "bytes_in": context.num_bytes_in,
        "cache": sorted(context.cache_outcomes) or None,
        "client_closed": status == 499,
        "error": context.error_code,
        "key": context.key_name,
    }
    logger.log(
        level, "%s %s %d in %.1f ms", method, route, status, seconds * 1000,
        extra={"fields": {name: value for name, value in fields.items() if value is not None}},
    )  # fmt: skip
