"""Both towers of a model as training runs them: a batch's pixels and tokens in, unit vectors with gradient out."""

from __future__ import annotations

import torch
from torch import nn

from sightline.encoder.text_tower import encode_tokens
from training.precision import arithmetic, same_attention, straighten_attention


class Towers(nn.Module):
    """Normalising the pixels is part of it, so that training sees the same pixels as ``sightline.encoder.Encoder``.

    ``precision`` is that of the towers (see ``training.precision``); vectors have at least float32.
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(
        self,
        model: nn.Module,
        mean: tuple[float, float, float],
        std: tuple[float, float, float],
        *,
        precision: str = "fp32",
    ) -> None:
        super().__init__()
        straighten_attention(model)
        self.model = model
        self.precision = precision
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)

    def encode_images(self, images: torch.Tensor) -> torch.Tensor:
        """Pixels uint8 [b, H, W, 3], or cached outputs of a locked tower float [b, D], to unit vectors [b, D]."""
        images = images.to(self.device, non_blocking=True)
        if images.is_floating_point():
            return _unit(images)
        scaled = images.permute(0, 3, 1, 2).to(self.mean.dtype).div(255.0)  # [b, 3, H, W]
        with arithmetic(self.precision, self.device, trained=self.trains_images):
            return _unit(self.visual(scaled.sub(self.mean).div(self.std)))

    def encode_texts(self, tokens: torch.Tensor) -> torch.Tensor:
        """Token ids int64 [t, L] to unit vectors [t, D]."""
        with arithmetic(self.precision, self.device, trained=self.trains_texts):
            return _unit(encode_tokens(self.model, tokens.to(self.device, non_blocking=True)))

    def pull(self, value: torch.Tensor, gradient: torch.Tensor | None = None) -> None:
        """Add the gradients of a value to every trainable parameter; ``gradient`` is that of the value itself, which a
        scalar does not need."""
        with same_attention(self.precision, self.device):
            torch.autograd.backward(value, gradient)

    @property
    def device(self) -> torch.device:
        """Where the towers are."""
        return self.mean.device

    @property
    def trains_images(self) -> bool:
        """Whether anything that image vectors depend on is trained."""
        return any(parameter.requires_grad for parameter in self.visual.parameters())

    @property
    def trains_texts(self) -> bool:
        """Whether anything that text vectors depend on is trained."""
        return any(
            parameter.requires_grad
            for name, parameter in self.model.named_parameters()
            if not name.startswith(("visual.", "logit_"))
        )

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


def _unit(features: torch.Tensor) -> torch.Tensor:
    exact = features.float() if features.dtype in (torch.float16, torch.bfloat16) else features
    return nn.functional.normalize(exact, dim=-1)
