"""The only place where open_clip builds a model: a spec in, a checkpoint with everything that decides its vectors out.

open_clip guesses or warns where the wrong choice gives well-shaped, wrong vectors: plain GELU for weights trained with
QuickGELU (open_clip #771, #915), OpenAI's mean and std for any local file, a built-in tokenizer for any unknown name.
Here each of these comes from the checkpoint or is an error.
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import open_clip
import torch
from open_clip import pretrained as registry
from torch import nn

from sightline import bundle, licences
from sightline.encoder.hub import hub_access, quiet_logging
from sightline.encoder.spec import EncoderSpec
from sightline.errors import (
    EncoderUnknown,
    EncoderUnsuitable,
    HubUnreachable,
    SightlineError,
)
from sightline.images import PixelSpec
from sightline.texts import TextSpec

Tokenizer = Callable[[Sequence[str]], torch.Tensor]
"""Texts to int64 token ids ``[B, context_length]``."""

_PREPROCESS_KEYS = ("mean", "std", "interpolation", "resize_mode")
_BUILT_IN_TOKENIZER = "clip-bpe"
_RANDOM_SEED = 0


@dataclass
class Checkpoint:
    """A loaded model and what it was trained to see. ``model_cfg`` is complete: it rebuilds the architecture.

    ``tokenizer_source`` is where open_clip finds a tokenizer that is not built in: an architecture name or
    ``local-dir:PATH``.
    """

    name: str
    model: nn.Module
    model_cfg: dict[str, Any]
    pixels: PixelSpec
    texts: TextSpec
    licence: str
    untrained: bool = False
    tokenizer_source: str = ""
    provenance: dict[str, Any] = field(default_factory=dict)


def load_checkpoint(spec: EncoderSpec, *, accept_licence: str | None = None) -> Checkpoint:
    """Build the model of a spec in fp32 on the CPU, in eval mode.

    Raises EncoderUnknown, EncoderUnsuitable, LicenceRefused, HubUnreachable or BundleCorrupt.
    """
    if spec.kind == "bundle":
        return _from_bundle(spec, accept_licence)
    config = open_clip.get_model_config(spec.model)
    if config is None:
        raise EncoderUnknown(_unknown_model(spec.model))
    licence = licences.licence_of(spec.model, spec.tag)
    licences.require_acceptable(spec.name, licence, accepted=accept_licence)
    preprocess = _tag_preprocess(spec, config) if spec.kind == "tag" else _local_preprocess(spec, config)
    model = _build(spec, preprocess)
    return _checkpoint(spec.name, model, config, licence, spec)


def describe_texts(model_cfg: dict[str, Any]) -> TextSpec:
    """The text contract an architecture config stands for."""
    text_cfg = model_cfg["text_cfg"]
    kwargs = text_cfg.get("tokenizer_kwargs") or {}
    built_in = not text_cfg.get("hf_tokenizer_name")
    causal = not text_cfg.get("no_causal_mask", False) and text_cfg.get("pool_type", "argmax") in ("argmax", "eos")
    return TextSpec(
        tokenizer=_BUILT_IN_TOKENIZER if built_in else text_cfg["hf_tokenizer_name"],
        context_length=int(text_cfg.get("context_length", 77)),
        clean=str(kwargs.get("clean", "lower" if built_in else "whitespace")),
        padding="causal" if causal else "max_length",
    )


def load_tokenizer(checkpoint: Checkpoint) -> Tokenizer:
    """The checkpoint's own tokenizer. Raises HubUnreachable when it has to be downloaded and cannot be.

    Token-dropping (CLIPA) is a training augmentation and left out: the same text twice gives the same vector.
    """
    texts = checkpoint.texts
    if texts.tokenizer == _BUILT_IN_TOKENIZER:
        built_in: Tokenizer = open_clip.SimpleTokenizer(context_length=texts.context_length, clean=texts.clean)
        return built_in
    local = checkpoint.tokenizer_source.startswith("local-dir:")
    try:
        with quiet_logging() if local else hub_access():
            own: Tokenizer = open_clip.get_tokenizer(checkpoint.tokenizer_source, context_length=texts.context_length)
    except Exception as error:
        raise _unreachable(texts.tokenizer, "tokenizer", checkpoint.name) from error
    return own


def hash_weights(model: nn.Module) -> str:
    """SHA-256 over names, dtypes, shapes and bytes of the state: equal for a tag and a bundle pulled from it."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        digest.update(memoryview(tensor.detach().contiguous().cpu().numpy()).cast("B") if tensor.numel() else b"")
    return digest.hexdigest()


def _from_bundle(spec: EncoderSpec, accept_licence: str | None) -> Checkpoint:
    path = spec.path
    assert path is not None
    manifest = bundle.verify_bundle(path)
    licences.require_acceptable(manifest.name, manifest.licence, accepted=accept_licence)
    config = json.loads((path / bundle.CONFIG_NAME).read_text(encoding="utf-8"))
    model = _create(f"local-dir:{path}", None, f"the bundle {path.name}")
    checkpoint = Checkpoint(
        name=manifest.name,
        model=model,
        model_cfg=config["model_cfg"],
        pixels=_pixel_spec(model),
        texts=describe_texts(config["model_cfg"]),
        licence=manifest.licence,
        untrained=manifest.licence == licences.licence_of("", "random"),
        tokenizer_source=f"local-dir:{path}",
        provenance=manifest.provenance,
    )
    for what, found, promised in (
        ("preprocessing", checkpoint.pixels, manifest.pixels),
        ("text handling", checkpoint.texts.context_length, manifest.texts.context_length),
    ):
        if found != promised:
            raise EncoderUnsuitable(
                f"The bundle {path.name} promises other {what} than its {bundle.CONFIG_NAME} gives; export it again."
            )
    return checkpoint


def _tag_preprocess(spec: EncoderSpec, config: dict[str, Any]) -> dict[str, Any]:
    known = registry.get_pretrained_cfg(spec.model, spec.tag)
    if not known:
        tags = ", ".join(registry.list_pretrained_tags_by_model(spec.model)) or "none"
        raise EncoderUnknown(f"{spec.model} has no weights tagged '{spec.tag}'; its tags are: {tags}, random.")
    trained_with, built_with = bool(known.get("quick_gelu")), bool(config.get("quick_gelu"))
    if trained_with != built_with:
        base = spec.model.removesuffix("-quickgelu")
        better = f"{base}-quickgelu" if trained_with else base
        activation = "QuickGELU" if trained_with else "plain GELU"
        raise EncoderUnsuitable(f"{spec.name} was trained with {activation}; ask for {better}:{spec.tag} instead.")
    return {}


def _local_preprocess(spec: EncoderSpec, config: dict[str, Any]) -> dict[str, Any]:
    """Preprocessing for a local file or untrained weights: a config beside the file, else what all tags agree on."""
    beside = spec.path.parent / bundle.CONFIG_NAME if spec.path is not None else None
    if beside is not None and beside.is_file():
        written = json.loads(beside.read_text(encoding="utf-8"))
        if bool(written.get("model_cfg", {}).get("quick_gelu")) != bool(config.get("quick_gelu")):
            raise EncoderUnsuitable(
                f"{beside.name} beside the weights and {spec.model} disagree on QuickGELU; "
                "use the architecture name that fits (with or without -quickgelu)."
            )
        return {k: v for k, v in written.get("preprocess_cfg", {}).items() if k in _PREPROCESS_KEYS}
    tags = registry.list_pretrained_tags_by_model(spec.model)
    choices = [{key: registry.get_pretrained_cfg(spec.model, tag)[key] for key in _PREPROCESS_KEYS} for tag in tags]
    if spec.kind == "file" and any(choice != choices[0] for choice in choices):
        raise EncoderUnsuitable(
            f"Published weights of {spec.model} differ in their preprocessing, so it cannot be told from the name; "
            f"put an {bundle.CONFIG_NAME} with a preprocess_cfg beside {spec.tag}."
        )
    return choices[0] if choices else {}


def _build(spec: EncoderSpec, preprocess: dict[str, Any]) -> nn.Module:
    if spec.kind == "random":
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(_RANDOM_SEED)
            return _create(spec.model, None, spec.name, preprocess)
    if spec.kind == "file":
        return _create(spec.model, str(spec.path), spec.name, preprocess)
    return _create(spec.model, spec.tag, spec.name, preprocess, downloads=True)


def _create(
    model: str, pretrained: str | None, name: str, preprocess: dict[str, Any] | None = None, *, downloads: bool = False
) -> nn.Module:
    try:
        with hub_access() if downloads else quiet_logging():
            built: nn.Module = open_clip.create_model(
                model, pretrained, precision="fp32", force_preprocess_cfg=preprocess or None, pretrained_text=False
            )
    except SightlineError:
        raise
    except Exception as error:
        if downloads:
            raise _unreachable(name, "weights", name) from error
        raise EncoderUnsuitable(
            f"The weights of {name} do not fit the architecture (missing, extra or wrongly shaped tensors); "
            "name the architecture they were trained with."
        ) from error
    return built.eval().requires_grad_(False)


def _checkpoint(name: str, model: nn.Module, config: dict[str, Any], licence: str, spec: EncoderSpec) -> Checkpoint:
    config = copy.deepcopy(config)
    config["text_cfg"].pop("hf_model_pretrained", None)
    if "siglip" in spec.model.lower() and not config["text_cfg"].get("hf_tokenizer_name"):
        raise EncoderUnsuitable(
            f"{spec.model} needs a SentencePiece tokenizer that open_clip fetches without a fixed version; "
            "choose an architecture whose config names its tokenizer."
        )
    return Checkpoint(
        name=name,
        model=model,
        model_cfg=config,
        pixels=_pixel_spec(model),
        texts=describe_texts(config),
        licence=licence,
        untrained=spec.kind == "random",
        tokenizer_source=spec.model,
        provenance={"spec": name},
    )


def _pixel_spec(model: nn.Module) -> PixelSpec:
    cfg: dict[str, Any] = model.visual.preprocess_cfg  # type: ignore[union-attr,assignment]
    size = cfg["size"]
    height, width = (size, size) if isinstance(size, int) else size
    mean, std = (tuple(float(x) for x in cfg[key]) for key in ("mean", "std"))
    return PixelSpec(
        height_px=int(height), width_px=int(width), mean=mean, std=std,  # type: ignore[arg-type]
        interpolation="bilinear" if cfg["interpolation"] == "bilinear" else "bicubic",
        resize_mode=cfg["resize_mode"], fill=int(cfg["fill_color"]),
    )  # fmt: skip


def _unreachable(what: str, part: str, name: str) -> HubUnreachable:
    return HubUnreachable(
        f"The {part} of {what} could not be downloaded: the model hub cannot be reached from here. On a machine with "
        f"a network run: sightline encoder pull {name} --out BUNDLE, copy BUNDLE here and name it instead."
    )


def _unknown_model(model: str) -> str:
    import difflib

    close = difflib.get_close_matches(model, open_clip.list_models(), n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(close)}?" if close else "open_clip.list_models() lists them."
    return f"There is no architecture named '{model}'; {hint}"
