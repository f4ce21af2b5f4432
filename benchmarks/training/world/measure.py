"""What is measured of a model on held-out pictures."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from benchmarks.training.world.batches import Tokenised
from training.evaluation import image_to_text, pairs_ranked_rightly, text_to_image
from training.towers import Towers

Vectors = npt.NDArray[np.float32]
AT_ONCE = 512
MEAN = STD = (0.5, 0.5, 0.5)
"""Of a recipe that names none."""
R_AT_1 = "text_to_image_recall_at_1"


@dataclass(frozen=True)
class Measured:
    """Shares in [0, 1]; ``gap`` is the distance between the mean picture and the mean caption, in [0, 2]."""

    text_to_image: float
    image_to_text: float
    gap: float
    swaps_right: float

    def as_json(self) -> dict[str, float]:
        return {
            R_AT_1: self.text_to_image, "image_to_text_recall_at_1": self.image_to_text,
            "gap": self.gap, "swaps_right": self.swaps_right,
        }  # fmt: skip


@torch.inference_mode()
def vectors_of(model: nn.Module, data: Tokenised) -> tuple[Vectors, Vectors, Vectors]:
    """Unit vectors of the pictures [N, D], of all captions [N * C, D] and of all swaps [N * C, D], in eval mode."""
    model.eval()
    towers = Towers(model, MEAN, STD)

    def texts(tokens: npt.NDArray[np.int64]) -> Vectors:
        flat = torch.from_numpy(tokens.reshape(-1, tokens.shape[-1]))
        found: Vectors = torch.cat([towers.encode_texts(part) for part in torch.split(flat, AT_ONCE)]).numpy()
        return found

    images = torch.cat([towers.encode_images(part) for part in torch.split(torch.from_numpy(data.pixels), AT_ONCE)])
    return images.numpy(), texts(data.captions), texts(data.swaps)


def measure(model: nn.Module, data: Tokenised) -> Measured:
    """Retrieval with every caption as a query, the gap, and pictures nearer to a caption than to its swap."""
    images, captions, swaps = vectors_of(model, data)
    num_forms = data.captions.shape[1]
    rows = np.repeat(np.arange(len(images)), num_forms)  # [N * C]
    swapped = np.repeat(data.has_swap, num_forms)  # [N * C]
    return Measured(
        text_to_image=text_to_image(captions, images, rows).recall[1],
        image_to_text=image_to_text(images, captions, rows).recall[1],
        gap=float(np.linalg.norm(images.mean(axis=0) - captions.mean(axis=0))),
        swaps_right=pairs_ranked_rightly(images[rows[swapped]], captions[swapped], swaps[swapped]),
    )
