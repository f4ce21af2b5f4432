"""From records to what the encoder takes, in a pool of threads, in order and with bounded memory.

Pillow releases the GIL while it decodes and resizes, so threads use the cores; a few batches are decoded ahead of the
encoder and no more.
"""

from __future__ import annotations

import collections
import hashlib
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from sightline.errors import ImageError
from sightline.images import ImageLimits, Pixels, PixelSpec, decode_image, encode_thumbnail, to_pixels
from sightline.sources import Record, Rejected


@dataclass(frozen=True)
class Decoded:
    """A record to be encoded: ``pixels`` uint8 ``[H, W, 3]`` as the encoder wants them, ``sha256`` of the bytes."""

    record: Record
    sha256: str
    pixels: Pixels
    thumbnail: bytes
    width_px: int
    height_px: int


@dataclass(frozen=True)
class DecodeSpec:
    """How to decode: the encoder's pixels, the limits, and the thumbnail's longer side (0: none)."""

    pixels: PixelSpec
    limits: ImageLimits
    thumbnail_px: int


def decode_record(record: Record, spec: DecodeSpec) -> Decoded | Rejected:
    """Decode one record; a bad picture becomes a Rejected with the error's code. Thread-safe."""
    try:
        image = decode_image(record.image, spec.limits)
    except ImageError as error:
        return Rejected(record.uri, "failed", error.code, error.message)
    thumbnail = encode_thumbnail(image, spec.thumbnail_px) if spec.thumbnail_px else b""
    sha256 = hashlib.sha256(record.image).hexdigest()
    return Decoded(record, sha256, to_pixels(image, spec.pixels), thumbnail, image.width, image.height)


def decode_ahead(
    inputs: Iterable[Record | Rejected], spec: DecodeSpec, pool: ThreadPoolExecutor, *, ahead: int
) -> Iterator[Decoded | Rejected]:
    """Decode a stream on a pool, keeping its order, with at most ``ahead`` records read but not yet taken."""
    pending: collections.deque[Future[Decoded | Rejected] | Rejected] = collections.deque()
    for entry in inputs:
        pending.append(entry if isinstance(entry, Rejected) else pool.submit(decode_record, entry, spec))
        if len(pending) >= ahead:
            yield _taken(pending.popleft())
    while pending:
        yield _taken(pending.popleft())


def _taken(entry: Future[Decoded | Rejected] | Rejected) -> Decoded | Rejected:
    return entry if isinstance(entry, Rejected) else entry.result()
