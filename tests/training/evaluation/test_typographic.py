from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from sightline.images import Pixels
from training.evaluation.places import Vectors
from training.evaluation.typographic import attack, write_word

NAMES = ("circle", "square", "star")


def pictures(side: int = 64) -> Pixels:
    """Flat pictures whose red channel tells the class."""
    labels = np.arange(30) % 3
    return np.repeat((50 + 60 * labels).astype(np.uint8), side * side * 3).reshape(30, side, side, 3)


class Looking:
    """Goes by the upper half of the picture, which no word covers."""

    def encode_pixels(self, pixels: Pixels) -> Vectors:
        seen = np.rint((pixels[:, 0, 0, 0].astype(int) - 50) / 60).astype(int)
        found: Vectors = np.eye(3, dtype=np.float32)[seen]
        return found

    def encode_texts(self, texts: Sequence[str]) -> Vectors:
        raise NotImplementedError


class Reading(Looking):
    """Believes every word that it can read: it knows what each class's name looks like on each picture."""

    def __init__(self, pixels: Pixels) -> None:
        self.words = {write_word(one, name).tobytes(): n for one in pixels for n, name in enumerate(NAMES)}

    def encode_pixels(self, pixels: Pixels) -> Vectors:
        looked = super().encode_pixels(pixels)
        for row, one in enumerate(pixels):
            if one.tobytes() in self.words:
                looked[row] = np.eye(3, dtype=np.float32)[self.words[one.tobytes()]]
        return looked


def test_who_looks_is_not_flipped_and_who_reads_is() -> None:
    pixels, labels, vectors = pictures(), np.arange(30) % 3, np.eye(3, dtype=np.float32)
    looked = attack(Looking(), pixels, np.arange(30), labels, NAMES, vectors)
    assert (looked.accuracy, looked.attacked_accuracy, looked.flip_rate, looked.example) == (1, 1, 0, None)
    read = attack(Reading(pixels), pixels, np.arange(30), labels, NAMES, vectors)
    assert (read.accuracy, read.attacked_accuracy, read.flip_rate, read.control_flip_rate) == (1, 0, 1, 0)
    assert read.example is not None and read.example[2] != read.example[3]


def test_the_same_seed_writes_the_same_words() -> None:
    pixels, labels, vectors = pictures(), np.arange(30) % 3, np.eye(3, dtype=np.float32)
    reader = Reading(pixels)
    first, second = (attack(reader, pixels, np.arange(30), labels, NAMES, vectors, seed=4) for _ in range(2))
    assert first.figures() == second.figures()
    assert first.example is not None and second.example is not None
    assert (first.example[1] == second.example[1]).all()


def test_only_the_rows_asked_for_are_attacked() -> None:
    pixels, vectors = pictures(), np.eye(3, dtype=np.float32)
    found = attack(Looking(), pixels, np.array([4, 8]), np.array([1, 2]), NAMES, vectors)
    assert (found.num_pictures, found.accuracy) == (2, 1)


@pytest.mark.parametrize(("height", "width"), [(32, 32), (224, 224), (64, 24), (10, 10)])
@pytest.mark.parametrize("word", ["star", "a very long name of a class indeed"])
def test_a_word_stands_in_the_lower_part(height: int, width: int, word: str) -> None:
    before = np.full((height, width, 3), 128, np.uint8)
    after = write_word(before, word)
    assert after.shape == before.shape and (before == 128).all()
    changed = np.flatnonzero((after != before).any(axis=(1, 2)))
    assert (after > 150).any() and (after < 50).any()  # ink and plate
    if height >= 24:
        assert changed[0] > height // 3
