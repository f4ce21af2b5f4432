from __future__ import annotations

import copy
from pathlib import Path

import open_clip
import pytest
import torch
from torch.nn.utils import parametrize

from sightline.encoder import write_bundle
from sightline.encoder.checkpoint import Checkpoint
from sightline.errors import RecipeError
from tests.training.towers import CONFIGS, checkpoint_of, move, steps, vectors_of
from training.adapters import AdapterSettings, adapter_state, attach, is_low_rank, merge
from training.adapters.lora import LoraSettings, attach_lora
from training.stages import StageSettings, begin

LORA = LoraSettings(rank=2, alpha=4)
ADAPTERS = StageSettings(name="adapters", num_steps=1, train=("adapters",))


def moved(checkpoint: Checkpoint) -> None:
    move([p for name, p in checkpoint.model.named_parameters() if is_low_rank(name)])


@pytest.mark.parametrize("kind", CONFIGS)
def test_at_first_nothing_changes_and_merging_changes_nothing(kind: str) -> None:
    checkpoint = checkpoint_of(kind)
    kinds, names = type(checkpoint.model), set(checkpoint.model.state_dict())
    before = vectors_of(checkpoint)
    added = attach_lora(checkpoint.model, LORA)
    assert added
    assert all(torch.equal(a, b) for a, b in zip(before, vectors_of(checkpoint), strict=True))
    moved(checkpoint)
    tuned = vectors_of(checkpoint)
    assert all(float((a - b).abs().max()) > 1e-3 for a, b in zip(before, tuned, strict=True))
    merge(checkpoint.model)
    assert all(float((a - b).abs().max()) <= 1e-6 for a, b in zip(tuned, vectors_of(checkpoint), strict=True))
    assert type(checkpoint.model) is kinds
    assert set(checkpoint.model.state_dict()) == names
    assert not any(parametrize.is_parametrized(module) for module in checkpoint.model.modules())


def test_fused_attention_learns_in_each_of_its_thirds() -> None:
    checkpoint = checkpoint_of("vit")
    attach_lora(checkpoint.model, LORA)
    begin(checkpoint.model, ADAPTERS)
    moved(checkpoint)
    steps(checkpoint, 1)
    for tower in (checkpoint.model.visual.transformer, checkpoint.model.transformer):  # type: ignore[union-attr]
        low_rank = tower.resblocks[0].attn.parametrizations.in_proj_weight[0]  # type: ignore[union-attr,index]
        assert low_rank.up.shape == (3, 32, 2)
        assert low_rank.down.shape == (3, 2, 32)
        assert all(float(third.abs().max()) > 0 for third in (*low_rank.up.grad, *low_rank.down.grad))


@pytest.mark.parametrize(
    ("kind", "some"),
    [
        ("vit", {"in_proj_weight", "out_proj", "c_fc", "c_proj"}),
        ("resnet", {"layer4.0.conv1", "layer4.0.conv3", "downsample.0", "attnpool.q_proj", "attnpool.c_proj"}),
        ("timm", {"qkv", "attn.proj", "fc1", "fc2"}),
    ],
)
def test_it_reaches_every_product_of_the_tower(kind: str, some: set[str]) -> None:
    checkpoint = checkpoint_of(kind)
    added = attach_lora(checkpoint.model, LoraSettings(rank=2, towers=("image",)))
    assert all(any(part in name for name in added) for part in some)
    assert all(name.startswith("visual.") for name in added)
    assert not any(name.startswith(("visual.trunk.head", "visual.proj")) for name in added)


def test_a_third_of_a_fused_weight_learns_alone() -> None:
    checkpoint = checkpoint_of("timm")
    attach_lora(checkpoint.model, LoraSettings(rank=2, alpha=2, targets=("attention",), towers=("image",)))
    layer = checkpoint.model.visual.trunk.blocks[0].attn.qkv  # type: ignore[union-attr,index]
    before = layer.weight.detach().clone()
    with torch.no_grad():
        layer.parametrizations.weight[0].up[1].fill_(1.0)
    change = (layer.weight.detach() - before).chunk(3)
    assert float(change[0].abs().max()) == float(change[2].abs().max()) == 0
    assert torch.linalg.matrix_rank(change[1]) == 1  # every column of up is the same here


def test_only_the_adapters_move_in_training() -> None:
    checkpoint = checkpoint_of("resnet")
    added = attach_lora(checkpoint.model, LORA)
    start = copy.deepcopy(checkpoint.model.state_dict())
    assert begin(checkpoint.model, ADAPTERS) == added
    steps(checkpoint, 1)
    for name, tensor in checkpoint.model.state_dict().items():
        assert torch.equal(tensor, start[name]) != name.endswith(".up"), name  # down has no gradient while up is zero
    steps(checkpoint, 1)
    assert any(not torch.equal(checkpoint.model.state_dict()[n], start[n]) for n in added if n.endswith(".down"))


def test_it_costs_under_two_per_cent_of_a_vit_b_32() -> None:
    config = open_clip.get_model_config("ViT-B-32")
    with torch.device("meta"):
        model = open_clip.CLIP(**config)
    whole = sum(p.numel() for p in model.parameters())
    attach_lora(model, LoraSettings(rank=8))
    small = sum(tensor.numel() for tensor in adapter_state(model).values())
    assert 0.01 < small / whole < 0.02


def test_the_rank_is_lowered_to_what_a_weight_has() -> None:
    checkpoint = checkpoint_of("resnet")
    attach_lora(checkpoint.model, LoraSettings(rank=64, targets=("convolution",)))
    pool = checkpoint.model.visual.layer1[0].conv1.parametrizations.weight[0]  # type: ignore[union-attr,index]
    assert pool.up.shape == (1, 8, 8)


def test_the_same_seed_gives_the_same_adapters() -> None:
    states = []
    for seed in (0, 0, 1):
        checkpoint = checkpoint_of("vit")
        attach(checkpoint, AdapterSettings(lora=LORA), seed=seed)
        states.append(adapter_state(checkpoint.model))
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert any(not torch.equal(states[0][name], states[2][name]) for name in states[0])


def test_an_adapted_model_can_be_copied_and_restored() -> None:
    checkpoint, other = checkpoint_of("vit"), checkpoint_of("vit")
    attach_lora(checkpoint.model, LORA)
    moved(checkpoint)
    expected = vectors_of(checkpoint)
    twin = copy.deepcopy(checkpoint.model)
    merge(checkpoint.model)
    checkpoint.model = twin  # the copy keeps its own adapters
    assert all(torch.equal(a, b) for a, b in zip(expected, vectors_of(checkpoint), strict=True))
    attach_lora(other.model, LORA, seed=5)
    other.model.load_state_dict(twin.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(expected, vectors_of(other), strict=True))


def test_in_bf16_what_is_learnt_is_not_rounded() -> None:
    checkpoint = checkpoint_of("vit")
    attach_lora(checkpoint.model, LORA)
    moved(checkpoint)
    weight = checkpoint.model.visual.transformer.resblocks[0].mlp.c_fc  # type: ignore[union-attr,index]
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(weight.weight, weight.weight.float())
        inside = weight.weight.detach().clone()
    assert torch.equal(inside, weight.weight)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_fused_weight_is_computed_once_in_a_forward_pass(
    monkeypatch: pytest.MonkeyPatch, checkpointing: bool
) -> None:
    checkpoint = checkpoint_of("vit")
    attach_lora(checkpoint.model, LORA)
    begin(checkpoint.model, ADAPTERS)
    checkpoint.model.set_grad_checkpointing(checkpointing)  # type: ignore[operator]
    computed: list[int] = []
    product = torch.bmm

    def counted(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        computed.append(len(one))
        return product(one, other)

    monkeypatch.setattr(torch, "bmm", counted)
    steps(checkpoint, 1)
    assert computed.count(3) == (8 if checkpointing else 4)  # blocks of both towers; checkpointing runs them again


def test_what_is_held_is_let_go() -> None:
    checkpoint = checkpoint_of("vit")
    attach_lora(checkpoint.model, LORA)
    attention = checkpoint.model.visual.transformer.resblocks[0].attn  # type: ignore[union-attr,index]
    with pytest.raises(AssertionError):
        attention(*[torch.zeros(1, 3, 5)] * 3)  # another width
    before = attention.in_proj_weight.detach().clone()
    moved(checkpoint)
    assert not torch.equal(attention.in_proj_weight, before)
    merge(checkpoint.model)
    assert not attention._forward_pre_hooks and not attention._forward_hooks


def test_a_tower_without_targets_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"LoRA finds no convolution in the text tower; name other targets"):
        attach_lora(checkpoint_of("vit").model, LoraSettings(targets=("convolution",), towers=("text",)))


@pytest.mark.parametrize("kind", ["vit", "resnet", "timm"])
def test_open_clip_loads_the_export_with_the_same_vectors(kind: str, tmp_path: Path) -> None:
    checkpoint = checkpoint_of(kind)
    attach_lora(checkpoint.model, LORA)
    moved(checkpoint)
    merge(checkpoint.model)
    write_bundle(checkpoint, tmp_path / "bundle")
    expected = vectors_of(checkpoint)
    checkpoint.model = open_clip.create_model(f"local-dir:{tmp_path / 'bundle'}").eval()
    assert all(torch.equal(a, b) for a, b in zip(expected, vectors_of(checkpoint), strict=True))
