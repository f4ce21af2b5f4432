"""From records to what the encoder takes: one record in a thread of the decode pool.

Pillow releases the GIL while it decodes and resizes, so threads use the cores.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from sightline.errors import ImageError
from sightline.images import ImageLimits, Pixels, PixelSpec, decode_image, encode_thumbnail, to_pixels
from sightline.sources import Record, Rejected


@dataclass(frozen=True)
class KnownPicture:
    """A picture that this encoder has seen: its float16 ``vector`` ``[D]`` and what else decoding would tell."""

    vector: npt.NDArray[np.float16]
    thumbnail: bytes
    width_px: int
    height_px: int


@dataclass(frozen=True)
class Decoded:
    """A record to be encoded, without its bytes: ``pixels`` uint8 ``[H, W, 3]`` as the encoder wants them, or the
    ``known`` vector of the same bytes; ``sha256`` of the bytes."""

    record: Record
    sha256: str
    pixels: Pixels | None
    thumbnail: bytes
    width_px: int
    height_px: int
    known: npt.NDArray[np.float16] | None = None


@dataclass(frozen=True)
class DecodeSpec:
    """How to decode: the encoder's pixels, the limits, the thumbnail's longer side (0: none), and what is known of a
    picture by the hash of its bytes already."""

    pixels: PixelSpec
    limits: ImageLimits
    thumbnail_px: int
    known: Callable[[str], KnownPicture | None] = lambda sha256: None


def decode_record(record: Record, spec: DecodeSpec) -> Decoded | Rejected:
    """Decode one record; a bad picture becomes a Rejected with the error's code. Thread-safe."""
    sha256 = hashlib.sha256(record.image).hexdigest()
    described = replace(record, image=b"")
    known = spec.known(sha256)
    if known is not None:
        return Decoded(described, sha256, None, known.thumbnail, known.width_px, known.height_px, known=known.vector)
    try:
        image = decode_image(record.image, spec.limits)
    except ImageError as error:
        return Rejected(record.uri, "failed", error.code, error.message)
    thumbnail = encode_thumbnail(image, spec.thumbnail_px) if spec.thumbnail_px else b""
    return Decoded(described, sha256, to_pixels(image, spec.pixels), thumbnail, image.width, image.height)
