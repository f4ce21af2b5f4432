"""What can be added to a trained encoder and trained instead of it; nothing of it is left in the exported bundle.

``attach`` adds it to a checkpoint, the stages of a recipe say when it is trained (``training.stages``), ``merge`` folds
it into the weights.
"""

from __future__ import annotations

import torch
from pydantic import BaseModel, ConfigDict
from torch import nn
from torch.nn.utils import parametrize

from sightline.encoder.checkpoint import Checkpoint
from training.adapters.heads import HeadSettings, attach_heads, head_blocks, is_projection, is_silent, new_head_names
from training.adapters.lora import LoraSettings, LowRank, attach_lora, is_low_rank, remove_hooks
from training.adapters.text_map import attach_text_map, is_text_map

__all__ = [
    "AdapterSettings",
    "HeadSettings",
    "LoraSettings",
    "LowRank",
    "adapter_state",
    "attach",
    "head_blocks",
    "is_low_rank",
    "is_projection",
    "is_silent",
    "is_text_map",
    "merge",
]


class AdapterSettings(BaseModel):
    """The ``[adapters]`` table: low-rank matrices, new heads, a linear map on text vectors, or several of them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    lora: LoraSettings | None = None
    heads: HeadSettings | None = None
    text_map: bool = False


def attach(checkpoint: Checkpoint, settings: AdapterSettings, *, seed: int = 0) -> tuple[str, ...]:
    """Add what ``settings`` ask for to a checkpoint's model and return the names of the new parameters.

    The same settings and seed give the same names and values, so a resumed run attaches and then loads its state. New
    heads change ``model_cfg``. Raises RecipeError where the towers cannot have it.
    """
    if settings.heads is not None:
        attach_heads(checkpoint, settings.heads, seed=seed)
    if settings.lora is not None:
        attach_lora(checkpoint.model, settings.lora, seed=seed)
    if settings.text_map:
        attach_text_map(checkpoint.model)
    heads = new_head_names(checkpoint.model, settings.heads) if settings.heads is not None else ()
    return tuple(
        name
        for name, _ in checkpoint.model.named_parameters()
        if name in heads or is_low_rank(name) or is_text_map(name)
    )


def merge(model: nn.Module) -> nn.Module:
    """Fold adapters into the weights, in place: an ordinary open_clip model that gives the same vectors."""
    with torch.no_grad():
        for module in list(model.modules()):
            if parametrize.is_parametrized(module):
                remove_hooks(module)
                # torch makes a class for the module, shares it with copies of the module, and unmakes it here.
                own = type(module)
                module.__class__ = type(own.__name__, own.__bases__, dict(own.__dict__))
                for tensor in list(module.parametrizations):  # type: ignore[arg-type]
                    parametrize.remove_parametrizations(module, tensor, leave_parametrized=True)
    return model


def adapter_state(model: nn.Module) -> dict[str, torch.Tensor]:
    """The values of low-rank matrices and text map alone: a few per cent of the model, for keeping many of them."""
    return {
        name: parameter.detach().clone()
        for name, parameter in model.named_parameters()
        if is_low_rank(name) or is_text_map(name)
    }
