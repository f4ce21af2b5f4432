"""A real open_clip model small enough to build in a test: the same code paths as ViT-B/32 in milliseconds."""

from __future__ import annotations

import open_clip
import torch

from sightline.encoder.checkpoint import Checkpoint, describe_texts
from sightline.images import PixelSpec

TINY_CFG = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 64, "head_width": 32, "patch_size": 8},
    "text_cfg": {"context_length": 24, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
}


def tiny_checkpoint(seed: int = 0) -> Checkpoint:
    """An untrained CLIP of 1.8 M parameters (most of them the vocabulary)."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = open_clip.CLIP(**TINY_CFG)
    return Checkpoint(
        name="tiny",
        model=model.eval().requires_grad_(False),
        model_cfg=TINY_CFG,
        pixels=PixelSpec(32, 32, (0.48, 0.46, 0.41), (0.27, 0.26, 0.28)),
        texts=describe_texts(TINY_CFG),
        licence="apache-2.0",
    )
