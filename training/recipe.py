"""Training recipes: a TOML file as frozen models. A key that nobody reads is an error, with a suggestion.

name = "drawn-world"
seed = 0

[model]                       # a small architecture of open_clip's CLIP, trained from nothing ...
embed_dim = 128
vision = { image_size = 48, patch_size = 12, layers = 3, width = 192 }
text = { context_length = 32, layers = 2, width = 128, heads = 4 }
# encoder = "ViT-B-32:laion2b_s34b_b79k"   ... or any encoder spec, to fine-tune

[training]
num_steps = 600
batch_size = 128
learning_rate = 1e-3

Each further table is optional and described beside the code it steers: [data] (``training.data``), [objective]
(``training.objectives``), [adapters] (``training.adapters``), [[stages]] (``training.stages``), [watch]
(``training.watching``) and [export] (``training.export_settings``).
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from sightline.errors import RecipeError
from training.adapters import AdapterSettings
from training.data import DataSettings
from training.export_settings import ExportSettings
from training.objectives import ObjectiveSettings
from training.stages import Part, StageSettings, default_parts
from training.watching import WatchSettings

RECIPES = Path(__file__).parent / "recipes"
Where = tuple[int | str, ...]
"""The path of keys and numbers to a place in a recipe."""


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Model(_Strict):
    """What to train: either ``encoder``, a spec to start from, or an architecture of open_clip's CLIP.

    ``vision`` and ``text`` take the keys of open_clip's ``vision_cfg`` and ``text_cfg``; the tokenizer is
    the built-in byte-pair encoding. ``mean`` and ``std`` normalise each RGB channel on the 0-1 scale.
    ``licence`` is the licence that you give to the trained weights; a fine-tuned encoder keeps that of its
    base.
    """

    encoder: str | None = None
    accept_licence: str | None = None
    embed_dim: int | None = Field(default=None, ge=1)
    vision: dict[str, Any] = {}
    text: dict[str, Any] = {}
    init_logit_scale: float = Field(default=1 / 0.07, gt=0)
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)
    licence: str = "unknown"

    @model_validator(mode="after")
    def _one_of_two(self) -> Model:
        described = self.embed_dim is not None or bool(self.vision) or bool(self.text)
        if self.encoder is not None and described:
            raise ValueError("names an encoder and describes an architecture; keep one of the two")
        if self.encoder is None and (self.embed_dim is None or not self.vision or not self.text):
            raise ValueError("needs either encoder, or all of embed_dim, vision and text")
        return self


class Training(_Strict):
    """How to train: a linear warm-up, then a cosine that reaches 0 at ``num_steps``; with ``[[stages]]`` each stage has
    its own ``num_steps`` and its own warm-up and cosine.

    ``optimizer`` "muon" gives the matrices inside the towers' blocks to Muon at ``muon_learning_rate``
    and leaves the rest to AdamW. A small ViT trained from nothing on the drawn world reached in 250 steps of 256 pairs
    a recall at 1 of 0.88 at 2e-3 and 0.90 at 5e-3, against 0.75 with AdamW alone, for 10 % more time a step.

    Steps count optimiser steps of ``batch_size`` pairs, over all processes of torchrun together. ``group_size``
    consecutive pictures of the data come into the same batch, so that near-twins are each other's hard negatives
    (docs/decisions/0005). Weight decay spares biases, gains, embeddings and the logit scale. ``precision = "bf16"``
    runs the towers under autocast; small towers on CPUs without bf16 units are faster in fp32.

    ``micro_batch_size`` rows at once go through a tower, with the same gradients as the whole batch, for a third more
    time (``training.gradient_cache``). ``gradient_checkpointing`` keeps each block's input only and computes the block
    again on the way back: less memory still, a third more time again. ``cache_features`` encodes the pictures once for
    all epochs, where nothing of the image tower is trained (``training.features``).

    ``factors`` multiply the rate of a part (image, text, image-head, …; see ``training.stages``), ``layer_decay``
    that of each block below the next one of its tower. ``ema_decay`` keeps a running mean of the weights, which can be
    exported instead of the last step's; with ``ema_warm_up`` it forgets the start faster (``training.ema``).
    """

    optimizer: Literal["adamw", "muon"] = "adamw"
    num_steps: int | None = Field(default=None, ge=1)
    batch_size: int = Field(ge=2)
    micro_batch_size: int | None = Field(default=None, ge=1)
    gradient_checkpointing: bool = False
    cache_features: bool = False
    learning_rate: float = Field(gt=0)
    muon_learning_rate: float = Field(default=2e-3, gt=0)
    factors: dict[Part, Annotated[float, Field(gt=0)]] = {}
    layer_decay: float = Field(default=1.0, gt=0, le=1)
    warmup_steps: int = Field(default=0, ge=0)
    weight_decay: float = Field(default=0.1, ge=0)
    beta1: float = Field(default=0.9, ge=0, lt=1)
    beta2: float = Field(default=0.98, ge=0, lt=1)
    epsilon: float = Field(default=1e-6, gt=0)
    group_size: int = Field(default=1, ge=1)
    max_gradient_norm: float = Field(default=1.0, gt=0)
    ema_decay: float | None = Field(default=None, ge=0, lt=1)
    ema_warm_up: bool = True
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    checkpoint_every_steps: int = Field(default=100, ge=1)

    @model_validator(mode="after")
    def _numbers_fit(self) -> Training:
        if self.num_steps is not None and self.warmup_steps >= self.num_steps:
            raise ValueError("needs warmup_steps below num_steps")
        if self.batch_size % self.group_size:
            raise ValueError("needs a batch_size that is a multiple of group_size")
        if self.micro_batch_size is not None and self.micro_batch_size > self.batch_size:
            raise ValueError("needs a micro_batch_size of at most batch_size; leave it out where the batch fits")
        return self


class Recipe(_Strict):
    """A whole recipe. The same recipe, data and machine give the same weights, bit for bit on a CPU."""

    name: str = Field(min_length=1, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    seed: int = Field(default=0, ge=0)
    model: Model
    data: DataSettings = DataSettings()
    objective: ObjectiveSettings = ObjectiveSettings()
    adapters: AdapterSettings = AdapterSettings()
    training: Training
    stages: tuple[StageSettings, ...] = ()
    watch: WatchSettings = WatchSettings()
    export: ExportSettings = ExportSettings()

    @model_validator(mode="after")
    def _tables_fit(self) -> Recipe:
        if self.stages and self.training.num_steps is not None:
            raise ValueError("gives num_steps in [training] and in each of [[stages]]; leave it out of [training]")
        if self.stages and self.training.factors:
            raise ValueError("gives factors in [training] and has [[stages]]; give each stage its own factors")
        if not self.stages and self.training.num_steps is None:
            raise ValueError("lacks the key 'num_steps' in [training]; add it")
        short = [stage.name for stage in self.stages if stage.num_steps <= self.training.warmup_steps]
        if short:
            raise ValueError(f"has a stage '{short[0]}' no longer than the warmup_steps of [training]; lower those")
        if self.export.weights == "ema" and self.training.ema_decay is None:
            raise ValueError("asks in [export] for the ema weights, which nobody keeps; set ema_decay in [training]")
        return self

    @property
    def plan(self) -> tuple[StageSettings, ...]:
        """What is trained one after the other: the stages, or a single one named "all"."""
        if self.stages:
            return self.stages
        assert self.training.num_steps is not None
        train = default_parts(self.adapters)
        factors = self.training.factors
        return (StageSettings(name="all", num_steps=self.training.num_steps, train=train, factors=factors),)

    @property
    def num_steps(self) -> int:
        """The steps of all stages together."""
        return sum(stage.num_steps for stage in self.plan)


def read_recipe(name: str) -> Recipe:
    """Read a recipe from a TOML file, or one of ours by its name ("drawn-world").

    Raises RecipeError: one sentence that names the key and the fix.
    """
    path = Path(name).expanduser()
    ours = {file.stem: file for file in RECIPES.glob("*.toml")}
    if not path.exists() and name in ours:
        path = ours[name]
    if not path.is_file():
        raise RecipeError(
            f"There is no recipe at {name}; give a TOML file or one of the built-in names: {', '.join(sorted(ours))}."
        )
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"The recipe {path} cannot be read; check its rights and that it is UTF-8.") from error
    return parse_recipe(text, str(path))


def parse_recipe(text: str, name: str) -> Recipe:
    """Read a recipe from TOML text; ``name`` says in errors where it came from. Raises RecipeError."""
    try:
        tree = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise RecipeError(f"The recipe {name} is not valid TOML: {error}.") from error
    try:
        return Recipe.model_validate(tree)
    except ValidationError as error:
        raise RecipeError(_sentence(error, name)) from error


def starting_from(recipe: Recipe, encoder: str) -> Recipe:
    """The recipe with another encoder to start from. Raises RecipeError for a recipe that trains a new architecture."""
    if recipe.model.encoder is None:
        raise RecipeError(
            f"The recipe {recipe.name} trains an architecture of its own from nothing; leave --encoder out, or take a "
            "recipe that fine-tunes, such as fine-tune or lora."
        )
    return recipe.model_copy(update={"model": recipe.model.model_copy(update={"encoder": encoder})})


def suggestion(word: str, known: Iterable[str]) -> str:
    """The end of a sentence about an unknown key: the nearest known one, or all of them."""
    names = sorted(known)
    close = difflib.get_close_matches(word, names, n=1)
    return f"did you mean '{close[0]}'?" if close else f"known keys are {', '.join(names)}."


def _sentence(error: ValidationError, name: str) -> str:
    problems = error.errors(include_url=False)
    # A misspelt key gives two errors, unknown and missing: the first says more.
    first = next((p for p in problems if p["type"] == "extra_forbidden"), problems[0])
    where = first["loc"]
    while len(where) > 1 and isinstance(where[-1], int) and first["type"] != "value_error":
        where = where[:-1]  # an item of a list is named by its key
    if where and where[-1] == "[key]":  # of a table with a fixed set of keys
        known = re.findall(r"'([^']+)'", first["msg"])
        inside = _inside(where[:-2])
        return f"The recipe {name} has an unknown key '{where[-2]}'{inside}; {suggestion(str(where[-2]), known)}"
    inside = _inside(where[:-1])
    if first["type"] == "extra_forbidden":
        table = _table_at(where[:-1])
        known = [] if table is None else list(table.model_fields)
        return f"The recipe {name} has an unknown key '{where[-1]}'{inside}; {suggestion(str(where[-1]), known)}"
    if first["type"] == "missing":
        return f"The recipe {name} lacks the key '{where[-1]}'{inside}; add it."
    problem = first["msg"].removeprefix("Value error, ")
    if first["type"] == "value_error":
        return f"The recipe {name}: {_table_name(where)} {problem}." if where else f"The recipe {name} {problem}."
    problem = problem[0].lower() + problem[1:]
    return f"The recipe {name} has a wrong value for '{where[-1]}'{inside}: {problem}."


def _inside(where: Where) -> str:
    return f" in {_table_name(where)}" if where else ""


def _table_name(where: Where) -> str:
    """[objective.temperature], or [[stages]] number 2 for one of a list."""
    words = ".".join(part for part in where if isinstance(part, str))
    numbers = [part for part in where if isinstance(part, int)]
    return f"[[{words}]] number {numbers[0] + 1}" if numbers else f"[{words}]"


def _table_at(where: Where) -> type[BaseModel] | None:
    """The model of the table at a place in the recipe."""
    table: type[BaseModel] | None = Recipe
    for part in where:
        if table is not None and isinstance(part, str):
            field = table.model_fields.get(part)
            table = None if field is None else _model_in(field.annotation)
    return table


def _model_in(annotation: object) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for part in get_args(annotation) if (found := _model_in(part)) is not None), None)
