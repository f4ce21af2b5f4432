"""Whole HTTP requests, made before the clock starts, and the pool they are taken from.

No two pictures of a run have the same bytes, although the pool is finite: each carries a JPEG comment with a number. So
nothing can be answered from a cache, from the same input in flight, or from a memory of damaged pictures.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from benchmarks.serving.pictures import Pool, truncated

Shape = Literal["openai-image", "openai-text", "image-to-image", "text-to-image"]
SHAPES: tuple[Shape, ...] = ("openai-image", "openai-text", "image-to-image", "text-to-image")


_STAMP_BYTES = 12
_COMMENT = b"\xff\xfe" + (2 + _STAMP_BYTES).to_bytes(2, "big")
"""A JPEG comment's head. After the 2 bytes that begin a JPEG its text starts at byte 6: on a whole group of base64,
where any digits decode to some bytes."""


@dataclass(frozen=True)
class Prepared:
    """A request as it goes over the wire. ``healthy`` is False for a picture that was damaged on purpose."""

    wire: bytes
    healthy: bool = True
    stamp_at: int | None = None

    def numbered(self, number: int) -> bytes:
        """The request with a number stamped into its picture's comment: the same picture, never the same bytes."""
        if self.stamp_at is None:
            return self.wire
        stamp = b"%0*d" % (_STAMP_BYTES, number)
        return self.wire[: self.stamp_at] + stamp + self.wire[self.stamp_at + _STAMP_BYTES :]


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
        commented = picture[:2] + _COMMENT + b"0" * _STAMP_BYTES + picture[2:]
        if shape == "image-to-image":
            wire = _post(host, port, "/v1/image-to-image?k=10", "image/jpeg", commented)
            stamp_at = wire.index(_COMMENT) + len(_COMMENT)
        else:
            uri = "data:image/jpeg;base64," + base64.b64encode(commented).decode("ascii")
            body = json.dumps({"input": [uri], **dict(dialect.image_extra)}).encode()
            wire = _post(host, port, dialect.embeddings_path, "application/json", body)
            stamp_at = wire.index(b"base64,") + len(b"base64,") + (2 + len(_COMMENT)) * 4 // 3
        prepared.append(Prepared(wire, healthy, stamp_at))
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
