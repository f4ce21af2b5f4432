"""Vectors of many pictures and texts, a few at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from sightline.images import Pixels
from training.evaluation.places import Vectors

IMAGES_AT_ONCE = 64
TEXTS_AT_ONCE = 256

Progress = Callable[[int], None]
"""Called with the number of pictures or texts just encoded."""


class EncodesPairs(Protocol):
    """What evaluation needs of an encoder; ``sightline.encoder.Encoder`` has it."""

    def encode_pixels(self, pixels: Pixels) -> npt.NDArray[np.float32]:
        """uint8 [B, H, W, 3] to unit vectors float32 [B, D]."""
        ...

    def encode_texts(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Texts to unit vectors float32 [B, D]."""
        ...


def encode_all_pixels(encoder: EncodesPairs, pixels: Pixels, progress: Progress | None = None) -> Vectors:
    """Unit vectors float32 [N, D] of uint8 pixels [N, H, W, 3]."""
    parts: list[Vectors] = []
    for start in range(0, len(pixels), IMAGES_AT_ONCE):
        parts.append(encoder.encode_pixels(pixels[start : start + IMAGES_AT_ONCE]))
        if progress is not None:
            progress(len(parts[-1]))
    return np.concatenate(parts)


def encode_all_texts(encoder: EncodesPairs, texts: Sequence[str], progress: Progress | None = None) -> Vectors:
    """Unit vectors float32 [T, D] of texts."""
    parts: list[Vectors] = []
    for start in range(0, len(texts), TEXTS_AT_ONCE):
        parts.append(encoder.encode_texts(texts[start : start + TEXTS_AT_ONCE]))
        if progress is not None:
            progress(len(parts[-1]))
    return np.concatenate(parts)
