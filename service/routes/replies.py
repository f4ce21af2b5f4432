"""From plain dictionaries to JSON responses, off the event loop when they are large."""

from __future__ import annotations

import json
from typing import Any

import pydantic_core
from starlette.requests import Request
from starlette.responses import Response

from service.context import RequestContext
from service.engine import Engine

_INLINE_ENTRIES = 32


def context_of(request: Request) -> RequestContext:
    """The context that the outermost middleware gave the request."""
    context = request.scope["state"]["context"]
    assert isinstance(context, RequestContext)
    return context


async def reply(engine: Engine, payload: object, num_entries: int, context: RequestContext) -> Response:
    """A JSON response; ``num_entries`` (results, vectors) decides where it is serialised."""
    with context.stage("serialise"):
        content = to_json(payload) if num_entries <= _INLINE_ENTRIES else await engine.offload(to_json, payload)
    return Response(content, media_type="application/json", headers=cache_header(context))


def cache_header(context: RequestContext) -> dict[str, str]:
    """``X-Sightline-Cache``: whether the encoder worked for this answer (miss), or another request's did."""
    outcomes = context.cache_outcomes
    if not outcomes:
        return {}
    return {"X-Sightline-Cache": next(iter(outcomes)) if len(outcomes) == 1 else "mixed"}


def to_json(payload: object) -> bytes:
    """JSON in UTF-8; what JSON cannot say (NaN in an item's metadata) becomes null."""
    try:
        return pydantic_core.to_json(payload, inf_nan_mode="null")
    except (ValueError, UnicodeError):  # a lone surrogate in somebody's caption
        return json.dumps(_finite(payload), ensure_ascii=True, allow_nan=False).encode("ascii")


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and value - value != 0.0 else value
