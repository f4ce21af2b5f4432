"""The Hugging Face folder for the peer: the same tokens and the same function as the open_clip model behind it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import open_clip
import pytest
import torch

from benchmarks.serving.clip_folder import write_clip_folder
from tests.tiny import TINY_CFG, tiny_checkpoint

TEXTS = ["a photo of a dog", "two cats on a sofa, at night!"]


def test_transformers_computes_the_same_from_the_folder(tmp_path: Path) -> None:
    from transformers import CLIPModel, CLIPTokenizer

    checkpoint = tiny_checkpoint()
    write_clip_folder(tmp_path, checkpoint)
    theirs = CLIPModel.from_pretrained(tmp_path)  # in evaluation mode
    tokens = CLIPTokenizer.from_pretrained(tmp_path)(TEXTS, padding=True, return_tensors="pt")
    ours = open_clip.SimpleTokenizer(context_length=24)(TEXTS)  # [B, 24]
    pixels = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))  # [B, 3, H, W]
    with torch.inference_mode():
        texts = theirs.text_projection(theirs.text_model(**tokens).pooler_output)  # [B, D]
        images = theirs.visual_projection(theirs.vision_model(pixel_values=pixels).pooler_output)  # [B, D]
        torch.testing.assert_close(texts, checkpoint.model.encode_text(ours), atol=1e-5, rtol=1e-4)  # type: ignore[operator]
        torch.testing.assert_close(images, checkpoint.model.encode_image(pixels), atol=1e-5, rtol=1e-4)  # type: ignore[operator]


def test_an_architecture_with_other_towers_is_refused(tmp_path: Path) -> None:
    config = {**TINY_CFG, "vision_cfg": {"timm_model_name": "vit_base_patch16"}}
    with pytest.raises(ValueError, match="ViT-B-32"):
        write_clip_folder(tmp_path, dataclasses.replace(tiny_checkpoint(), model_cfg=config))
