"""What a step minimises: open_clip's losses over both towers' unit vectors."""

from __future__ import annotations

import torch
from open_clip.loss import ClipLoss, SigLipLoss
from torch import nn

from sightline.encoder.text_tower import encode_tokens


class Objective(nn.Module):
    """Contrastive loss of a batch: softmax (InfoNCE, CLIP) or, for a model with a logit bias, sigmoid
    (SigLIP).

    Normalising is part of it, so that training sees the same pixels as ``sightline.encoder.Encoder``.
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, model: nn.Module, mean: tuple[float, float, float], std: tuple[float, float, float]) -> None:
        super().__init__()
        self.model = model
        self.loss = ClipLoss() if self.logit_bias is None else SigLipLoss()
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)

    def forward(self, pixels: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """uint8 pixels [B, H, W, 3] and int64 tokens [B, L] to a scalar loss."""
        images = pixels.permute(0, 3, 1, 2).float().div(255.0).sub(self.mean).div(self.std)  # [B, 3, H, W]
        image_vectors = nn.functional.normalize(self.visual(images).float(), dim=-1)  # [B, D]
        text_vectors = nn.functional.normalize(encode_tokens(self.model, tokens).float(), dim=-1)  # [B, D]
        bias = () if self.logit_bias is None else (self.logit_bias,)
        loss: torch.Tensor = self.loss(image_vectors, text_vectors, self.logit_scale.exp(), *bias)
        return loss

    @property
    def visual(self) -> nn.Module:
        """The image tower."""
        return self.model.visual  # type: ignore[return-value]

    @property
    def logit_scale(self) -> nn.Parameter:
        """The logarithm of the factor on inner products."""
        return self.model.logit_scale  # type: ignore[return-value]

    @property
    def logit_bias(self) -> nn.Parameter | None:
        """The sigmoid loss's bias, None for models trained with the softmax loss."""
        return getattr(self.model, "logit_bias", None)
