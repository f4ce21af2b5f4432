"""What is said of a picture: sidecars of files and archives, and the captions in an object."""

from __future__ import annotations

import datetime
import decimal
import json
import math
from typing import Any

SIDECARS = (".txt", ".json")
_MAX_NESTING = 32
MAX_SIDECAR_BYTES = 2**20
"""A sidecar over this describes nothing: it is no caption, and as JSON it would take many times its size."""


def describe(sidecars: dict[str, bytes]) -> tuple[tuple[str, ...], dict[str, Any]]:
    """Captions, without repeats, and metadata of sidecars by suffix; damaged ones describe nothing."""
    captions: tuple[str, ...] = ()
    metadata: dict[str, Any] = {}
    for suffix in SIDECARS:
        if suffix in sidecars:
            more, described = _described(suffix, sidecars[suffix])
            captions, metadata = captions + more, metadata | described
    return tuple(dict.fromkeys(captions)), metadata


def take_captions(entry: dict[str, Any]) -> tuple[str, ...]:
    """Take ``captions`` and ``caption`` out of a JSON object, in order, without repeats."""
    several, one = entry.pop("captions", []), entry.pop("caption", None)
    return distinct([one, *several] if isinstance(several, list) else [one, several])


def distinct(found: list[Any]) -> tuple[str, ...]:
    """The texts among these, stripped, in order, without repeats."""
    texts = (_utf8(text).strip() for text in found if isinstance(text, str))
    return tuple(dict.fromkeys(text for text in texts if text))


def json_like(value: Any, depth: int = 0) -> Any:
    """A value as JSON and UTF-8 have it; None for what they have not: bytes, NaN (which Python's own JSON reader lets
    in), nesting without end."""
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, str):
        return _utf8(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, decimal.Decimal):
        return float(value) if value.is_finite() else None
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    if depth < _MAX_NESTING:
        if isinstance(value, dict):
            return {_utf8(str(key)): json_like(one, depth + 1) for key, one in value.items()}
        if isinstance(value, list):
            return [json_like(one, depth + 1) for one in value]
    return None


def _utf8(text: str) -> str:
    """A text without the halves of surrogate pairs that JSON can smuggle in: no encoder and no answer could take it."""
    return text.encode("utf-8", "replace").decode()


def _described(suffix: str, data: bytes) -> tuple[tuple[str, ...], dict[str, Any]]:
    if len(data) > MAX_SIDECAR_BYTES:
        return (), {}
    text = data.decode("utf-8-sig", errors="replace")
    if suffix == ".txt":
        return tuple(line.strip() for line in text.splitlines() if line.strip()), {}
    try:
        entry = json.loads(text)
    except (ValueError, RecursionError):
        return (), {}
    if not isinstance(entry, dict):
        return (), {}
    return take_captions(entry), json_like(entry)
