from __future__ import annotations

import pytest
import torch
from open_clip.transformer import PatchDropout
from pydantic import ValidationError

from sightline.errors import RecipeError
from tests.training.towers import CONFIGS, checkpoint_of, images_of, steps, vectors_of
from training.adapters import AdapterSettings, HeadSettings, LoraSettings, attach
from training.stages import (
    PARTS,
    WHOLE_MODEL,
    Part,
    StageSettings,
    begin,
    default_parts,
    parts_of,
    rate_factors,
    select,
    set_modes,
)


def stage(*train: Part, **more: object) -> StageSettings:
    return StageSettings.model_validate({"name": "one", "num_steps": 5, "train": train, **more})


@pytest.mark.parametrize(
    ("kind", "heads"),
    [
        ("vit", {"visual.proj", "text_projection"}),
        ("resnet", {"visual.attnpool.c_proj.weight", "visual.attnpool.c_proj.bias", "text_projection"}),
        ("sigmoid", {"visual.proj", "text.text_projection.weight", "text.text_projection.bias"}),
        ("timm", {"visual.trunk.head.weight", "visual.trunk.head.bias", "text.text_projection"}),
    ],
)
def test_every_parameter_has_one_part(kind: str, heads: set[str]) -> None:
    model = checkpoint_of(kind).model
    parts = parts_of(model)
    assert set(parts) == {name for name, _ in model.named_parameters()}
    assert {name for name, part in parts.items() if part.endswith("head")} == heads
    assert all(name.startswith("visual.") for name, part in parts.items() if part in ("image", "image-head"))
    scale = {"logit_scale", "logit_bias"} if kind == "sigmoid" else {"logit_scale"}
    assert {name for name, part in parts.items() if part == "logit-scale"} == scale
    assert set(parts.values()) == set(WHOLE_MODEL)


@pytest.mark.parametrize("kind", CONFIGS)
def test_a_stage_moves_what_it_names_and_nothing_else(kind: str) -> None:
    for part in ("image", "text", "image-head", "text-head"):
        checkpoint = checkpoint_of(kind)
        model = checkpoint.model
        start = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        names = begin(model, stage(part))
        assert set(names) == {name for name, own in parts_of(model).items() if own == part}
        steps(checkpoint, 1)
        moved = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, start[name])}
        counters = {name for name, _ in model.named_buffers()} if part == "image" else set()
        assert moved and moved <= set(names) | counters


def test_stages_follow_one_another() -> None:
    checkpoint = checkpoint_of("vit")
    attach(checkpoint, AdapterSettings(lora=LoraSettings(rank=2), heads=HeadSettings(text="mlp"), text_map=True))
    seen = [begin(checkpoint.model, stage(part)) for part in PARTS]
    assert all(seen)
    assert sum(map(len, seen)) == len(set().union(*seen))  # no parameter in two parts
    everything = begin(checkpoint.model, stage(*PARTS))
    assert set(everything) == set().union(*seen)
    fixed = {name for name, p in checkpoint.model.named_parameters() if not p.requires_grad}
    assert fixed and all("transformer.resblocks.2." in name for name in fixed)  # the attention that must stay silent


def test_what_is_frozen_behaves_as_when_it_is_served() -> None:
    resnet = checkpoint_of("resnet")
    before = vectors_of(resnet)[0]
    begin(resnet.model, stage("text", "text-head", "logit-scale"))
    steps(resnet, 3)
    assert torch.equal(vectors_of(resnet)[0], before)  # its batch norms kept their statistics
    attach(resnet, AdapterSettings(lora=LoraSettings(rank=2)))
    begin(resnet.model, stage("adapters"))
    norms = {name: b.clone() for name, b in resnet.model.named_buffers() if "running" in name}
    steps(resnet, 1)
    assert norms and all(torch.equal(dict(resnet.model.named_buffers())[name], b) for name, b in norms.items())
    begin(resnet.model, stage("image"))
    steps(resnet, 1)
    assert any(not torch.equal(dict(resnet.model.named_buffers())[name], b) for name, b in norms.items())


def test_a_frozen_tower_drops_no_patches() -> None:
    vit = checkpoint_of("vit")
    vit.model.visual.patch_dropout = PatchDropout(0.5)  # type: ignore[union-attr]
    images = images_of(vit)
    begin(vit.model, stage("text"))
    first, second = (vit.model.encode_image(images) for _ in range(2))  # type: ignore[operator]
    assert torch.equal(first, second)
    begin(vit.model, stage("image"))
    first, second = (vit.model.encode_image(images) for _ in range(2))  # type: ignore[operator]
    assert not torch.equal(first, second)
    vit.model.eval()
    set_modes(vit.model)
    assert vit.model.visual.training  # type: ignore[union-attr]


def test_what_was_trained_before_keeps_no_gradient() -> None:
    checkpoint = checkpoint_of("vit")
    begin(checkpoint.model, stage("image", "text"))
    steps(checkpoint, 1)
    begin(checkpoint.model, stage("text-head"))
    with_gradient = {name for name, p in checkpoint.model.named_parameters() if p.grad is not None}
    assert not with_gradient


def test_rates_are_those_of_the_stage_and_the_part() -> None:
    model = checkpoint_of("vit").model
    one = stage("image", "text-head", "logit-scale", learning_rate_factor=0.5, factors={"image": 0.1})
    rates = rate_factors(model, one)
    assert set(rates) == set(select(model, one))
    assert rates["visual.conv1.weight"] == pytest.approx(0.05)
    assert rates["text_projection"] == 0.5


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"train": []}, "freezes everything; name in train what moves: image, text"),
        ({"train": ["heads"]}, "Input should be 'image', 'text'"),
        ({"train": ["text"], "factors": {"image": 0.1}}, "has a factor for image, which it does not train"),
        ({"train": ["text"], "factors": {"text": 0}}, "leave a part out of train to freeze it"),
        ({"train": ["text"], "num_steps": 0}, "greater than or equal to 1"),
        ({"train": ["text"], "steps": 3}, "Extra inputs"),
    ],
)
def test_an_impossible_stage_is_refused(values: dict[str, object], sentence: str) -> None:
    with pytest.raises(ValidationError) as raised:
        StageSettings.model_validate({"name": "one", "num_steps": 5, **values})
    assert sentence in str(raised.value)


@pytest.mark.parametrize(
    ("part", "sentence"),
    [
        ("adapters", r"The stage 'one' trains adapters, which this model does not have; add a table \[adapters.lora\]"),
        ("text-map", r"trains text-map, which this model does not have; add text_map = true to \[adapters\]"),
    ],
)
def test_a_part_that_is_not_there_is_refused(part: Part, sentence: str) -> None:
    with pytest.raises(RecipeError, match=sentence):
        select(checkpoint_of("vit").model, stage("text", part))
    vit = checkpoint_of("vit")
    vit.model.text_projection = None  # type: ignore[assignment]
    with pytest.raises(RecipeError, match=r"trains text-head.*\[adapters.heads\], or train text"):
        begin(vit.model, stage("text-head"))


def test_a_scale_that_is_not_learnt_does_not_move() -> None:
    sigmoid, softmax = (checkpoint_of(kind).model for kind in ("sigmoid", "vit"))
    assert begin(sigmoid, stage("logit-scale"), fixed_scale=True) == ("logit_bias",)
    assert not sigmoid.logit_scale.requires_grad
    assert select(softmax, stage("logit-scale")) == ("logit_scale",)
    with pytest.raises(RecipeError, match=r"'one' trains nothing.* in \[objective.temperature\]\."):
        select(softmax, stage("logit-scale"), fixed_scale=True)


def test_without_stages_what_was_added_is_trained() -> None:
    assert default_parts(None) == default_parts(AdapterSettings()) == WHOLE_MODEL
    assert default_parts(AdapterSettings(lora=LoraSettings())) == ("adapters",)
    assert default_parts(AdapterSettings(text_map=True)) == ("text-map",)
    assert default_parts(AdapterSettings(heads=HeadSettings(text="mlp"))) == ("text-head",)
