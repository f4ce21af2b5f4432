"""The outputs of a locked image tower, computed once (LiT, Zhai et al. 2021, arXiv 2111.07991).

Where no parameter of the image tower moves and pictures are not augmented, every epoch computes the same features
again: for L/14 that is nine tenths of a step. Here they are written to a memory-mapped file once, named by what decides
them: the tower's weights and architecture, the preprocessing and the data. Training then reads rows of it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from sightline.encoder.checkpoint import Checkpoint, hash_weights
from sightline.encoder.runtime import TorchImageTower
from sightline.errors import EncodingFailed, RecipeError
from sightline.images import PIPELINE_VERSION, Pixels
from sightline.storage import storage_errors
from training.adapters import AdapterSettings
from training.stages import StageSettings, default_parts

Features = npt.NDArray[np.float32]
_AT_ONCE = 128


def require_locked(stages: Sequence[StageSettings], adapters: AdapterSettings | None) -> None:
    """Raise RecipeError when a recipe that caches features trains something of the image tower."""
    trained = {part for stage in stages for part in stage.train} if stages else set(default_parts(adapters))
    lora = adapters.lora if adapters is not None else None
    moving: list[str] = [part for part in ("image", "image-head") if part in trained]
    if "adapters" in trained and lora is not None and "image" in lora.towers:
        moving.append("adapters of the image tower")
    if moving:
        raise RecipeError(
            f"Features of the image tower can only be cached while it is locked, and this recipe trains {moving[0]}; "
            "take that out of every stage or do not cache features."
        )


def features_name(checkpoint: Checkpoint, data_sha256: str, dtype: str = "float32") -> str:
    """The file's name: 24 hex digits over the image tower, its preprocessing, the data and the precision."""
    visual: nn.Module = checkpoint.model.visual  # type: ignore[assignment]
    decides = {
        "weights": hash_weights(visual),
        "architecture": {key: checkpoint.model_cfg.get(key) for key in ("embed_dim", "quick_gelu", "vision_cfg")},
        "pixels": {"pipeline": PIPELINE_VERSION, **asdict(checkpoint.pixels)},
        "data": data_sha256,
        "dtype": dtype,
    }
    digest = hashlib.sha256(json.dumps(decides, sort_keys=True, default=str).encode()).hexdigest()
    return f"features-{digest[:24]}.npy"


def cached_features(
    checkpoint: Checkpoint,
    pixels: Pixels,
    folder: Path,
    *,
    data_sha256: str,
    device: torch.device | None = None,
    dtype: Literal["float32", "float16"] = "float32",
    progress: Callable[[int], None] | None = None,
) -> Features:
    """What the image tower gives for every picture, before normalising: memory-mapped [N, F], read-only.

    ``pixels`` uint8 [N, H, W, 3], in memory or memory-mapped. Computed in fp32; a file of an earlier run in ``folder``
    is used again when it is of the same tower, preprocessing and data. ``float16`` halves the file and costs 1e-3 of
    each value. ``progress`` is called with the number of pictures just done. Raises StorageError, and EncodingFailed
    for values that are not numbers.
    """
    path = folder / features_name(checkpoint, data_sha256, dtype)
    num_features = _num_features(checkpoint)
    ready = _open(path, (len(pixels), num_features), dtype)
    if ready is None:
        with storage_errors(f"write {path}"):
            folder.mkdir(parents=True, exist_ok=True)
            _write(checkpoint, pixels, path, num_features, device or torch.device("cpu"), dtype, progress)
        ready = _open(path, (len(pixels), num_features), dtype)
        assert ready is not None
    return ready


def _open(path: Path, shape: tuple[int, int], dtype: str) -> Features | None:
    """The file, unless it is missing or was not written to its end."""
    try:
        found: Any = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError):
        return None
    return found if found.shape == shape and found.dtype == dtype else None


def _write(
    checkpoint: Checkpoint,
    pixels: Pixels,
    path: Path,
    num_features: int,
    device: torch.device,
    dtype: str,
    progress: Callable[[int], None] | None,
) -> None:
    unfinished = path.with_suffix(".unfinished")
    written = np.lib.format.open_memmap(unfinished, mode="w+", dtype=dtype, shape=(len(pixels), num_features))
    with _locked(checkpoint.model, device) as visual, torch.inference_mode():
        tower = TorchImageTower(visual, checkpoint.pixels, device)
        for start in range(0, len(pixels), _AT_ONCE):
            features = tower(pixels[start : start + _AT_ONCE]).float().cpu().numpy()  # [b, F]
            if not np.isfinite(features).all():
                unfinished.unlink()
                raise EncodingFailed("The image tower gives values that are not numbers; check its weights.")
            written[start : start + len(features)] = features
            if progress is not None:
                progress(len(features))
    written.flush()
    del written
    unfinished.rename(path)


@contextlib.contextmanager
def _locked(model: nn.Module, device: torch.device) -> Iterator[nn.Module]:
    """The image tower on the device and in eval mode; afterwards each module is in the mode that it had."""
    visual: nn.Module = model.visual  # type: ignore[assignment]
    modes = [(module, module.training) for module in visual.modules()]
    try:
        yield visual.to(device).eval()
    finally:
        for module, mode in modes:
            module.training = mode


def _num_features(checkpoint: Checkpoint) -> int:
    spec = checkpoint.pixels
    device = next(checkpoint.model.visual.parameters()).device  # type: ignore[union-attr]
    with _locked(checkpoint.model, device) as visual, torch.inference_mode():
        empty = np.zeros((1, spec.height_px, spec.width_px, 3), np.uint8)
        return int(TorchImageTower(visual, spec, device)(empty).shape[1])
