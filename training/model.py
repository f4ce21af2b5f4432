"""From a recipe to a checkpoint to train: a small architecture from nothing, or any encoder to fine-tune."""

from __future__ import annotations

import math
from dataclasses import fields
from typing import Any, cast

import open_clip
import torch
from open_clip.model import CLIPTextCfg, CLIPVisionCfg
from torch import nn

from sightline.encoder.checkpoint import Checkpoint, describe_texts, load_checkpoint
from sightline.encoder.spec import parse_spec
from sightline.errors import RecipeError
from sightline.images import PixelSpec
from training.objectives import initial_bias
from training.recipe import Model, Recipe, suggestion

_ELSEWHERE = {
    "hf_model_name": "text towers of transformers are not trained here yet",
    "hf_tokenizer_name": "a new model reads the built-in byte-pair encoding",
    "timm_model_name": "image towers of timm are not trained here yet",
}


def build_checkpoint(recipe: Recipe) -> Checkpoint:
    """The model of a recipe in fp32 on the CPU, trainable, in train mode; new weights come from the recipe's
    seed.

    Raises RecipeError for an impossible architecture, and for a base the errors of
    ``sightline.encoder.checkpoint.load_checkpoint``.
    """
    if recipe.model.encoder is not None:
        base = load_checkpoint(parse_spec(recipe.model.encoder), accept_licence=recipe.model.accept_licence)
        base.name = recipe.name
        base.untrained = False
        base.provenance = {"base": recipe.model.encoder, **base.provenance}
        base.model.train().requires_grad_(True)
        _fit_bias(base, recipe)
        return base
    new = _new(recipe)
    _fit_bias(new, recipe)
    return new


def _fit_bias(checkpoint: Checkpoint, recipe: Recipe) -> None:
    """A logit bias for a model that learns with the sigmoid loss and has none; none for one that learns without.

    The bias says how a model's scores become probabilities, so it must be that of the loss it was trained with last.
    """
    kind, model = recipe.objective.kind, cast(Any, checkpoint.model)
    if kind == "sigmoid" and model.logit_bias is None:
        bias = initial_bias(recipe.training.batch_size)
        model.logit_bias = nn.Parameter(torch.full_like(model.logit_scale.detach(), bias))
        checkpoint.model_cfg = {**checkpoint.model_cfg, "init_logit_bias": bias}
    if kind == "softmax" and model.logit_bias is not None:
        model.logit_bias = None
        checkpoint.model_cfg = {key: value for key, value in checkpoint.model_cfg.items() if key != "init_logit_bias"}


def _new(recipe: Recipe) -> Checkpoint:
    config = _architecture(recipe.model)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        try:
            model = open_clip.CLIP(
                **{**config, "vision_cfg": CLIPVisionCfg(**config["vision_cfg"])},
                init_logit_scale=math.log(recipe.model.init_logit_scale),
            )
        except (TypeError, ValueError, AssertionError, RuntimeError, ZeroDivisionError) as error:
            raise RecipeError(
                f"The architecture of {recipe.name} cannot be built; widths must be multiples of their heads "
                "and image_size of patch_size."
            ) from error
    size = config["vision_cfg"]["image_size"]
    return Checkpoint(
        name=recipe.name,
        model=model.train(),
        model_cfg=config,
        pixels=PixelSpec(height_px=size, width_px=size, mean=recipe.model.mean, std=recipe.model.std),
        texts=describe_texts(config),
        licence=recipe.model.licence,
    )


def _architecture(model: Model) -> dict[str, Any]:
    """The complete open_clip ``model_cfg``, checked key by key."""
    for table, given, known in (("vision", model.vision, CLIPVisionCfg), ("text", model.text, CLIPTextCfg)):
        names = {field.name for field in fields(known)}
        for key in given:
            if key in _ELSEWHERE:
                raise RecipeError(f"The key '{key}' in [model.{table}] cannot be used: {_ELSEWHERE[key]}.")
            if key not in names:
                raise RecipeError(f"Unknown key '{key}' in [model.{table}]; {suggestion(key, names)}")
    vision = {"image_size": 224, **model.vision}
    text = {"context_length": 77, "vocab_size": 49408, **model.text}
    if not isinstance(vision["image_size"], int):
        raise RecipeError("image_size in [model.vision] must be one whole number: pictures are square.")
    if vision["image_size"] % vision.get("patch_size", 16):
        raise RecipeError("image_size in [model.vision] must be a multiple of patch_size.")
    if text["vocab_size"] != 49408:
        raise RecipeError("vocab_size in [model.text] must be 49408, that of the built-in tokenizer.")
    return {
        "embed_dim": model.embed_dim,
        "vision_cfg": vision,
        "text_cfg": text,
        "quick_gelu": False,
    }
