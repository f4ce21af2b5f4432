"""A linear map on text vectors, trained while everything else is frozen (LABCLIP, arXiv 2502.03566).

Learning which word belongs to which noun needs nothing of the image tower: a ``D x D`` matrix on the text side is
enough, with swapped captions as negatives. Image vectors stay as they are, bit for bit, so that a collection of
pictures need not be encoded again. The map acts before vectors are normalised and is linear, so it folds into the
projection exactly: the exported encoder is an ordinary one.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.utils import parametrize

from sightline.errors import RecipeError
from training.adapters.lora import full_precision


class TextMap(nn.Module):
    """The map ``v → v (I + change)``; weight decay pulls it towards leaving vectors as they are."""

    def __init__(self, dim: int, like: torch.Tensor) -> None:
        super().__init__()
        self.change = nn.Parameter(torch.zeros(dim, dim, device=like.device, dtype=like.dtype))

    def matrix(self) -> torch.Tensor:
        """``I + change`` [D, D]."""
        return torch.eye(len(self.change), device=self.change.device, dtype=self.change.dtype) + self.change


class _Mapped(nn.Module):
    """A projection [W, D] followed by the map."""

    def __init__(self, text_map: TextMap) -> None:
        super().__init__()
        self.text_map = text_map

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        with full_precision(weight.device):
            return weight @ self.text_map.matrix()


class _MappedLayer(_Mapped):
    """The same for the weight [D, W] or the bias [D] of a linear layer, which keeps its weight transposed."""

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        with full_precision(weight.device):
            return self.text_map.matrix().T @ weight


def attach_text_map(model: nn.Module) -> tuple[str, ...]:
    """Put a map that changes nothing yet behind the text projection and return the name of its parameter.

    Raises RecipeError for a text tower without a projection.
    """
    tower: nn.Module = getattr(model, "text", model)
    projection = getattr(tower, "text_projection", None)
    if isinstance(projection, nn.Linear):
        text_map = TextMap(projection.out_features, projection.weight)
        parametrize.register_parametrization(projection, "weight", _MappedLayer(text_map))
        if projection.bias is not None:
            parametrize.register_parametrization(projection, "bias", _MappedLayer(text_map))
    elif isinstance(projection, nn.Parameter):
        text_map = TextMap(projection.shape[1], projection)
        parametrize.register_parametrization(tower, "text_projection", _Mapped(text_map))
    else:
        raise RecipeError(
            "This text tower has no projection that a map could fold into; take lora in [adapters] for it."
        )
    return tuple(name for name, _ in model.named_parameters() if is_text_map(name))


def is_text_map(name: str) -> bool:
    """Whether a parameter's name is that of the map."""
    return "parametrizations." in name and name.endswith("text_map.change")
