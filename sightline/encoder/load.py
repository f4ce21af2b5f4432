"""From a spec on a command line to an encoder on a device."""

from __future__ import annotations

import copy
import math
import os
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from sightline import bundle
from sightline.bundle import ScoreScale, fingerprint_of
from sightline.encoder.checkpoint import Checkpoint, hash_weights, load_checkpoint
from sightline.encoder.cuda import CudaImageTower
from sightline.encoder.int8 import Int8ImageTower
from sightline.encoder.packing import pack_weights, with_quick_attention
from sightline.encoder.precision import bf16_copy, has_bf16_matrix_units, probe_images, probe_tokens
from sightline.encoder.runtime import Encoder, EncoderIdentity, ImageTower, TorchImageTower
from sightline.encoder.spec import parse_spec
from sightline.encoder.text_tower import WholeTextTower, text_tower
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

    ``device``: ``auto`` takes CUDA when there is one. ``precision``: ``auto`` runs a tower in bf16 on GPUs and on CPUs
    with bf16 matrix units when its parity gate holds, else in fp32; ``bf16`` does so on any device and insists on at
    least one. Raises the errors of ``sightline.encoder.checkpoint.load_checkpoint``.
    """
    parsed = parse_spec(spec)
    checkpoint = load_checkpoint(parsed, accept_licence=accept_licence)
    encoder = wrap_checkpoint(checkpoint, device=device, precision=precision)
    manifest = bundle.read_manifest(parsed.path) if parsed.kind == "bundle" and parsed.path is not None else None
    if manifest is not None and manifest.same_images_as:
        encoder.identity = replace(encoder.identity, same_images_as=manifest.same_images_as)
    if manifest is None or manifest.image_engine is None or parsed.path is None:
        return encoder
    return _with_engine(encoder, manifest, parsed.path)


def wrap_checkpoint(checkpoint: Checkpoint, *, device: str = "auto", precision: Precision = "auto") -> Encoder:
    """Give a checkpoint its identity and put it on a device."""
    chosen = choose_device(device)
    name, image, text = _towers(checkpoint, chosen, precision)
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
    kind = CudaImageTower if chosen.type == "cuda" else TorchImageTower
    tower: ImageTower = kind(image.to(chosen), checkpoint.pixels, chosen)
    return Encoder(identity, checkpoint, tower, text.to(chosen), chosen)


def _with_engine(encoder: Encoder, manifest: bundle.BundleManifest, path: Path) -> Encoder:
    """The encoder of a bundle that carries an engine for its image tower."""
    engine = manifest.image_engine
    assert engine is not None
    if encoder.device.type != "cpu":
        raise EncoderUnsuitable(f"{manifest.name} is an int8 encoder for CPUs; use --device cpu or the original.")
    name = "int8 image tower" if encoder.identity.precision == "fp32" else "int8 image tower, bf16 text tower"
    identity = replace(encoder.identity, fingerprint=manifest.fingerprint, precision=name)
    tower = Int8ImageTower(path / engine.file, num_streams=min(2, os.cpu_count() or 1))
    return Encoder(identity, encoder.checkpoint, tower, encoder.text_tower, encoder.device)


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


def _towers(checkpoint: Checkpoint, device: torch.device, precision: Precision) -> tuple[str, nn.Module, nn.Module]:
    """The name of the arithmetic, the image tower and the text tower, made for this device."""
    on_cpu = device.type == "cpu"
    image: nn.Module = checkpoint.model.visual  # type: ignore[assignment]
    text = text_tower(checkpoint.model)
    if on_cpu:
        text = with_quick_attention(text)
    if precision == "fp32" or (precision == "auto" and on_cpu and not has_bf16_matrix_units()):
        return "fp32", image, text
    low = {
        "image": bf16_copy(image, probe_images(checkpoint.pixels.height_px, checkpoint.pixels.width_px)),
        "text": _bf16_text(checkpoint, text),
    }
    made = {kind: tower for kind, tower in low.items() if tower is not None}
    if precision == "bf16" and not made:
        raise EncoderUnsuitable(
            f"{checkpoint.name} is too small for bf16 or misses its parity gate; run it in fp32 (the default)."
        )
    for kind, tower in made.items():
        if on_cpu:
            made[kind] = with_quick_attention(tower)
            pack_weights(made[kind])
    name = "fp32" if not made else "bf16" if len(made) == len(low) else f"bf16 {min(made)} tower"
    return name, made.get("image", image), made.get("text", text)


def _bf16_text(checkpoint: Checkpoint, text: nn.Module) -> nn.Module | None:
    if isinstance(text, WholeTextTower) and not text.separate:
        return None  # the image tower would be copied with it
    vocabulary_size = checkpoint.model_cfg["text_cfg"].get("vocab_size")
    if vocabulary_size is None:
        return None
    return bf16_copy(text, probe_tokens(checkpoint.texts.context_length, vocabulary_size))


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
