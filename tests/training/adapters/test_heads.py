from __future__ import annotations

import copy
from pathlib import Path

import open_clip
import pytest
import torch
from pydantic import ValidationError

from sightline.encoder import write_bundle
from sightline.errors import RecipeError
from tests.training.towers import CONFIGS, checkpoint_of, move, steps, vectors_of
from training.adapters import AdapterSettings, HeadSettings, LoraSettings, attach, merge
from training.adapters.heads import Kind
from training.stages import StageSettings, begin, default_parts

HEADS = StageSettings(name="heads", num_steps=1, train=("image-head", "text-head"))


@pytest.mark.parametrize("head", ["mlp", "attention"])
@pytest.mark.parametrize("kind", ["vit", "sigmoid"])
def test_a_residual_head_changes_nothing_at_first(kind: str, head: Kind) -> None:
    checkpoint = checkpoint_of(kind)
    before = vectors_of(checkpoint)
    added = attach(checkpoint, AdapterSettings(heads=HeadSettings(image=head, text=head)))
    assert added
    assert all(torch.equal(a, b) for a, b in zip(before, vectors_of(checkpoint), strict=True))
    layers = CONFIGS[kind]["vision_cfg"]["layers"]
    assert checkpoint.model_cfg["vision_cfg"]["layers"] == layers + 1
    assert CONFIGS[kind]["vision_cfg"]["layers"] == layers  # the config that it came from is not touched


@pytest.mark.parametrize("head", ["linear", "mlp", "attention"])
@pytest.mark.parametrize("kind", ["vit", "sigmoid"])
def test_open_clip_loads_a_trained_head_with_the_same_vectors(kind: str, head: Kind, tmp_path: Path) -> None:
    checkpoint = checkpoint_of(kind)
    before = vectors_of(checkpoint)
    added = attach(checkpoint, AdapterSettings(heads=HeadSettings(image=head, text=head)))
    begin(checkpoint.model, HEADS)
    start = copy.deepcopy(checkpoint.model.state_dict())
    move([p for name, p in checkpoint.model.named_parameters() if name in added])
    steps(checkpoint, 2)
    unlike = {name for name, t in checkpoint.model.state_dict().items() if not torch.equal(t, start[name])}
    assert set(added) <= unlike
    assert all("projection" in name or name == "visual.proj" for name in unlike - set(added))
    expected = vectors_of(checkpoint)
    assert all(float((a - b).abs().max()) > 1e-3 for a, b in zip(before, expected, strict=True))
    write_bundle(checkpoint, tmp_path / "bundle")
    checkpoint.model = open_clip.create_model(f"local-dir:{tmp_path / 'bundle'}").eval()
    assert all(torch.equal(a, b) for a, b in zip(expected, vectors_of(checkpoint), strict=True))


def test_the_attention_of_an_mlp_head_writes_nothing_and_never_moves() -> None:
    checkpoint = checkpoint_of("vit")
    added = attach(checkpoint, AdapterSettings(heads=HeadSettings(image="mlp")))
    assert all(".ln_2." in name or ".mlp." in name for name in added)
    names = begin(checkpoint.model, StageSettings(name="s", num_steps=1, train=("image", "image-head")))
    assert set(added) <= set(names)
    steps(checkpoint, 3)
    block = checkpoint.model.visual.transformer.resblocks[-1]  # type: ignore[union-attr,index]
    assert all(float(p.abs().max()) == 0 for p in block.attn.parameters())  # type: ignore[union-attr]


def test_a_resnet_can_have_a_linear_head_only(tmp_path: Path) -> None:
    checkpoint = checkpoint_of("resnet")
    before = vectors_of(checkpoint)
    added = attach(checkpoint, AdapterSettings(heads=HeadSettings(image="linear")))
    assert added == ("visual.attnpool.c_proj.weight", "visual.attnpool.c_proj.bias")
    assert not torch.equal(before[0], vectors_of(checkpoint)[0])
    for kind in ("mlp", "attention"):
        with pytest.raises(RecipeError, match=r'not made of open_clip\'s blocks.*set image = "linear"'):
            attach(checkpoint_of("resnet"), AdapterSettings(heads=HeadSettings(image=kind)))


@pytest.mark.parametrize("head", ["linear", "mlp"])
def test_a_timm_tower_gets_the_head_that_open_clip_knows(head: Kind, tmp_path: Path) -> None:
    checkpoint = checkpoint_of("timm")
    trunk = checkpoint.model.visual.trunk  # type: ignore[union-attr]
    added = attach(checkpoint, AdapterSettings(heads=HeadSettings(image=head)))
    assert added and all(name.startswith("visual.head.") for name in added)
    fresh = checkpoint.model.visual.trunk.state_dict()  # type: ignore[union-attr]
    old = trunk.state_dict()  # type: ignore[union-attr]
    assert all(torch.equal(tensor, old[name]) for name, tensor in fresh.items())
    expected = vectors_of(checkpoint)
    write_bundle(checkpoint, tmp_path / "bundle")
    checkpoint.model = open_clip.create_model(f"local-dir:{tmp_path / 'bundle'}").eval()
    assert all(torch.equal(a, b) for a, b in zip(expected, vectors_of(checkpoint), strict=True))


def test_what_cannot_be_loaded_again_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"kind 'attention' that open_clip could load; set image"):
        attach(checkpoint_of("timm"), AdapterSettings(heads=HeadSettings(image="attention")))
    with pytest.raises(ValidationError, match="gives no tower a head"):
        HeadSettings()


def test_a_head_and_lora_together() -> None:
    checkpoint = checkpoint_of("vit")
    before = vectors_of(checkpoint)
    settings = AdapterSettings(heads=HeadSettings(image="attention"), lora=LoraSettings(rank=2), text_map=True)
    added = attach(checkpoint, settings)
    assert set(added) <= {name for name, _ in checkpoint.model.named_parameters()}
    assert default_parts(settings) == ("image-head", "adapters", "text-map")
    assert all(torch.equal(a, b) for a, b in zip(before, vectors_of(checkpoint), strict=True))
    begin(checkpoint.model, StageSettings(name="s", num_steps=1, train=default_parts(settings)))
    steps(checkpoint, 3)
    expected = vectors_of(checkpoint)
    merge(checkpoint.model)
    assert all(float((a - b).abs().max()) <= 1e-6 for a, b in zip(expected, vectors_of(checkpoint), strict=True))
