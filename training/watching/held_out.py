"""Pairs that training never sees, encoded as they are during the run: for the canary and for the explorer."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import nn

from sightline.images import Pixels
from training.batch import Batch, Features, Tokens

Vectors = npt.NDArray[np.float32]

Encode = Callable[[Batch], tuple[torch.Tensor, torch.Tensor]]
"""A batch to the unit vectors of its pictures [B, D] and of its texts [B, D]."""

AT_ONCE = 64
THUMBNAIL_PX = 72


@dataclass(frozen=True, slots=True)
class HeldOut:
    """N pictures with one caption each.

    ``pixels`` uint8 [N, H, W, 3]; ``features`` float32 [N, F], where the image tower is locked and cached, are encoded
    instead of them. ``tokens`` int64 [N, L] in the numbering that the model has during the run (see
    ``training.vocabulary``).
    """

    pixels: Pixels | None
    features: Features | None
    tokens: Tokens
    captions: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.captions)

    def first(self, num: int) -> HeldOut:
        """At most ``num`` pairs, evenly spread over all of them."""
        if num >= len(self):
            return self
        rows = spread_rows(len(self), num)
        return HeldOut(
            None if self.pixels is None else self.pixels[rows],
            None if self.features is None else self.features[rows],
            self.tokens[rows],
            tuple(self.captions[row] for row in rows),
        )

    def encode(self, model: nn.Module, encode: Encode) -> tuple[Vectors, Vectors]:
        """Unit vectors float32 [N, D] of pictures and of captions by the model as it is now.

        Neither the model's mode, module by module, nor the random state changes: a run that looks at held-out pairs
        takes the same steps as one that does not.
        """
        images: list[Vectors] = []
        texts: list[Vectors] = []
        with evaluating(model), torch.no_grad():
            for start in range(0, len(self), AT_ONCE):
                image_vectors, text_vectors = encode(self._part(start))
                images.append(image_vectors.float().cpu().numpy())
                texts.append(text_vectors.float().cpu().numpy())
        return np.concatenate(images), np.concatenate(texts)

    def thumbnails(self) -> list[str]:
        """Each picture as a small JPEG in base64; none where only features are known."""
        return [] if self.pixels is None else [_thumbnail(pixels) for pixels in self.pixels]

    def _part(self, start: int) -> Batch:
        rows = np.arange(start, min(start + AT_ONCE, len(self)))
        return Batch(
            step=0,
            epoch=0,
            rows=rows,
            pixels=None if self.pixels is None or self.features is not None else self.pixels[rows],
            features=None if self.features is None else self.features[rows],
            tokens=self.tokens[rows],
        )


def spread_rows(num_rows: int, num: int) -> npt.NDArray[np.int64]:
    """At most ``num`` of ``num_rows`` rows, evenly spread and always the same: sources often lie sorted."""
    num = min(num, num_rows)
    return (np.arange(num, dtype=np.int64) * num_rows) // max(num, 1)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode for a while: afterwards each module has its own mode again, and torch its random state."""
    modes = {module: module.training for module in model.modules()}
    devices = [torch.cuda.current_device()] if torch.cuda.is_initialized() else []  # type: ignore[no-untyped-call]
    with torch.random.fork_rng(devices=devices):
        model.eval()
        try:
            yield
        finally:
            for module, mode in modes.items():
                module.training = mode


def _thumbnail(pixels: Pixels) -> str:
    picture = Image.fromarray(pixels)
    picture.thumbnail((THUMBNAIL_PX, THUMBNAIL_PX))
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=75)
    return base64.b64encode(buffer.getvalue()).decode("ascii")
