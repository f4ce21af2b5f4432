"""Adversarial alignment: a small network tells images from texts, and the encoders learn to leave it guessing.

The gradient is turned round on its way from the network to the vectors (Ganin et al. 2016, DANN, arXiv 1505.07818), so
one loss and one optimiser serve both sides: the network goes down its loss, the encoders go up it.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn


def reverse_gradient(vectors: torch.Tensor, strength: float) -> torch.Tensor:
    """The vectors themselves; in the backward pass their gradient is multiplied by ``-strength``."""
    found: torch.Tensor = _ReverseGradient.apply(vectors, strength)
    return found


class _ReverseGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, vectors: torch.Tensor, strength: float) -> torch.Tensor:
        ctx.strength = strength
        return vectors.view_as(vectors)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None]:
        return -ctx.strength * grad, None


class Adversary(nn.Module):
    """Says of a vector whether it is an image's.

    Its parameters learn at full rate whatever the strength, which only scales what reaches the encoders. The loss is
    ln 2 = 0.693 when it can only guess, and 0 when the two modalities lie apart.
    """

    def __init__(self, dim: int, *, width: int, strength: float) -> None:
        super().__init__()
        self.strength = strength
        self.network = nn.Sequential(nn.Linear(dim, width), nn.GELU(), nn.Linear(width, 1))

    def forward(self, images: torch.Tensor, texts: torch.Tensor) -> torch.Tensor:
        """Binary cross entropy over both modalities, each with half the say; a scalar."""
        of_images = self.network(reverse_gradient(images, self.strength)).squeeze(1)  # [B]
        of_texts = self.network(reverse_gradient(texts, self.strength)).squeeze(1)  # [T]
        return 0.5 * (F.softplus(-of_images).mean() + F.softplus(of_texts).mean())
