"""Small captioned data without files, and a tokenizer whose ids can be read back."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from sightline.images import Pixels
from training.batch import Batch, Tokens
from training.data import Batches, Captioned, DataSettings, make_batches

CONTEXT = 24


class Words:
    """A tokenizer: one id for each different word, in order of appearance from 1; padded with 0."""

    def __init__(self) -> None:
        self.ids: dict[str, int] = {}
        self.calls = 0

    def __call__(self, texts: Sequence[str]) -> Tokens:
        self.calls += 1
        rows = np.zeros((len(texts), CONTEXT), np.int64)
        for row, text in zip(rows, texts, strict=True):
            ids = [self.ids.setdefault(word, len(self.ids) + 1) for word in text.lower().split()[:CONTEXT]]
            row[: len(ids)] = ids
        return rows

    def read(self, row: Tokens) -> str:
        """The text of a row of tokens."""
        words = {number: word for word, number in self.ids.items()}
        return " ".join(words[number] for number in row.tolist() if number)


def captioned(
    captions: Sequence[Sequence[str]],
    *,
    pixels: Pixels | None = None,
    metadata: Sequence[dict[str, Any]] | None = None,
    side_px: int = 4,
    names: tuple[str, ...] = (),
) -> Captioned:
    """Data with these captions; without ``pixels`` every picture has its row as its colour."""
    if pixels is None:
        colours = np.arange(len(captions), dtype=np.uint8).reshape(-1, 1, 1, 1)
        pixels = np.tile(colours, (1, side_px, side_px, 3))
    texts = tuple(tuple(several) for several in captions)
    digest = hashlib.sha256(pixels.tobytes() + repr(texts).encode()).hexdigest()
    return Captioned(pixels, texts, tuple(metadata or [{}] * len(texts)), {}, digest, names)


def made(data: Captioned, *, batch_size: int = 4, seed: int = 0, **settings: Any) -> tuple[Batches, Words]:
    words = Words()
    return make_batches(data, DataSettings(**settings), words, batch_size=batch_size, seed=seed), words


def texts_of(batch: Batch, words: Words) -> list[str]:
    return [words.read(row) for row in batch.tokens]
