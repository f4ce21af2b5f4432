"""A tower made quick computes what open_clip's own does."""

from __future__ import annotations

import copy
from typing import Any

import open_clip
import pytest
import torch
from torch import nn

from sightline.encoder.packing import PackedLinear, SelfAttention, can_pack, pack_weights, with_quick_attention
from sightline.encoder.precision import bf16_copy, probe_images, probe_tokens
from sightline.encoder.text_tower import text_tower

VISION = {"image_size": 32, "layers": 2, "width": 64, "head_width": 32, "patch_size": 8}
TEXT = {"context_length": 24, "vocab_size": 1000, "width": 64, "heads": 2, "layers": 2}


def build(vision: dict[str, Any] | None = None, text: dict[str, Any] | None = None) -> open_clip.CLIP:
    torch.manual_seed(0)
    return open_clip.CLIP(32, VISION | (vision or {}), TEXT | (text or {})).eval().requires_grad_(False)


@torch.inference_mode()
def cosine(one: nn.Module, other: nn.Module, probe: torch.Tensor) -> float:
    return float(nn.functional.cosine_similarity(one(probe), other(probe.to(dtype_of(other, probe))).float()).min())


def dtype_of(module: nn.Module, probe: torch.Tensor) -> torch.dtype:
    return next(module.parameters()).dtype if probe.is_floating_point() else probe.dtype


def kinds(module: nn.Module) -> set[type]:
    return {type(child) for child in module.modules()}


def test_quick_attention_gives_the_same_vectors_and_shares_the_weights() -> None:
    model = build()
    tower = text_tower(model)
    quick = with_quick_attention(tower)
    tokens = probe_tokens(24, 1000)
    assert SelfAttention in kinds(quick)
    assert SelfAttention not in kinds(tower)
    assert nn.MultiheadAttention not in kinds(quick)
    with torch.inference_mode():
        torch.testing.assert_close(quick(tokens), model.encode_text(tokens), atol=1e-5, rtol=1e-5)
    theirs = {tensor.data_ptr() for tensor in model.parameters()}
    assert {tensor.data_ptr() for tensor in quick.parameters()} <= theirs


def test_attention_pooling_is_left_alone() -> None:
    """There the query is another tensor than the keys."""
    model = build({"attentional_pool": True, "attn_pooler_queries": 4, "attn_pooler_heads": 2})
    tower: nn.Module = model.visual
    quick = with_quick_attention(tower)
    assert nn.MultiheadAttention in kinds(quick)
    with torch.inference_mode():
        torch.testing.assert_close(quick(probe_images(32, 32)), tower(probe_images(32, 32)), atol=1e-5, rtol=1e-5)


@pytest.mark.skipif(not can_pack(), reason="this torch has no oneDNN")
def test_packed_weights_give_the_vectors_of_bf16() -> None:
    model = build()
    for tower, probe in ((text_tower(model), probe_tokens(24, 1000)), (model.visual, probe_images(32, 32))):
        packed = with_quick_attention(copy.deepcopy(tower).to(torch.bfloat16))
        pack_weights(packed)
        assert PackedLinear in kinds(packed)
        assert cosine(tower, packed, probe) > 0.999


@pytest.mark.skipif(not can_pack(), reason="this torch has no oneDNN")
def test_a_resnet_with_attention_pooling_is_packed_where_it_can_be() -> None:
    """RN50's pooling hands its layers' weights to a function: they must stay what they are."""
    model = build({"layers": (1, 1, 1, 1), "width": 16})
    packed = with_quick_attention(copy.deepcopy(model.visual).to(torch.bfloat16))
    pack_weights(packed)
    assert cosine(model.visual, packed, probe_images(32, 32)) > 0.99


def test_without_onednn_the_tower_stays_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sightline.encoder.packing.can_pack", lambda: False)
    tower = with_quick_attention(text_tower(build()).to(torch.bfloat16))
    pack_weights(tower)
    assert PackedLinear not in kinds(tower)


def test_text_towers_pass_the_gate_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sightline.encoder.precision.MIN_PARAMETERS", 0)
    tower = text_tower(build())
    low = bf16_copy(tower, probe_tokens(24, 1000))
    assert low is not None
    assert cosine(tower, low, probe_tokens(24, 1000)) > 0.999
