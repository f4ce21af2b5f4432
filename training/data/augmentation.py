"""Changed pictures that their captions still describe: crop, mirror, colours.

Works on the decoded uint8 pixels, off by default. What is drawn for a picture depends on (seed, step, row) alone, so a
resumed run and every rank of a distributed one see the same. A picture whose caption of this step says left or right is
not mirrored; one whose caption names a colour keeps its colours.

All changes of colour together are one affine map of RGB (brightness, contrast and saturation are linear, hue turns the
chroma plane of YIQ), so a picture is read and written once; torchvision clips between its steps, we do at the end.
Crop, mirror and colours together take 0.19 ms a picture of 64 px and 0.91 ms one of 224 px on a core of a Xeon.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, model_validator

from sightline.images import Pixels
from training.data.words import COLOURS, DIRECTIONS, WordList

_Floats = npt.NDArray[np.float64]
_GREY = np.array([0.299, 0.587, 0.114])
_TO_YIQ = np.array([_GREY, [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])
_FROM_YIQ = np.linalg.inv(_TO_YIQ)
_PURPOSE = 1  # keeps these draws apart from those of captions and negatives


class AugmentationSettings(BaseModel):
    """The [data.augmentation] table.

    ``crop_scale`` (such as [0.9, 1.0]) is the share of the picture's area that a random crop keeps, ``crop_ratio`` the
    range of its shape relative to the picture's; the crop is taken from the encoder's pixels and brought back to their
    size. ``mirror`` and ``greyscale`` are chances. ``brightness``, ``contrast`` and ``saturation`` are the largest
    change of a factor around 1, ``hue`` the largest turn as a share of the colour circle. ``caption_aware = false``
    ignores what captions say; ``direction_words`` and ``colour_words`` are added to the built-in lists.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    crop_scale: tuple[float, float] | None = None
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)
    mirror: float = Field(default=0.0, ge=0, le=1)
    brightness: float = Field(default=0.0, ge=0, le=1)
    contrast: float = Field(default=0.0, ge=0, le=1)
    saturation: float = Field(default=0.0, ge=0, le=1)
    hue: float = Field(default=0.0, ge=0, le=0.5)
    greyscale: float = Field(default=0.0, ge=0, le=1)
    caption_aware: bool = True
    direction_words: tuple[str, ...] = ()
    colour_words: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _ranges_fit(self) -> AugmentationSettings:
        if self.crop_scale is not None and not 0 < self.crop_scale[0] <= self.crop_scale[1] <= 1:
            raise ValueError("needs crop_scale as two shares of the area, the smaller first, above 0 and up to 1")
        if not 0 < self.crop_ratio[0] <= self.crop_ratio[1]:
            raise ValueError("needs crop_ratio as two factors above 0, the smaller first")
        return self

    @property
    def changes_colours(self) -> bool:
        """Whether any picture may get other colours."""
        return any((self.brightness, self.contrast, self.saturation, self.hue, self.greyscale))

    @property
    def on(self) -> bool:
        """Whether any picture may change at all."""
        return self.crop_scale is not None or self.mirror > 0 or self.changes_colours


class Augmentation:
    """Random changes of pictures, by several threads at once (Pillow lets go of the GIL): by default one for each core,
    eight at most. Thread-safe."""

    def __init__(self, settings: AugmentationSettings, seed: int, *, num_threads: int | None = None) -> None:
        self._num_threads = num_threads or min(8, len(os.sched_getaffinity(0)))
        self._pool = ThreadPoolExecutor(self._num_threads, thread_name_prefix="augmentation")  # no thread before work
        self._settings = settings
        self._seed = seed
        self._directions = WordList((*DIRECTIONS, *settings.direction_words))
        self._colours = WordList((*COLOURS, *settings.colour_words))

    def apply(self, pixels: Pixels, said: Sequence[Sequence[str]], step: int, rows: npt.NDArray[np.int64]) -> Pixels:
        """Changed copies of uint8 pixels [B, H, W, 3]; ``said`` are the texts of this step that must stay as true of
        picture i as they are, ``rows`` [B] the pictures' rows in the data."""
        changed = np.empty_like(pixels)  # [B, H, W, 3]

        def change(part: range) -> None:
            for place in part:
                rng = np.random.default_rng([self._seed, step, int(rows[place]), _PURPOSE])
                changed[place] = np.asarray(self._one(pixels[place], said[place], rng))

        parts = [range(start, len(pixels), self._num_threads) for start in range(self._num_threads)]
        list(self._pool.map(change, parts))
        return changed

    def _one(self, picture: Pixels, texts: Sequence[str], rng: np.random.Generator) -> Image.Image:
        """One picture [H, W, 3]. Every draw is made whatever the texts say, so that words change nothing but what they
        forbid."""
        settings = self._settings
        draws = rng.random(10)
        aware = settings.caption_aware
        image = Image.fromarray(picture)
        if settings.crop_scale is not None:
            box = _crop_box(picture.shape, settings.crop_scale, settings.crop_ratio, draws[:4])
            image = image.resize(image.size, Image.Resampling.BICUBIC, box=box)
        if draws[4] < settings.mirror and not (aware and any(map(self._directions.named_in, texts))):
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        if settings.changes_colours and not (aware and any(map(self._colours.named_in, texts))):
            image = self._recoloured(image, draws[5:])
        return image

    def _recoloured(self, image: Image.Image, draws: _Floats) -> Image.Image:
        settings = self._settings
        grey = draws[0] < settings.greyscale
        largest = (settings.brightness, settings.contrast, settings.saturation)
        brightness, contrast, saturation = (
            1 + size * (2 * draw - 1) for size, draw in zip(largest, draws[1:4].tolist(), strict=True)
        )
        turn = settings.hue * (2 * draws[4] - 1)
        if grey:
            saturation, turn = 0.0, 0.0
        if turn == 0 and brightness == contrast == saturation == 1:
            return image
        matrix = _hue_matrix(turn) @ _saturation_matrix(saturation) * (brightness * contrast)  # [3, 3]
        offset = (1 - contrast) * brightness * _mean_grey(image) if contrast != 1 else 0.0
        rows = ((*row, offset) for row in matrix.tolist())
        return image.convert("RGB", tuple(value for row in rows for value in row))


def _crop_box(
    shape: tuple[int, ...], scale: tuple[float, float], ratio: tuple[float, float], draws: _Floats
) -> tuple[float, float, float, float]:
    """Left, top, right, bottom in pixels. Where the drawn shape would leave the picture, that side is taken whole."""
    height, width = shape[:2]
    area = scale[0] + (scale[1] - scale[0]) * draws[0]
    stretch = math.exp(math.log(ratio[0]) + (math.log(ratio[1]) - math.log(ratio[0])) * draws[1])
    box_width = width * min(1.0, math.sqrt(area * stretch))
    box_height = height * min(1.0, math.sqrt(area / stretch))
    left, top = (width - box_width) * draws[2], (height - box_height) * draws[3]
    return left, top, min(left + box_width, width), min(top + box_height, height)


def _saturation_matrix(factor: float) -> _Floats:
    return factor * np.eye(3) + (1 - factor) * np.tile(_GREY, (3, 1))


def _hue_matrix(turn: float) -> _Floats:
    """A rotation of the chroma plane by a share of the full circle; the grey value stays."""
    if turn == 0:
        return np.eye(3)
    cos, sin = math.cos(2 * math.pi * turn), math.sin(2 * math.pi * turn)
    turned: _Floats = _FROM_YIQ @ np.array([[1, 0, 0], [0, cos, -sin], [0, sin, cos]]) @ _TO_YIQ
    return turned


def _mean_grey(image: Image.Image) -> float:
    counts = np.array(image.histogram(), np.float64).reshape(3, 256)  # [channel, value]
    return float(_GREY @ counts @ np.arange(256) / (image.width * image.height))
