from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from tests.training.tiny import MEAN, STD, random_batch, tiny_model
from training.precision import straighten_attention
from training.towers import Towers


def kernels_of(towers: Towers, monkeypatch: pytest.MonkeyPatch, images: torch.Tensor) -> set[bool]:
    """Whether torch's fused attention was allowed wherever the image tower attended."""
    allowed: list[bool] = []
    attend = nn.functional.scaled_dot_product_attention

    def watched(*given: Any, **named: Any) -> torch.Tensor:
        allowed.append(torch._C._get_flash_sdp_enabled())  # of all devices
        return attend(*given, **named)

    with monkeypatch.context() as patch:
        patch.setattr(nn.functional, "scaled_dot_product_attention", watched)
        towers.encode_images(images)
    return set(allowed)


def test_only_a_trained_tower_does_without_fused_attention(monkeypatch: pytest.MonkeyPatch) -> None:
    towers, images = Towers(tiny_model(), MEAN, STD, precision="bf16"), torch.from_numpy(random_batch(2).pixels)
    assert kernels_of(towers, monkeypatch, images) == {False}
    with torch.no_grad():  # the gradient cache's first encoding: as the second
        assert kernels_of(towers, monkeypatch, images) == {False}
    towers.visual.requires_grad_(False)
    assert kernels_of(towers, monkeypatch, images) == {True}
    assert kernels_of(Towers(tiny_model(), MEAN, STD), monkeypatch, images) == {True}


def linear_inputs(monkeypatch: pytest.MonkeyPatch, towers: Towers) -> list[torch.Tensor]:
    """What the products with fused weights get."""
    seen: list[torch.Tensor] = []
    product = nn.functional.linear

    def watched(given: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        if len(weight) == 3 * weight.shape[1]:
            seen.append(given)
        return product(given, weight, bias)

    batch = random_batch(4)
    with monkeypatch.context() as patch:
        patch.setattr("torch.nn.functional.linear", watched)
        towers.encode_images(torch.from_numpy(batch.pixels))
        towers.encode_texts(torch.from_numpy(batch.tokens))
    return seen


def test_under_autocast_attention_reads_its_input_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else torch copies the weights once for each position."""
    model = tiny_model().requires_grad_(False)
    seen = linear_inputs(monkeypatch, Towers(model, MEAN, STD, precision="bf16"))
    assert len(seen) == 4 and all(given.is_contiguous() for given in seen)


def test_straight_attention_gives_the_same_bits() -> None:
    plain, straight = tiny_model(), tiny_model()
    straighten_attention(straight)
    straighten_attention(straight)
    attention = straight.visual.transformer.resblocks[0].attn
    assert len(attention._forward_pre_hooks) == 1
    images = torch.randn(4, 3, 16, 16)
    for dtype in (torch.float32, torch.bfloat16):
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            assert torch.equal(plain.visual(images), straight.visual(images))


def test_queries_that_are_not_the_keys_stay_apart() -> None:
    attention = nn.MultiheadAttention(16, 2, batch_first=True)
    queries, keys = torch.randn(3, 2, 16), torch.randn(3, 5, 16)
    with torch.autocast("cpu", torch.bfloat16):
        expected = attention(queries, keys, value=keys, need_weights=False)[0]
        straighten_attention(attention)
        assert torch.equal(attention(queries, keys, value=keys, need_weights=False)[0], expected)
