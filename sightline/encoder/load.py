"""From a spec on a command line to an encoder on a device."""

from __future__ import annotations

import copy
import math
from dataclasses import asdict
from typing import Any, Literal

import torch
from torch import nn

from sightline.bundle import ScoreScale, fingerprint_of
from sightline.encoder.checkpoint import Checkpoint, hash_weights, load_checkpoint
from sightline.encoder.precision import bf16_copy, has_bf16_matrix_units
from sightline.encoder.runtime import Encoder, EncoderIdentity
from sightline.encoder.spec import parse_spec
from sightline.errors import EncoderUnsuitable, SettingError
from sightline.images import PIPELINE_VERSION

Precision = Literal["auto", "fp32", "bf16"]

# Keys of a model config that shape training or loading, not the function that the weights compute.
_NOT_PART_OF_THE_FUNCTION = (
    "timm_model_pretrained",
    "hf_model_pretrained",
    "patch_dropout",
    "timm_drop",
    "timm_drop_path",
)


def load_encoder(
    spec: str, *, device: str = "auto", precision: Precision = "auto", accept_licence: str | None = None
) -> Encoder:
    """Load an encoder from any of the four kinds of spec.

    ``device``: ``auto`` takes CUDA when there is one. ``precision``: ``auto`` runs the image tower in bf16 on CPUs
    with bf16 matrix units when the parity gate holds, else fp32; the text tower is fp32 on CPUs. On CUDA ``auto``
    and ``bf16`` convert the image tower. Raises the errors of ``sightline.encoder.checkpoint.load_checkpoint``.
    """
    checkpoint = load_checkpoint(parse_spec(spec), accept_licence=accept_licence)
    return wrap_checkpoint(checkpoint, device=device, precision=precision)


def wrap_checkpoint(checkpoint: Checkpoint, *, device: str = "auto", precision: Precision = "auto") -> Encoder:
    """Give a checkpoint its identity and put it on a device."""
    chosen = choose_device(device)
    name, tower = _image_tower(checkpoint, chosen, precision)
    identity = EncoderIdentity(
        name=checkpoint.name,
        fingerprint=fingerprint(checkpoint),
        dim=_dim(checkpoint.model),
        pixels=checkpoint.pixels,
        texts=checkpoint.texts,
        score_scale=score_scale(checkpoint.model),
        licence=checkpoint.licence,
        untrained=checkpoint.untrained,
        precision=name,
    )
    checkpoint.model.to(chosen)
    return Encoder(identity, checkpoint, tower.to(chosen), chosen)


def fingerprint(checkpoint: Checkpoint) -> str:
    """The identity of the function: the same for a tag, a bundle pulled from it and a copy of its weights."""
    return fingerprint_of(
        weights_sha256=hash_weights(checkpoint.model),
        architecture=_function_of(checkpoint.model_cfg),
        pixels={"pipeline": PIPELINE_VERSION, **asdict(checkpoint.pixels)},
        texts=asdict(checkpoint.texts),
    )


def score_scale(model: nn.Module) -> ScoreScale:
    """The checkpoint's own scale and bias; a bias means that it was trained with the sigmoid loss."""
    scale = math.exp(float(model.logit_scale.detach().mean()))  # type: ignore[operator]
    bias = getattr(model, "logit_bias", None)
    if bias is None:
        return ScoreScale(kind="softmax", scale=scale, bias=0.0)
    return ScoreScale(kind="sigmoid", scale=scale, bias=float(bias.detach().mean()))


def _image_tower(checkpoint: Checkpoint, device: torch.device, precision: Precision) -> tuple[str, nn.Module]:
    tower: nn.Module = checkpoint.model.visual  # type: ignore[assignment]
    if precision == "fp32":
        return "fp32", tower
    if precision == "auto" and device.type == "cpu" and not has_bf16_matrix_units():
        return "fp32", tower
    low = bf16_copy(tower, checkpoint.pixels.height_px, checkpoint.pixels.width_px)
    if low is not None:
        return "bf16 image tower", low
    if precision == "bf16":
        raise EncoderUnsuitable(
            f"{checkpoint.name} is too small for bf16 or misses its parity gate; run it in fp32 (the default)."
        )
    return "fp32", tower


def choose_device(device: str) -> torch.device:
    """``auto`` is the GPU where there is one. Raises SettingError for a device that this machine lacks."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device != "cpu" and not (device.startswith("cuda") and torch.cuda.is_available()):
        raise SettingError(f"This machine has no device '{device}' that torch can use; choose auto or cpu.")
    return torch.device(device)


def _dim(model: nn.Module) -> int:
    return int(getattr(model.visual, "output_dim", 0) or 0) or _measured_dim(model)


def _measured_dim(model: nn.Module) -> int:
    with torch.inference_mode():
        context = getattr(model, "context_length", 77)
        return int(model.encode_text(torch.zeros(1, context, dtype=torch.long)).shape[-1])  # type: ignore[operator]


def _function_of(model_cfg: dict[str, Any]) -> dict[str, Any]:
    config = copy.deepcopy(model_cfg)
    for part in (config, config.get("vision_cfg", {}), config.get("text_cfg", {})):
        for key in _NOT_PART_OF_THE_FUNCTION:
            part.pop(key, None)
    for key in ("init_logit_scale", "init_logit_bias"):
        config.pop(key, None)
    return config
