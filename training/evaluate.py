"""How good an encoder is on captioned pictures: retrieval both ways, and on drawn scenes naming and word
order.

Works on any source with captions. Pictures that carry a scene record of the drawn world are also classified
zero-shot by colour and by shape (those with a single thing), and asked for the right order of words
(those with a swapped caption).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from sightline.images import Pixels
from training.data import Captioned
from training.metrics import (
    RECALL_AT,
    Retrieval,
    Rows,
    Vectors,
    class_vectors,
    classify,
    image_to_text,
    pairs_ranked_rightly,
    text_to_image,
)
from training.world.scene import COLOURS, SHAPES, SIZES, Scene, from_record

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


@dataclass(frozen=True, slots=True)
class Report:
    """Everything measured. Shares are in [0, 1]; what the data do not allow is None.

    ``first_text_to_image`` takes only the first caption of each picture as query, ``text_to_image`` all
    of them.
    """

    num_images: int
    num_captions: int
    first_text_to_image: Retrieval
    text_to_image: Retrieval
    image_to_text: Retrieval
    zero_shot_colour: float | None
    zero_shot_shape: float | None
    num_single: int
    swaps_ranked_rightly: float | None
    num_swaps: int

    def values(self) -> dict[str, float | int]:
        """The figures by flat names, for JSON and tables."""
        found: dict[str, float | int] = {"num_images": self.num_images, "num_captions": self.num_captions}
        for name, retrieval in (
            ("text_to_image", self.first_text_to_image),
            ("any_text_to_image", self.text_to_image),
            ("image_to_text", self.image_to_text),
        ):
            for k in RECALL_AT:
                found[f"{name}_recall_at_{k}"] = round(retrieval.recall[k], 4)
            found[f"{name}_median_rank"] = retrieval.median_rank
        if self.zero_shot_colour is not None and self.zero_shot_shape is not None:
            found["zero_shot_colour"] = round(self.zero_shot_colour, 4)
            found["zero_shot_shape"] = round(self.zero_shot_shape, 4)
            found["num_single"] = self.num_single
        if self.swaps_ranked_rightly is not None:
            found["swaps_ranked_rightly"] = round(self.swaps_ranked_rightly, 4)
            found["num_swaps"] = self.num_swaps
        return found


def evaluate(encoder: EncodesPairs, data: Captioned, *, progress: Progress | None = None) -> Report:
    """Encode every picture and caption once and measure. Deterministic for a deterministic encoder."""
    images = encode_all_pixels(encoder, data.pixels, progress)  # [N, D]
    captions = [text for several in data.captions for text in several]
    texts = encode_all_texts(encoder, captions, progress)  # [T, D]
    rows = data.caption_rows()
    first = np.unique(rows, return_index=True)[1]  # [N]
    singles = single_scenes(data.metadata)
    swaps = swap_pairs(data.metadata)
    colour, shape = zero_shot(encoder, images, singles) if singles else (None, None)
    return Report(
        num_images=len(images),
        num_captions=len(texts),
        first_text_to_image=text_to_image(texts[first], images, np.arange(len(images))),
        text_to_image=text_to_image(texts, images, rows),
        image_to_text=image_to_text(images, texts, rows),
        zero_shot_colour=colour,
        zero_shot_shape=shape,
        num_single=len(singles),
        swaps_ranked_rightly=rank_swaps(encoder, images, swaps) if swaps else None,
        num_swaps=len(swaps),
    )


def encode_all_pixels(encoder: EncodesPairs, pixels: Pixels, progress: Progress | None = None) -> Vectors:
    """Unit vectors float32 [N, D] of uint8 pixels [N, H, W, 3], a few at a time."""
    parts: list[Vectors] = []
    for start in range(0, len(pixels), IMAGES_AT_ONCE):
        parts.append(encoder.encode_pixels(pixels[start : start + IMAGES_AT_ONCE]))
        if progress is not None:
            progress(len(parts[-1]))
    return np.concatenate(parts)


def encode_all_texts(encoder: EncodesPairs, texts: Sequence[str], progress: Progress | None = None) -> Vectors:
    """Unit vectors float32 [T, D] of texts, a few at a time."""
    parts: list[Vectors] = []
    for start in range(0, len(texts), TEXTS_AT_ONCE):
        parts.append(encoder.encode_texts(texts[start : start + TEXTS_AT_ONCE]))
        if progress is not None:
            progress(len(parts[-1]))
    return np.concatenate(parts)


def single_scenes(metadata: Sequence[Mapping[str, Any]]) -> dict[int, Scene]:
    """The drawn scenes with one thing, by row."""
    scenes = ((row, from_record(record)) for row, record in enumerate(metadata))
    return {row: scene for row, scene in scenes if scene is not None and len(scene.things) == 1}


def swap_pairs(metadata: Sequence[Mapping[str, Any]]) -> dict[int, tuple[str, str]]:
    """(true caption, swapped caption) of the drawn scenes that have one, by row."""
    pairs: dict[int, tuple[str, str]] = {}
    for row, record in enumerate(metadata):
        swap = record.get("swap")
        if isinstance(swap, Mapping) and from_record(record) is not None:
            pairs[row] = (str(swap["true"]), str(swap["swapped"]))
    return pairs


def colour_prompts(colour: str) -> list[str]:
    """Prompts for a colour: every size and shape in that colour, so that neither gives it away."""
    return [_phrase(size, colour, shape) for size in SIZES for shape in SHAPES]


def shape_prompts(shape: str) -> list[str]:
    """Prompts for a shape: every size and colour of that shape."""
    return [_phrase(size, colour, shape) for size in SIZES for colour in COLOURS]


def zero_shot(encoder: EncodesPairs, images: Vectors, singles: Mapping[int, Scene]) -> tuple[float, float]:
    """Accuracy of naming the colour and the shape of single things, by prompt ensembles (CLIP, section
    3.1.4)."""
    rows = np.fromiter(singles, np.int64, len(singles))
    things = [scene.things[0] for scene in singles.values()]
    colours = class_vectors([encoder.encode_texts(colour_prompts(colour)) for colour in COLOURS])  # [8, D]
    shapes = class_vectors([encoder.encode_texts(shape_prompts(shape)) for shape in SHAPES])  # [8, D]
    colour_labels: Rows = np.array([COLOURS.index(thing.colour) for thing in things], np.int64)
    shape_labels: Rows = np.array([SHAPES.index(thing.shape) for thing in things], np.int64)
    return classify(images[rows], colours, colour_labels), classify(images[rows], shapes, shape_labels)


def rank_swaps(encoder: EncodesPairs, images: Vectors, swaps: Mapping[int, tuple[str, str]]) -> float:
    """The share of pictures that are nearer to their true caption than to its swap; chance is 0.5."""
    rows = np.fromiter(swaps, np.int64, len(swaps))
    true = encode_all_texts(encoder, [pair[0] for pair in swaps.values()])
    swapped = encode_all_texts(encoder, [pair[1] for pair in swaps.values()])
    return pairs_ranked_rightly(images[rows], true, swapped)


def _phrase(size: str, colour: str, shape: str) -> str:
    return f"{'an' if size[0] in 'aeiou' else 'a'} {size} {colour} {shape}"
