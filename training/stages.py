"""What is trained when: stages of one recipe, each naming the parts that move while the rest is frozen.

[[stages]]
name = "heads"
num_steps = 200
train = ["image-head", "text-head"]

[[stages]]
name = "all"
num_steps = 800
train = ["image", "text", "image-head", "text-head", "logit-scale"]
learning_rate_factor = 0.1
factors = { image = 0.1 }
"""

from __future__ import annotations

from typing import Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from sightline.errors import RecipeError
from training.adapters import (
    AdapterSettings,
    head_blocks,
    is_low_rank,
    is_projection,
    is_silent,
    is_text_map,
)

Part = Literal["image", "text", "image-head", "text-head", "adapters", "text-map", "logit-scale"]
PARTS: tuple[Part, ...] = get_args(Part)
WHOLE_MODEL: tuple[Part, ...] = ("image", "text", "image-head", "text-head", "logit-scale")

_WHERE = {
    "adapters": "add a table [adapters.lora]",
    "text-map": "add text_map = true to [adapters]",
    "image-head": "give it one with [adapters.heads], or train image",
    "text-head": "give it one with [adapters.heads], or train text",
}


class StageSettings(BaseModel):
    """One ``[[stages]]`` table.

    ``train`` names the parts that move. ``image`` and ``text`` are the towers without their projections, which are
    ``image-head`` and ``text-head`` together with heads that were added; ``adapters`` are low-rank matrices;
    ``logit-scale`` is the scale and, for sigmoid models, the bias. The rate of a part is that of the recipe times
    ``learning_rate_factor`` times its own of ``factors``.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(min_length=1)
    num_steps: int = Field(ge=1)
    train: tuple[Part, ...]
    learning_rate_factor: float = Field(default=1.0, gt=0)
    factors: dict[Part, float] = {}

    @model_validator(mode="after")
    def _something_moves(self) -> StageSettings:
        if not self.train:
            raise ValueError(f"freezes everything; name in train what moves: {', '.join(PARTS)}")
        idle = [part for part in self.factors if part not in self.train]
        if idle:
            raise ValueError(f"has a factor for {idle[0]}, which it does not train; add it to train or drop the factor")
        if any(factor <= 0 for factor in self.factors.values()):
            raise ValueError("has a factor that is not above 0; leave a part out of train to freeze it")
        return self


def default_parts(adapters: AdapterSettings | None) -> tuple[Part, ...]:
    """What a recipe without stages trains: what was added where something was, else the whole model."""
    added: list[Part] = []
    if adapters is not None and adapters.heads is not None:
        added += [part for part, kind in _heads(adapters) if kind is not None]
    if adapters is not None and adapters.lora is not None:
        added.append("adapters")
    if adapters is not None and adapters.text_map:
        added.append("text-map")
    return tuple(added) or WHOLE_MODEL


def parts_of(model: nn.Module) -> dict[str, Part]:
    """The part that each parameter of an open_clip model belongs to.

    Left out is what must never move: the silent attention of an MLP head.
    """
    blocks = head_blocks(model)
    return {name: _part(name, tuple(blocks)) for name, _ in model.named_parameters() if not is_silent(name, blocks)}


def select(model: nn.Module, stage: StageSettings, *, fixed_scale: bool = False) -> tuple[str, ...]:
    """The names of the parameters that a stage trains; ``fixed_scale``: the logit scale is not learnt.

    Raises RecipeError when a part that it names does not exist in this model, so that the stage would train less than
    it says, or when nothing is left to train.
    """
    found = parts_of(model)
    for part in stage.train:
        if part not in found.values():
            raise RecipeError(
                f"The stage '{stage.name}' trains {part}, which this model does not have; "
                f"{_WHERE.get(part, 'leave it out of train')}."
            )
    names = tuple(
        name for name, part in found.items() if part in stage.train and not (fixed_scale and name == "logit_scale")
    )
    if not names:
        raise RecipeError(
            f"The stage '{stage.name}' trains nothing, because the temperature is not learnt; name in train what else "
            'moves, or set mode = "learnable" in [objective.temperature].'
        )
    return names


def begin(model: nn.Module, stage: StageSettings, *, fixed_scale: bool = False) -> tuple[str, ...]:
    """Freeze what the stage does not train, put what is frozen into eval mode, and return the trainable names.

    A tower in which nothing moves drops no patches and keeps the statistics of its batch norms: the same picture has
    the same vector at every step. In a tower that is adapted, frozen batch norms keep theirs. Call it after any
    ``model.train()``.
    """
    names = frozenset(select(model, stage, fixed_scale=fixed_scale))
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in names)
        if name not in names:
            parameter.grad = None
    set_modes(model)
    return tuple(name for name, _ in model.named_parameters() if name in names)


def set_modes(model: nn.Module) -> None:
    """Train mode where something has a gradient, eval mode for towers and batch norms where nothing has."""
    model.train()
    for tower in (model.visual, getattr(model, "text", getattr(model, "transformer", None))):
        if isinstance(tower, nn.Module) and not any(p.requires_grad for p in tower.parameters()):
            tower.eval()
    for module in model.modules():
        if isinstance(module, _BatchNorm) and not any(p.requires_grad for p in module.parameters()):
            module.eval()


def rate_factors(model: nn.Module, stage: StageSettings) -> dict[str, float]:
    """What the recipe's learning rate is multiplied with, for each trainable parameter's name."""
    return {
        name: stage.learning_rate_factor * stage.factors.get(part, 1.0)
        for name, part in parts_of(model).items()
        if part in stage.train
    }


def _heads(adapters: AdapterSettings) -> tuple[tuple[Part, str | None], ...]:
    assert adapters.heads is not None
    return ("image-head", adapters.heads.image), ("text-head", adapters.heads.text)


def _part(name: str, blocks: tuple[str, ...]) -> Part:
    if is_low_rank(name):
        return "adapters"
    if is_text_map(name):
        return "text-map"
    if name in ("logit_scale", "logit_bias"):
        return "logit-scale"
    if name.startswith(blocks) or is_projection(name):
        return "image-head" if name.startswith("visual.") else "text-head"
    return "image" if name.startswith("visual.") else "text"
