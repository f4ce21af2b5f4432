"""Whole HTTP requests, made before the clock starts, and the pool they are taken from."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from benchmarks.serving.pictures import Pool, truncated

Shape = Literal["openai-image", "openai-text", "image-to-image", "text-to-image"]
SHAPES: tuple[Shape, ...] = ("openai-image", "openai-text", "image-to-image", "text-to-image")


@dataclass(frozen=True)
class Prepared:
    """A request as it goes over the wire. ``healthy`` is False for a picture that was damaged on purpose."""

    wire: bytes
    healthy: bool = True


@dataclass(frozen=True)
class Dialect:
    """Where a server takes OpenAI's body, and what it needs in it beside the input."""

    embeddings_path: str = "/v1/embeddings"
    image_extra: tuple[tuple[str, str], ...] = ()


SIGHTLINE = Dialect()
INFINITY = Dialect("/embeddings", (("modality", "image"),))


def prepare(
    shape: Shape, pool: Pool, host: str, port: int, dialect: Dialect = SIGHTLINE, corrupt: float = 0.0
) -> list[Prepared]:
    """One request for each picture or caption of the pool; the share ``corrupt`` of the pictures, evenly spread, is
    truncated to half its bytes."""
    if shape == "openai-text":
        bodies = [json.dumps({"input": [caption]}).encode() for caption in pool.captions]
        return [Prepared(_post(host, port, dialect.embeddings_path, "application/json", body)) for body in bodies]
    if shape == "text-to-image":
        bodies = [json.dumps({"text": caption, "k": 10}).encode() for caption in pool.captions]
        return [Prepared(_post(host, port, "/v1/text-to-image", "application/json", body)) for body in bodies]
    prepared = []
    for picture, healthy in _damage(pool.pictures, corrupt):
        if shape == "image-to-image":
            wire = _post(host, port, "/v1/image-to-image?k=10", "image/jpeg", picture)
        else:
            uri = "data:image/jpeg;base64," + base64.b64encode(picture).decode("ascii")
            body = json.dumps({"input": [uri], **dict(dialect.image_extra)}).encode()
            wire = _post(host, port, dialect.embeddings_path, "application/json", body)
        prepared.append(Prepared(wire, healthy))
    return prepared


def get(host: str, port: int, path: str) -> bytes:
    """A GET without a body."""
    return f"GET {path} HTTP/1.1\r\nHost: {host}:{port}\r\nAccept: */*\r\n\r\n".encode("ascii")


def _post(host: str, port: int, path: str, kind: str, body: bytes) -> bytes:
    head = f"POST {path} HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode("ascii") + body


def _damage(pictures: Sequence[bytes], share: float) -> list[tuple[bytes, bool]]:
    """Every n-th picture truncated, so that the share is exact and the order is the same in every run."""
    marked, owed = [], 0.0
    for picture in pictures:
        owed += share
        damaged = owed >= 1 - 1e-9
        owed -= damaged
        marked.append((truncated(picture) if damaged else picture, not damaged))
    return marked
