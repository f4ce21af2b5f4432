"""Writing a checkpoint as a bundle, and proving that the bundle gives the same vectors before it gets its name."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn

from sightline import bundle
from sightline.encoder.checkpoint import Checkpoint, load_tokenizer
from sightline.encoder.int8 import quantize_tower
from sightline.encoder.load import fingerprint, load_encoder, score_scale, wrap_checkpoint
from sightline.encoder.runtime import Encoder
from sightline.errors import BundleCorrupt
from sightline.images import Pixels
from sightline.storage import new_directory, sha256_of

_PROBE_TEXTS = ("a photo of a dog", "two people on a beach at sunset", "RED circle, left of a blue square!")
_MAX_DIFFERENCE = 1e-6


def write_bundle(
    checkpoint: Checkpoint,
    out: Path,
    *,
    provenance: dict[str, Any] | None = None,
    same_images_as: Sequence[str] = (),
    add_files: Callable[[Encoder, Path], None] | None = None,
) -> bundle.BundleManifest:
    """Export a checkpoint as a bundle directory at ``out``.

    ``same_images_as``: see ``BundleManifest``. ``add_files`` may write more files into the directory before it is
    sealed.

    The bundle is written beside ``out``, loaded back from disk, compared with the model in memory on probe pixels and
    texts (largest difference 1e-6) and only then renamed. Raises StorageError, HubUnreachable (a tokenizer that must
    be downloaded) or BundleCorrupt (the copy does not equal the original).
    """
    with new_directory(out) as directory:
        config = {
            "model_cfg": checkpoint.model_cfg,
            "preprocess_cfg": _preprocess_cfg(checkpoint),
        }
        (directory / bundle.CONFIG_NAME).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        state = {
            name: tensor.detach().cpu().contiguous().clone() for name, tensor in checkpoint.model.state_dict().items()
        }
        save_file(state, directory / bundle.WEIGHTS_NAME, metadata={"format": "pt"})
        if checkpoint.model_cfg["text_cfg"].get("hf_tokenizer_name"):
            load_tokenizer(checkpoint).save_pretrained(str(directory))  # type: ignore[attr-defined]
        original = wrap_checkpoint(checkpoint, device="cpu", precision="fp32")
        if add_files is not None:
            add_files(original, directory)
        manifest = bundle.seal_bundle(
            directory,
            bundle.BundleManifest(
                name=checkpoint.name,
                fingerprint=fingerprint(checkpoint),
                dim=original.dim,
                pixels=checkpoint.pixels,
                texts=checkpoint.texts,
                score_scale=score_scale(checkpoint.model),
                licence=checkpoint.licence,
                same_images_as=tuple(same_images_as) or None,
                provenance={**checkpoint.provenance, **(provenance or {})},
            ),
        )
        reloaded = load_encoder(str(directory), device="cpu", precision="fp32", accept_licence=checkpoint.licence)
        _compare(original, reloaded)
    return manifest


def write_int8_bundle(
    checkpoint: Checkpoint, out: Path, calibration: Pixels, held_out: Pixels, *, min_cosine: float
) -> bundle.BundleManifest:
    """Export a checkpoint with its image tower in int8: a bundle with a fingerprint of its own (``encoder.int8``).

    ``calibration`` and ``held_out``: uint8 ``[N, H, W, 3]``, different pictures. open_clip loads the bundle with the
    original weights. Raises what ``write_bundle`` and ``quantize_tower`` raise.
    """
    with new_directory(out) as directory:
        base = write_bundle(checkpoint, directory / "original")
        for file in (directory / "original").iterdir():
            file.rename(directory / file.name)
        (directory / "original").rmdir()
        tower: nn.Module = checkpoint.model.visual  # type: ignore[assignment]
        with torch.inference_mode():
            engine = quantize_tower(tower, checkpoint.pixels, calibration, held_out, directory, min_cosine=min_cosine)
        weights = (directory / engine.file).with_suffix(".bin")
        named = bundle.engine_fingerprint(base.fingerprint, engine, sha256_of(weights))
        return bundle.seal_bundle(
            directory,
            base.model_copy(
                update={
                    "name": f"{base.name} (int8)",
                    "fingerprint": named,
                    "image_engine": engine,
                    "same_images_as": None,  # the engine's vectors are near the original's, not equal
                    "provenance": {**base.provenance, "original_fingerprint": base.fingerprint},
                }
            ),
        )


def _preprocess_cfg(checkpoint: Checkpoint) -> dict[str, Any]:
    spec = checkpoint.pixels
    written = asdict(spec)
    square = spec.height_px == spec.width_px
    return {
        "size": spec.height_px if square else [spec.height_px, spec.width_px],
        "mode": "RGB",
        "mean": list(spec.mean),
        "std": list(spec.std),
        "interpolation": written["interpolation"],
        "resize_mode": written["resize_mode"],
        "fill_color": spec.fill,
    }


def _compare(original: Encoder, reloaded: Encoder) -> None:
    if original.fingerprint != reloaded.fingerprint:
        raise BundleCorrupt("The exported bundle has another fingerprint than the model; the export was not published.")
    spec = original.identity.pixels
    pixels = np.random.default_rng(0).integers(0, 256, (2, spec.height_px, spec.width_px, 3), dtype=np.uint8)
    pairs = [
        (original.encode_pixels(pixels), reloaded.encode_pixels(pixels)),
        (original.encode_texts(_PROBE_TEXTS), reloaded.encode_texts(_PROBE_TEXTS)),
    ]
    worst = max(float(np.abs(a - b).max()) for a, b in pairs)
    if worst > _MAX_DIFFERENCE:
        raise BundleCorrupt(
            f"The exported bundle gives other vectors than the model (by {worst:.2g}); the export was not published."
        )
