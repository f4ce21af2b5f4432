"""Pictures for tests, as the bytes of files."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from PIL import Image

COLOURS = {"red": (220, 30, 30), "green": (30, 170, 60), "blue": (40, 60, 210), "yellow": (240, 210, 40)}


def encoded(image: Image.Image, format: str = "PNG", **options: Any) -> bytes:
    """The bytes of an image file."""
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def flat(colour: str | tuple[int, int, int], size: tuple[int, int] = (40, 30), format: str = "PNG") -> bytes:
    """A picture of one colour."""
    return encoded(Image.new("RGB", size, COLOURS[colour] if isinstance(colour, str) else colour), format)


def textured(size: tuple[int, int], seed: int = 0) -> Image.Image:
    """A smooth random RGB picture: structure at every scale, as photos have."""
    coarse = np.random.default_rng(seed).integers(0, 256, (12, 16, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)
