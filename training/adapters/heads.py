"""New heads on trained towers, in forms that open_clip itself can load.

``linear``     a new projection into the shared space, drawn as open_clip draws it.
``mlp``        a residual MLP before the final norm and the projection: ``x + W2 act(W1 norm(x))``, W2 zero at first.
``attention``  a whole block of attention and MLP there, both zero at first.

open_clip's formats have no place for an MLP behind a projection. But a residual MLP is a transformer block whose
attention writes nothing, so both are one more block of the tower: ``layers`` in the config grows by one and any
open_clip loads the result. Nothing changes before the first step (``linear`` apart, which starts afresh). timm's towers
have their number of blocks in their name: there an MLP replaces the projection (``timm_proj = "mlp"``).
"""

from __future__ import annotations

import copy
from typing import Any, Literal

import torch
from open_clip.model import CLIPVisionCfg, _build_vision_tower
from open_clip.timm_model import TimmModel
from pydantic import BaseModel, ConfigDict, model_validator
from torch import nn

from sightline.encoder.checkpoint import Checkpoint
from sightline.errors import RecipeError

Kind = Literal["linear", "mlp", "attention"]
_ATTENTION = ("ln_1.", "attn.", "ln_attn.", "ls_1.")
_FROM_OUTSIDE = ("preprocess_cfg", "image_mean", "image_std")


class HeadSettings(BaseModel):
    """The ``[adapters.heads]`` table: the kind of new head for each tower that gets one."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    image: Kind | None = None
    text: Kind | None = None

    @model_validator(mode="after")
    def _one_at_least(self) -> HeadSettings:
        if self.image is None and self.text is None:
            raise ValueError("gives no tower a head; set image or text to linear, mlp or attention")
        return self


def attach_heads(checkpoint: Checkpoint, settings: HeadSettings, *, seed: int = 0) -> None:
    """Give the towers of a checkpoint their new heads, in its model and in its config.

    Raises RecipeError where a tower cannot have that head.
    """
    checkpoint.model_cfg = copy.deepcopy(checkpoint.model_cfg)
    model: Any = checkpoint.model
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if settings.image is not None:
            if isinstance(model.visual, TimmModel):
                model.visual = _timm_head(model.visual, settings.image, checkpoint.model_cfg)
            elif settings.image == "linear":
                _draw_projection(_image_projection(model.visual))
            else:
                _add_block(model.visual, settings.image, checkpoint.model_cfg["vision_cfg"], "image")
        if settings.text is not None:
            tower = getattr(model, "text", model)
            if settings.text == "linear":
                _draw_projection(getattr(tower, "text_projection", None))
            else:
                _add_block(tower, settings.text, checkpoint.model_cfg["text_cfg"], "text")


def head_blocks(model: nn.Module) -> dict[str, Kind]:
    """The blocks that are heads: what their parameters' names begin with, and which kind they are."""
    found: dict[str, Kind] = {}
    for name, module in model.named_modules():
        kind = getattr(module, "head_kind", None)
        if kind is not None:
            found[f"{name}."] = kind
    return found


def is_silent(name: str, blocks: dict[str, Kind]) -> bool:
    """Whether a parameter belongs to the attention of an MLP head: it is zero and must stay so."""
    return any(
        kind == "mlp" and name.startswith(block) and name.removeprefix(block).startswith(_ATTENTION)
        for block, kind in blocks.items()
    )


def is_projection(name: str) -> bool:
    """Whether a parameter's name is that of a tower's projection into the shared space, or of a timm tower's head."""
    plain = name.replace("parametrizations.", "")
    image = ("visual.proj.", "visual.attnpool.c_proj.", "visual.head.", "visual.trunk.head.", "visual.trunk.attn_pool.")
    return f"{plain}.".startswith((*image, "text_projection.", "text.text_projection.", "text.proj."))


def new_head_names(model: nn.Module, settings: HeadSettings) -> tuple[str, ...]:
    """The names of the parameters of the new heads that may move."""
    blocks = head_blocks(model)
    is_timm = isinstance(model.visual, TimmModel)
    found = []
    for name, _ in model.named_parameters():
        on_images = name.startswith("visual.")
        kind = settings.image if on_images else settings.text
        replaced = kind == "linear" or (on_images and is_timm)
        if name.startswith(tuple(blocks)):
            new = not is_silent(name, blocks)
        else:
            new = kind is not None and replaced and is_projection(name)
        if new:
            found.append(name)
    return tuple(found)


def _add_block(tower: nn.Module, kind: Kind, config: dict[str, Any], which: str) -> None:
    blocks = getattr(getattr(tower, "transformer", None), "resblocks", None)
    if not isinstance(blocks, nn.ModuleList) or not isinstance(config.get("layers", 12), int):
        raise RecipeError(
            f"This {which} tower is not made of open_clip's blocks, so it cannot have a head of the kind '{kind}'; "
            f'set {which} = "linear" in [adapters.heads].'
        )
    block: Any = copy.deepcopy(blocks[-1])
    width = block.mlp.c_fc.in_features
    for name, parameter in block.named_parameters():
        if parameter.ndim == 2:
            nn.init.normal_(parameter, std=width**-0.5)
        elif name.endswith("bias"):
            nn.init.zeros_(parameter)
        elif ".ln" in f".{name}" and name.endswith("weight"):
            nn.init.ones_(parameter)
    nn.init.zeros_(block.mlp.c_proj.weight)
    nn.init.zeros_(block.attn.out_proj.weight)
    if kind == "mlp":
        nn.init.zeros_(block.attn.in_proj_weight)
    block.head_kind = kind
    blocks.append(block)
    tower.transformer.layers = len(blocks)  # type: ignore[union-attr]
    config["layers"] = len(blocks)


def _image_projection(tower: nn.Module) -> object:
    pool = getattr(tower, "attnpool", None)
    return getattr(tower, "proj", None) if pool is None else getattr(pool, "c_proj", None)


def _draw_projection(projection: object) -> None:
    if isinstance(projection, nn.Linear):
        nn.init.normal_(projection.weight, std=projection.in_features**-0.5)
        if projection.bias is not None:
            nn.init.zeros_(projection.bias)
    elif isinstance(projection, nn.Parameter):
        nn.init.normal_(projection, std=projection.shape[0] ** -0.5)
    else:
        raise RecipeError("A tower without a projection cannot have a new one; set the head to mlp or attention.")


def _timm_head(tower: TimmModel, kind: Kind, config: dict[str, Any]) -> nn.Module:
    """A timm tower with another head: built anew from the changed config, everything else taken over."""
    if kind == "attention":
        raise RecipeError(
            "timm's image towers cannot have a head of the kind 'attention' that open_clip could load; "
            'set image = "mlp" or "linear" in [adapters.heads].'
        )
    config["vision_cfg"]["timm_proj"] = kind
    vision = CLIPVisionCfg(**{**config["vision_cfg"], "timm_model_pretrained": False})
    fresh: nn.Module = _build_vision_tower(config["embed_dim"], vision, config.get("quick_gelu", False))
    places = fresh.state_dict()
    kept = {
        name: tensor
        for name, tensor in tower.state_dict().items()
        if not name.startswith("head.") and name in places and places[name].shape == tensor.shape
    }
    fresh.load_state_dict(kept, strict=False)
    for name in _FROM_OUTSIDE:
        if hasattr(tower, name):
            setattr(fresh, name, getattr(tower, name))
    return fresh.train(tower.training)
