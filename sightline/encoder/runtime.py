"""The encoder: uint8 pixels and texts in, unit vectors out."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import nn

from sightline.bundle import ScoreScale
from sightline.encoder.checkpoint import Checkpoint, Tokenizer, load_tokenizer
from sightline.encoder.text_tower import CausalTextTower, groups_by_length
from sightline.errors import EncodingFailed
from sightline.images import Pixels, PixelSpec, to_pixels
from sightline.texts import TextSpec

Vectors = npt.NDArray[np.float32]
Tokens = npt.NDArray[np.int64]

_MAX_CACHED_WORDS = 100_000
_TEXT_GROUP_SIZE = 32


ImageTower = Callable[[Pixels], torch.Tensor]
"""uint8 ``[B, H, W, 3]`` → features ``[B, D]``, not normalised; thread-safe."""


@dataclass(frozen=True)
class EncoderIdentity:
    """What the rest of the system needs to know of an encoder without holding it. ``same_images_as``: see
    ``sightline.bundle.BundleManifest``."""

    name: str
    fingerprint: str
    dim: int
    pixels: PixelSpec
    texts: TextSpec
    score_scale: ScoreScale
    licence: str
    untrained: bool
    precision: str
    same_images_as: tuple[str, ...] = ()


class TorchImageTower:
    """An open_clip image tower with its preprocessing: float, scale and normalise happen on the tower's device."""

    def __init__(self, tower: nn.Module, spec: PixelSpec, device: torch.device) -> None:
        self._tower = tower
        self._device = device
        self._dtype = next(tower.parameters()).dtype
        self._mean = torch.tensor(spec.mean, device=device).view(1, 3, 1, 1)
        self._std = torch.tensor(spec.std, device=device).view(1, 3, 1, 1)

    def __call__(self, pixels: Pixels) -> torch.Tensor:
        batch = torch.from_numpy(np.ascontiguousarray(pixels)).to(self._device)  # [B, H, W, 3]
        batch = batch.permute(0, 3, 1, 2).float().div_(255.0)  # [B, 3, H, W]
        batch = batch.sub_(self._mean).div_(self._std).to(self._dtype)
        return self._tower(batch)  # type: ignore[no-any-return]


class Encoder:
    """An encoder on one device, thread-safe. A vector does not depend on its batch mates beyond rounding (1e-5 in
    fp32)."""

    def __init__(
        self,
        identity: EncoderIdentity,
        checkpoint: Checkpoint,
        image_tower: ImageTower,
        text_tower: nn.Module,
        device: torch.device,
    ) -> None:
        self.identity = identity
        self.device = device
        self._checkpoint = checkpoint
        self._image_tower = image_tower
        self._text_tower = text_tower
        self._tokenizer: Tokenizer | None = None
        self._tokenizing = threading.Lock()

    @property
    def fingerprint(self) -> str:
        return self.identity.fingerprint

    @property
    def dim(self) -> int:
        return self.identity.dim

    @property
    def checkpoint(self) -> Checkpoint:
        """The loaded model itself, for training and export."""
        return self._checkpoint

    @property
    def text_tower(self) -> nn.Module:
        """The text tower as it runs: token ids int64 ``[B, L]`` → features ``[B, D]``."""
        return self._text_tower

    def preprocess(self, image: Image.Image) -> Pixels:
        """An RGB picture to uint8 ``[H, W, 3]``; thread-safe."""
        return to_pixels(image, self.identity.pixels)

    def tokenize(self, texts: Sequence[str]) -> Tokens:
        """Texts to int64 token ids ``[B, context_length]``, cleaned and padded as the checkpoint was trained.

        The first call loads the tokenizer; raises HubUnreachable when that needs a network and there is none.
        """
        with self._tokenizing:
            if self._tokenizer is None:
                self._tokenizer = load_tokenizer(self._checkpoint)
            cache = getattr(self._tokenizer, "cache", None)
            if isinstance(cache, dict) and len(cache) > _MAX_CACHED_WORDS:
                cache.clear()  # open_clip remembers every word for ever
            return np.asarray(self._tokenizer(list(texts)), dtype=np.int64)  # [B, L]

    @torch.inference_mode()
    def encode_pixels(self, pixels: Pixels) -> Vectors:
        """uint8 ``[B, H, W, 3]`` → float32 ``[B, D]``, of length 1. Raises EncodingFailed (values not finite)."""
        return self._unit(self._image_tower(pixels))

    @torch.inference_mode()
    def encode_tokens(self, tokens: Tokens) -> Vectors:
        """int64 ``[B, L]`` → float32 ``[B, D]``, of length 1. Raises EncodingFailed (values not finite)."""
        batch = torch.from_numpy(np.ascontiguousarray(tokens)).to(self.device)  # [B, L]
        if not isinstance(self._text_tower, CausalTextTower) or len(batch) <= _TEXT_GROUP_SIZE:
            return self._unit(self._text_tower(batch))
        groups = groups_by_length(batch.argmax(dim=-1), group_size=_TEXT_GROUP_SIZE)
        features = torch.cat([self._text_tower(batch[rows]) for rows in groups])  # [B, D], sorted
        return self._unit(features[torch.argsort(torch.cat(groups))])

    def encode_texts(self, texts: Sequence[str]) -> Vectors:
        """Texts → float32 ``[B, D]``, each row of length 1. Limits are the caller's business (``sightline.texts``)."""
        return self.encode_tokens(self.tokenize(texts))

    def encode_images(self, images: Sequence[Image.Image]) -> Vectors:
        """RGB pictures → float32 ``[B, D]``, each row of length 1."""
        return self.encode_pixels(np.stack([self.preprocess(image) for image in images]))

    @staticmethod
    def _unit(features: torch.Tensor) -> Vectors:
        vectors = nn.functional.normalize(features.float(), dim=-1)  # [B, D]
        if not bool(torch.isfinite(vectors).all()):
            raise EncodingFailed("The encoder produced values that are not numbers; check its weights.")
        return vectors.cpu().numpy()
