"""Captioned pictures, decoded to an encoder's pixels."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from sightline.images import Pixels

_SPACES = re.compile(r"\s+")


@dataclass(frozen=True, slots=True)
class Captioned:
    """Pictures with their captions, in the order of the source.

    ``pixels`` uint8 [N, H, W, 3], in memory or mapped from a file; ``captions`` one or more for each picture;
    ``metadata`` as the source gave it; ``rejected`` counts what could not be used, by reason, and ``first_rejected``
    names the first of each. ``digest`` is a SHA-256 over pixels and captions. ``names`` are the pictures' names in
    the source; empty where they are not known.
    """

    pixels: Pixels
    captions: tuple[tuple[str, ...], ...]
    metadata: tuple[dict[str, Any], ...]
    rejected: dict[str, int]
    digest: str
    names: tuple[str, ...] = ()
    first_rejected: dict[str, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.captions)

    def caption_rows(self) -> npt.NDArray[np.int64]:
        """The picture's row for each caption in order, int64 [T]."""
        return np.repeat(np.arange(len(self)), [len(several) for several in self.captions])

    def name_of(self, row: int) -> str:
        """What to call a picture in a sentence: its name in the source, or its number counted from 1."""
        return self.names[row] if self.names else f"picture {row + 1:,}"


def caption_key(text: str) -> str:
    """What makes two captions equal: case, spaces and the full stop at the end do not count."""
    return _SPACES.sub(" ", text).strip().rstrip(".!").rstrip().casefold()


def numbered(keys: Sequence[object]) -> npt.NDArray[np.int64]:
    """A number for each key, int64 [n]: equal keys have equal numbers, in order of appearance from 0."""
    numbers: dict[object, int] = {}
    return np.fromiter((numbers.setdefault(key, len(numbers)) for key in keys), np.int64, len(keys))


def content_hashes(pixels: Pixels) -> list[bytes]:
    """A 128-bit BLAKE2b hash of each picture's decoded pixels [N, H, W, 3]: equal pictures have equal hashes, however
    their files were named or packed."""
    return [hashlib.blake2b(np.ascontiguousarray(one).data, digest_size=16).digest() for one in pixels]
