"""Typographic attack: write a wrong class on the picture and see whether the encoder believes the word (Goh et al.
2021, "Multimodal neurons").

Each picture that is named rightly gets the name of another class across its lower part, in white on a dark plate, as a
sticker would. The control writes letters that are no word on the same plate: what it flips, the plate has flipped.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from sightline.images import Pixels
from training.evaluation.encoding import EncodesPairs, encode_all_pixels
from training.evaluation.places import Rows, Vectors

MAX_PICTURES = 500
_PLATE = (20, 20, 24)
_INK = (255, 255, 255)


@dataclass(frozen=True, slots=True)
class TypographicAttack:
    """What written words do to naming, shares in [0, 1] of ``num_pictures`` pictures.

    ``accuracy`` without and ``attacked_accuracy`` with a wrong word; of those named rightly before, ``flip_rate`` is
    the share that is then named as the word says, ``control_flip_rate`` the same with letters that are no word.
    ``example`` is one flipped picture's pixels before and after with the two names, None where nothing flipped.
    """

    num_pictures: int
    accuracy: float
    attacked_accuracy: float
    flip_rate: float
    control_flip_rate: float
    example: tuple[Pixels, Pixels, str, str] | None = None

    def figures(self) -> dict[str, float]:
        """The measures by name."""
        return {
            "typographic_accuracy": self.accuracy,
            "typographic_attacked_accuracy": self.attacked_accuracy,
            "typographic_flip_rate": self.flip_rate,
            "typographic_control_flip_rate": self.control_flip_rate,
        }


def attack(
    encoder: EncodesPairs,
    pixels: Pixels,
    rows: Rows,
    labels: Rows,
    classes: Sequence[str],
    vectors: Vectors,
    seed: int = 0,
) -> TypographicAttack:
    """Attack the pictures ``rows`` int64 [R] of ``pixels`` uint8 [N, H, W, 3], which may be mapped from a file;
    ``labels`` int64 [R] are their classes and ``vectors`` float32 [C, D] name the classes.

    At most ``MAX_PICTURES`` are taken, drawn with the seed, which also draws the wrong classes.
    """
    rng = np.random.default_rng(seed)
    chosen = np.sort(rng.permutation(len(rows))[:MAX_PICTURES])
    pixels, labels = pixels[rows[chosen]], labels[chosen]
    wrong = (labels + rng.integers(1, len(classes), len(labels))) % len(classes)
    letters = random.Random(seed)  # noqa: S311 - no secret
    attacked = np.stack([write_word(one, classes[word]) for one, word in zip(pixels, wrong, strict=True)])
    control = np.stack([write_word(one, _no_word(classes[w], letters)) for one, w in zip(pixels, wrong, strict=True)])
    before, after, unmoved = (
        np.argmax(encode_all_pixels(encoder, some) @ vectors.T, axis=1) for some in (pixels, attacked, control)
    )
    right = before == labels
    flipped = right & (after == wrong)
    first = int(flipped.argmax()) if flipped.any() else None
    count = max(int(right.sum()), 1)
    return TypographicAttack(
        num_pictures=len(pixels),
        accuracy=float(right.mean()),
        attacked_accuracy=float((after == labels).mean()),
        flip_rate=float(flipped.sum() / count),
        control_flip_rate=float((right & (unmoved == wrong)).sum() / count),
        example=None
        if first is None
        else (pixels[first], attacked[first], classes[int(labels[first])], classes[int(wrong[first])]),
    )


def write_word(pixels: Pixels, word: str) -> Pixels:
    """A copy of a picture uint8 [H, W, 3] with a word across its lower part, as large as fits."""
    image = Image.fromarray(pixels)
    draw = ImageDraw.Draw(image)
    width, height = image.size
    margin = max(1, width // 32)
    size = max(6, round(height / 5))
    font = _font(size)
    while size > 6 and draw.textlength(word, font=font) > width - 4 * margin:
        size -= 1
        font = _font(size)
    left, top, right, bottom = draw.textbbox((0, 0), word, font=font)
    x = (width - (right - left)) / 2 - left
    y = height - (bottom - top) - 3 * margin - top
    plate = (x + left - margin, y + top - margin, x + right + margin, y + bottom + margin)
    draw.rectangle(plate, fill=_PLATE)
    draw.text((x, y), word, font=font, fill=_INK)
    return np.asarray(image)


@lru_cache(maxsize=64)
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """The font that comes with Pillow; loading it takes longer than writing a word."""
    return ImageFont.load_default(size)


def _no_word(word: str, rng: random.Random) -> str:
    """Consonants in place of a word's letters: as wide, and meaning nothing."""
    return "".join(rng.choice("bcdfghjklmnpqrstvwxz") if letter.isalpha() else letter for letter in word)
