"""An encoder that costs next to nothing, so that a hundred thousand pictures take minutes and memory is what shows."""

from __future__ import annotations

from pathlib import Path

import open_clip
import torch

from sightline.encoder.checkpoint import Checkpoint, describe_texts
from sightline.encoder.export import write_bundle
from sightline.images import PixelSpec

DIM = 512
"""That of ViT-B/32: vectors are as large as real ones, whatever computes them."""
SIDE_PX = 64
_CONFIG = {
    "embed_dim": DIM,
    "vision_cfg": {"image_size": SIDE_PX, "layers": 1, "width": 64, "head_width": 32, "patch_size": 16},
    "text_cfg": {"context_length": 24, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
}


def write_tiny_bundle(folder: Path) -> None:
    """Write it as a bundle, unless it is there. Untrained, the same weights each time."""
    if folder.exists():
        return
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = open_clip.CLIP(**_CONFIG)
    checkpoint = Checkpoint(
        name="tiny",
        model=model.eval().requires_grad_(False),
        model_cfg=_CONFIG,
        pixels=PixelSpec(SIDE_PX, SIDE_PX, (0.48, 0.46, 0.41), (0.27, 0.26, 0.28)),
        texts=describe_texts(_CONFIG),
        licence="none (untrained weights)",
        untrained=True,
    )
    write_bundle(checkpoint, folder)
