"""What the scene records of the drawn world allow: naming the colour and the shape of single things, and the truth
about swapped captions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from training.evaluation.bootstrap import Bootstrap
from training.evaluation.encoding import EncodesPairs
from training.evaluation.places import Rows, Vectors
from training.evaluation.zero_shot import ZeroShot, ensemble, zero_shot
from training.world.scene import COLOURS, SHAPES, SIZES, Scene, from_record


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


def shape_labels(singles: Mapping[int, Scene]) -> dict[int, int]:
    """The number of each single thing's shape, by row."""
    return {row: SHAPES.index(scene.things[0].shape) for row, scene in singles.items()}


def shape_vectors(encoder: EncodesPairs) -> Vectors:
    """float32 [8, D], one for each shape."""
    return ensemble(encoder, [shape_prompts(shape) for shape in SHAPES])


def name_things(
    encoder: EncodesPairs, images: Vectors, singles: Mapping[int, Scene], bootstrap: Bootstrap | None = None
) -> tuple[ZeroShot, ZeroShot]:
    """Name the colour and the shape of single things; ``images`` [N, D] are all pictures."""
    rows = np.fromiter(singles, np.int64, len(singles))
    colours = ensemble(encoder, [colour_prompts(colour) for colour in COLOURS])  # [8, D]
    colour_labels: Rows = np.array([COLOURS.index(scene.things[0].colour) for scene in singles.values()], np.int64)
    shapes = np.fromiter(shape_labels(singles).values(), np.int64, len(singles))
    return (
        zero_shot("colour", COLOURS, images[rows], colours, colour_labels, bootstrap),
        zero_shot("shape", SHAPES, images[rows], shape_vectors(encoder), shapes, bootstrap),
    )


def _phrase(size: str, colour: str, shape: str) -> str:
    return f"{'an' if size[0] in 'aeiou' else 'a'} {size} {colour} {shape}"
