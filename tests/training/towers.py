"""Small encoders of every kind that training meets: open_clip's ViT, its ResNet, a sigmoid model, a timm tower."""

from __future__ import annotations

import copy
from typing import Any

import open_clip
import torch
from open_clip.model import CLIPVisionCfg

from sightline.encoder.checkpoint import Checkpoint, describe_texts
from sightline.images import PixelSpec

TEXT = {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2}

CONFIGS: dict[str, dict[str, Any]] = {
    "vit": {
        "embed_dim": 16,
        "quick_gelu": True,
        "vision_cfg": {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8},
        "text_cfg": TEXT,
    },
    "resnet": {
        "embed_dim": 16,
        "vision_cfg": {"image_size": 32, "layers": [1, 1, 1, 1], "width": 8, "head_width": 16},
        "text_cfg": TEXT,
    },
    "sigmoid": {
        "embed_dim": 16,
        "init_logit_bias": -10,
        "custom_text": True,
        "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 8},
        "text_cfg": {**TEXT, "no_causal_mask": True, "proj_bias": True, "pool_type": "last"},
    },
    "timm": {
        "embed_dim": 16,
        "custom_text": True,
        "vision_cfg": {"image_size": 160, "timm_model_name": "test_vit", "timm_pool": "token", "timm_proj": None},
        "text_cfg": TEXT,
    },
}


def checkpoint_of(kind: str, seed: int = 0) -> Checkpoint:
    """An untrained encoder in eval mode, its weights drawn anew so that no layer is silent."""
    config = copy.deepcopy(CONFIGS[kind])
    given = {key: value for key, value in config.items() if key != "custom_text"}
    given["vision_cfg"] = CLIPVisionCfg(**given["vision_cfg"])
    build = open_clip.CustomTextCLIP if config.get("custom_text") else open_clip.CLIP
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = build(**given)
        for name, parameter in model.named_parameters():
            if name.endswith(("bn3.weight", "bias")):
                torch.nn.init.normal_(parameter, std=0.2)
    size = config["vision_cfg"]["image_size"]
    return Checkpoint(
        name=kind,
        model=model.eval().requires_grad_(False),
        model_cfg=config,
        pixels=PixelSpec(size, size, (0.48, 0.46, 0.41), (0.27, 0.26, 0.28)),
        texts=describe_texts(config),
        licence="apache-2.0",
    )


def images_of(checkpoint: Checkpoint, count: int = 3, seed: int = 0) -> torch.Tensor:
    """Normal noise [count, 3, H, W]."""
    size = checkpoint.pixels.height_px
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(seed))


def tokens_of(checkpoint: Checkpoint, count: int = 3, seed: int = 0) -> torch.Tensor:
    """Token ids int64 [count, L] whose end-of-text token is the highest, at different places."""
    length = checkpoint.texts.context_length
    tokens = torch.randint(1, 400, (count, length), generator=torch.Generator().manual_seed(seed))
    for row in range(count):
        tokens[row, 3 + row % (length - 4) :] = 0
        tokens[row, 3 + row % (length - 4)] = 49407
    return tokens


@torch.no_grad()
def vectors_of(checkpoint: Checkpoint) -> tuple[torch.Tensor, torch.Tensor]:
    """Features of a few pictures and texts, each [3, D], not normalised."""
    model: Any = checkpoint.model
    was = model.training
    model.eval()
    found = model.encode_image(images_of(checkpoint)), model.encode_text(tokens_of(checkpoint))
    model.train(was)
    return found


def move(parameters: list[torch.nn.Parameter], seed: int = 0) -> None:
    """Change parameters at random, as training would."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in parameters:
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))


def steps(checkpoint: Checkpoint, count: int = 2, rate: float = 0.05) -> list[float]:
    """A few steps of the contrastive loss over whatever has a gradient; the losses."""
    model: Any = checkpoint.model
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=rate)
    losses = []
    for step in range(count):
        images = torch.nn.functional.normalize(model.encode_image(images_of(checkpoint, 4, step)), dim=-1)
        texts = torch.nn.functional.normalize(model.encode_text(tokens_of(checkpoint, 4, step)), dim=-1)
        logits = 10 * images @ texts.T
        loss = torch.nn.functional.cross_entropy(logits, torch.arange(4))
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses
