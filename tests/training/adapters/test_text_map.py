from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch

from sightline.encoder import load_encoder, write_bundle
from sightline.errors import RecipeError
from tests.training.towers import checkpoint_of, move, steps, tokens_of, vectors_of
from training.adapters import is_text_map, merge
from training.adapters.text_map import attach_text_map
from training.stages import StageSettings, begin

MAP = StageSettings(name="map", num_steps=1, train=("text-map",))


@pytest.mark.parametrize("kind", ["vit", "sigmoid"])
def test_it_is_a_linear_map_behind_the_projection(kind: str) -> None:
    checkpoint = checkpoint_of(kind)
    images, texts = vectors_of(checkpoint)
    (name,) = attach_text_map(checkpoint.model)
    assert is_text_map(name)
    assert all(torch.equal(a, b) for a, b in zip((images, texts), vectors_of(checkpoint), strict=True))
    change = dict(checkpoint.model.named_parameters())[name]
    move([change])
    mapped = vectors_of(checkpoint)
    assert torch.equal(mapped[0], images)
    expected = texts.double() @ (torch.eye(16) + change.detach()).double()
    assert float((mapped[1].double() - expected).abs().max()) < 1e-5
    merge(checkpoint.model)
    assert torch.equal(vectors_of(checkpoint)[1], mapped[1])


@pytest.mark.parametrize("kind", ["vit", "sigmoid", "resnet"])
def test_training_it_moves_nothing_else(kind: str) -> None:
    checkpoint = checkpoint_of(kind)
    names = attach_text_map(checkpoint.model)
    start = copy.deepcopy(checkpoint.model.state_dict())
    images, texts = vectors_of(checkpoint)
    assert begin(checkpoint.model, MAP) == names
    steps(checkpoint, 3)
    moved = {name for name, t in checkpoint.model.state_dict().items() if not torch.equal(t, start[name])}
    assert moved and all(name.endswith("text_map.change") for name in moved)
    after = vectors_of(checkpoint)
    assert torch.equal(after[0], images)
    assert not torch.equal(after[1], texts)


def test_training_lowers_the_loss_through_the_trimmed_tower() -> None:
    from sightline.encoder.text_tower import encode_tokens

    checkpoint = checkpoint_of("vit")
    attach_text_map(checkpoint.model)
    begin(checkpoint.model, MAP)
    tokens = tokens_of(checkpoint)
    whole = checkpoint.model.encode_text(tokens)  # type: ignore[operator]
    trimmed = encode_tokens(checkpoint.model, tokens)
    assert trimmed.requires_grad
    assert torch.allclose(whole, trimmed, atol=1e-5)
    losses = steps(checkpoint, 1) + [steps(checkpoint, 1)[0] for _ in range(20)]
    assert losses[-1] < losses[0] - 0.05


@pytest.mark.parametrize("kind", ["vit", "sigmoid"])
def test_the_export_is_an_ordinary_encoder_with_the_same_image_vectors(kind: str, tmp_path: Path) -> None:
    checkpoint = checkpoint_of(kind)
    write_bundle(checkpoint, tmp_path / "base")
    attach_text_map(checkpoint.model)
    move([p for name, p in checkpoint.model.named_parameters() if is_text_map(name)])
    expected = vectors_of(checkpoint)
    merge(checkpoint.model)
    checkpoint.name = "mapped"
    write_bundle(checkpoint, tmp_path / "mapped")
    pixels = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    base, mapped = (load_encoder(str(tmp_path / n), device="cpu", precision="fp32") for n in ("base", "mapped"))
    assert np.array_equal(base.encode_pixels(pixels), mapped.encode_pixels(pixels))
    assert base.fingerprint != mapped.fingerprint
    checkpoint.model = open_clip.create_model(f"local-dir:{tmp_path / 'mapped'}").eval()
    assert all(torch.equal(a, b) for a, b in zip(expected, vectors_of(checkpoint), strict=True))


def test_a_tower_without_a_projection_is_refused() -> None:
    checkpoint = checkpoint_of("vit")
    checkpoint.model.text_projection = None  # type: ignore[assignment]
    with pytest.raises(RecipeError, match="no projection that a map could fold into; take lora"):
        attach_text_map(checkpoint.model)
