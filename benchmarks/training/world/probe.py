"""What vectors hold, whether or not training ever asked for it: a linear probe."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from torch import nn

from benchmarks.training.world.batches import Tokenised
from benchmarks.training.world.measure import Vectors, vectors_of
from benchmarks.training.world.scenes import SHAPES, exchange
from training.world.scene import COLOURS, Scene

NUM_LEARNT_FROM = 4000


def binding_held(
    model: nn.Module, train: Tokenised, train_scenes: Sequence[Scene], held_out: Tokenised, scenes: Sequence[Scene]
) -> dict[str, float]:
    """Shares of held-out scenes of two things that a linear reading of one vector alone tells from their swap.

    Least squares from a vector to the colour and shape of the first and of the second thing, learnt on training
    scenes. ``image_probe`` reads image vectors, ``text_probe`` vectors of captions. A linear map between the two sides
    can bring into line only what both hold.
    """
    few = train.first(NUM_LEARNT_FROM)
    images, texts, _ = vectors_of(model, few)
    held_images, held_texts, _ = vectors_of(model, held_out)
    num_forms, num_held_forms = few.captions.shape[1], held_out.captions.shape[1]
    targets = _slots(train_scenes[:NUM_LEARNT_FROM])
    true, swapped = _slots(scenes), _slots([exchange(scene) or scene for scene in scenes])
    two = held_out.has_swap

    def share(vectors: Vectors, wanted: Vectors, held: Vectors, forms: int) -> float:
        weights = np.linalg.lstsq(_with_one(vectors), wanted, rcond=None)[0]  # [D + 1, S]
        read = _with_one(held) @ weights  # [N, S]
        margins = (read * np.repeat(true - swapped, forms, axis=0)).sum(axis=1)  # [N]
        return float((margins[np.repeat(two, forms)] > 0).mean())

    return {
        "image_probe": share(images, targets, held_images, 1),
        "text_probe": share(texts, np.repeat(targets, num_forms, axis=0), held_texts, num_held_forms),
    }


def _slots(scenes: Sequence[Scene]) -> npt.NDArray[np.float32]:
    """Ones for the colour and the shape of each thing in its place, float32 [N, 26]."""
    each = len(COLOURS) + len(SHAPES)
    slots = np.zeros((len(scenes), 2 * each), np.float32)
    for row, scene in enumerate(scenes):
        for place, thing in enumerate(scene.things):
            slots[row, place * each + COLOURS.index(thing.colour)] = 1
            slots[row, place * each + len(COLOURS) + SHAPES.index(thing.shape)] = 1
    return slots


def _with_one(vectors: Vectors) -> Vectors:
    return np.concatenate([vectors, np.ones((len(vectors), 1), vectors.dtype)], axis=1)
