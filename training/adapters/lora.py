"""Low-rank adaptation (LoRA, Hu et al. 2021, arXiv 2106.09685) of open_clip's towers.

A weight ``W`` becomes ``W + alpha / rank · B A`` with ``B`` zero at first, so that nothing changes before the first
step. It is done with ``torch.nn.utils.parametrize``, because half of a block's weights belong to no linear layer:
``nn.MultiheadAttention`` keeps queries, keys and values in one parameter ``in_proj_weight`` (peft #761), and uses its
``out_proj`` without calling it. A fused weight gets a low-rank matrix for each of its three thirds.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from typing import Literal

import torch
from open_clip.transformer import Attention
from pydantic import BaseModel, ConfigDict, Field
from torch import nn
from torch.nn.utils import parametrize

from sightline.errors import RecipeError

Target = Literal["attention", "mlp", "convolution"]
Tower = Literal["image", "text"]


class LoraSettings(BaseModel):
    """The ``[adapters.lora]`` table.

    ``rank`` is lowered where a weight is smaller. ``alpha / rank`` scales what is learnt. ``targets``: the products of
    attention, those of the blocks' MLPs, and 1 x 1 convolutions (ResNets).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    rank: int = Field(default=8, ge=1)
    alpha: float = Field(default=8.0, gt=0)
    targets: tuple[Target, ...] = Field(default=("attention", "mlp", "convolution"), min_length=1)
    towers: tuple[Tower, ...] = Field(default=("image", "text"), min_length=1)


class LowRank(nn.Module):
    """Adds ``scale · up @ down`` to a weight; ``down`` [parts, rank, in], ``up`` [parts, out / parts, rank]."""

    def __init__(
        self, weight: torch.Tensor, *, rank: int, alpha: float, parts: int, generator: torch.Generator
    ) -> None:
        super().__init__()
        num_out, num_in = weight.shape[0] // parts, weight.flatten(1).shape[1]
        rank = min(rank, num_out, num_in)
        self.scale = alpha / rank
        bound = 1 / math.sqrt(num_in)  # what nn.Linear starts with
        down = torch.empty(parts, rank, num_in).uniform_(-bound, bound, generator=generator)
        self.down = nn.Parameter(down.to(weight.device, weight.dtype))
        self.up = nn.Parameter(torch.zeros(parts, num_out, rank, device=weight.device, dtype=weight.dtype))
        self._holds = False
        self._held: torch.Tensor | None = None

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        """A weight [out, in] or [out, in, 1, 1] with what was learnt; in the weight's own precision."""
        if self._held is not None:
            return self._held
        with full_precision(weight.device):
            learnt = torch.bmm(self.up, self.down)  # [parts, out / parts, in]
            changed = torch.add(weight, learnt.view(weight.shape), alpha=self.scale)
        if self._holds:
            self._held = changed
        return changed

    def hold(self, on: bool) -> None:
        """Compute the weight once from now on, or at each call again. Not thread-safe."""
        self._holds, self._held = on, None


def attach_lora(model: nn.Module, settings: LoraSettings, *, seed: int = 0) -> tuple[str, ...]:
    """Give the towers of an open_clip model low-rank matrices and return the names of their parameters.

    What the model computes stays the same, bit for bit. Raises RecipeError when there is nothing to adapt.
    """
    generator = torch.Generator().manual_seed(seed)
    heads = {id(part) for block in model.modules() if hasattr(block, "head_kind") for part in block.modules()}
    chosen = [
        place
        for tower in settings.towers
        for place in _weights_of(image_tower(model) if tower == "image" else text_blocks(model))
        if place[3] in settings.targets and id(place[0]) not in heads  # a new head is trained itself
    ]
    if not chosen:
        raise RecipeError(
            f"LoRA finds no {' or '.join(settings.targets)} in the {' or '.join(settings.towers)} tower; "
            "name other targets or towers in [adapters.lora]."
        )
    for module, tensor, parts, _ in chosen:
        low_rank = LowRank(
            getattr(module, tensor), rank=settings.rank, alpha=settings.alpha, parts=parts, generator=generator
        )
        parametrize.register_parametrization(module, tensor, low_rank)
        if tensor == "in_proj_weight":
            module.register_forward_pre_hook(_hold)
            module.register_forward_hook(_release, always_call=True)
    return tuple(name for name, _ in model.named_parameters() if is_low_rank(name))


def full_precision(device: torch.device) -> contextlib.AbstractContextManager[object]:
    """No autocast inside: a weight is changed in its own precision, so that what is exported is what was trained."""
    if torch.amp.is_autocast_available(device.type):
        return torch.autocast(device.type, enabled=False)
    return contextlib.nullcontext()


def is_low_rank(name: str) -> bool:
    """Whether a parameter's name is that of a low-rank matrix."""
    return "parametrizations." in name and name.endswith((".down", ".up"))


def remove_hooks(module: nn.Module) -> None:
    """Take back what ``attach_lora`` has a module do around its forward pass."""
    for hooks, ours in ((module._forward_pre_hooks, _hold), (module._forward_hooks, _release)):
        for number in [number for number, hook in hooks.items() if hook is ours]:
            del hooks[number]


def _hold(module: nn.Module, _: object) -> None:
    """``nn.MultiheadAttention`` asks for its fused weight three times in one forward pass, twice only to look at it; a
    step of ViT-B/32 is 1 to 3 % shorter without. It is held for this call only: gradient checkpointing and the gradient
    cache compute the same blocks again, with graphs of their own."""
    for low_rank in _low_ranks(module):
        low_rank.hold(True)


def _release(module: nn.Module, _: object, __: object) -> None:
    for low_rank in _low_ranks(module):
        low_rank.hold(False)


def _low_ranks(module: nn.Module) -> Iterator[LowRank]:
    if parametrize.is_parametrized(module, "in_proj_weight"):
        for one in module.parametrizations.in_proj_weight:  # type: ignore[union-attr]
            if isinstance(one, LowRank):
                yield one


def image_tower(model: nn.Module) -> nn.Module:
    """The image tower of an open_clip model."""
    return model.visual  # type: ignore[return-value]


def text_blocks(model: nn.Module) -> nn.Module:
    """The blocks of the text tower of an open_clip model."""
    tower: nn.Module = getattr(model, "text", model)
    return getattr(tower, "transformer", tower)


def _weights_of(tower: nn.Module) -> Iterator[tuple[nn.Module, str, int, Target]]:
    """Every weight that can be adapted: its module, its name there, how many weights are fused in it, what it does."""
    for path, module in tower.named_modules():
        attends = any("attn" in part for part in path.split("."))
        if isinstance(module, nn.MultiheadAttention | Attention):
            if module.in_proj_weight is not None:
                yield module, "in_proj_weight", 3, "attention"
            else:  # keys and values of another width than the queries: CoCa's pooler
                for tensor in ("q_proj_weight", "k_proj_weight", "v_proj_weight"):
                    yield module, tensor, 1, "attention"
        elif isinstance(module, nn.Linear) and not _is_projection(path):
            parts = 3 if path.endswith("qkv") else 2 if path.endswith(".kv") else 1
            yield module, "weight", parts, "mlp" if ".mlp." in f".{path}." or not attends else "attention"
        elif isinstance(module, nn.Conv2d) and module.kernel_size == (1, 1) and module.groups == 1:
            yield module, "weight", 1, "convolution"


def _is_projection(path: str) -> bool:
    """Whether a linear layer maps a timm tower's features into the shared space: a head, not a part of the tower."""
    return path in ("head.proj", "trunk.head") or path.startswith("head.mlp")
