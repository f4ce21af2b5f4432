from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from open_clip_train.scheduler import cosine_lr  # type: ignore[import-untyped]
from torch import nn

from tests.training.tiny import RESNET, tiny_model
from training.recipe import Recipe, Training
from training.schedule import decays, is_hidden_matrix, layer_factors, make_optimizers, rate_factor, set_rates

TRAINING = Training(num_steps=100, batch_size=2, learning_rate=1e-3, warmup_steps=10)


def named(model: nn.Module) -> dict[str, nn.Parameter]:
    return dict(model.named_parameters())


def test_the_learning_rate_warms_up_and_reaches_zero() -> None:
    rates = [rate_factor(step, num_steps=100, warmup_steps=10) for step in range(101)]
    assert rates[:10] == pytest.approx([0.1 * step for step in range(1, 11)])
    assert rates[10] == pytest.approx(1)
    assert rates[100] == pytest.approx(0, abs=1e-9)
    assert rates[55] == pytest.approx(0.5)
    assert all(a > b for a, b in pairwise(rates[10:]))


@pytest.mark.parametrize("warmup_steps", [0, 7])
def test_it_is_open_clips_schedule_at_every_step(warmup_steps: int) -> None:
    theirs = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.5)
    schedule = cosine_lr(theirs, 0.5, warmup_steps, 50)
    for step in range(50):
        schedule(step)
        ours = 0.5 * rate_factor(step, num_steps=50, warmup_steps=warmup_steps)
        assert ours == pytest.approx(theirs.param_groups[0]["lr"], abs=1e-15)


def test_decay_spares_gains_biases_embeddings_and_the_scale() -> None:
    parameters = named(tiny_model(bias=-2.0))
    spared = {name for name, parameter in parameters.items() if not decays(name, parameter)}
    assert {
        "logit_scale",
        "logit_bias",
        "positional_embedding",
        "token_embedding.weight",
        "visual.class_embedding",
        "visual.positional_embedding",
        "ln_final.weight",
        "transformer.resblocks.0.attn.in_proj_bias",
    } <= spared
    assert not {"text_projection", "visual.conv1.weight", "transformer.resblocks.0.attn.in_proj_weight"} & spared


def test_muon_takes_the_matrices_of_the_blocks_and_nothing_else() -> None:
    parameters = named(tiny_model())
    adamw, muon = make_optimizers(parameters, TRAINING.model_copy(update={"optimizer": "muon"}))
    names = {id(parameter): name for name, parameter in parameters.items()}
    taken = {names[id(p)] for group in muon.param_groups for p in group["params"]}
    left = {names[id(p)] for group in adamw.param_groups for p in group["params"]}
    assert len(taken) == 16  # four matrices in each tower's two blocks
    assert all("resblocks." in name and name.endswith("weight") for name in taken)
    assert taken | left == set(names.values()) and not taken & left
    assert not any(is_hidden_matrix(name, parameters[name]) for name in left)


def rates_of(parameters: dict[str, nn.Parameter], optimizers: list[torch.optim.Optimizer]) -> dict[str, float]:
    names = {id(parameter): name for name, parameter in parameters.items()}
    groups = [group for optimizer in optimizers for group in optimizer.param_groups]
    return {names[id(parameter)]: group["lr"] for group in groups for parameter in group["params"]}


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_each_parameter_has_the_rate_of_its_part(optimizer: str) -> None:
    parameters = named(tiny_model())
    factors = {name: 0.1 if name.startswith("visual.") else 1.0 for name in parameters}
    training = TRAINING.model_copy(update={"optimizer": optimizer, "muon_learning_rate": 2e-2})
    optimizers = make_optimizers(parameters, training, factors)
    set_rates(optimizers, 0.5)
    rates = rates_of(parameters, optimizers)
    assert rates.keys() == parameters.keys()
    for name, parameter in parameters.items():
        peak = 2e-2 if optimizer == "muon" and is_hidden_matrix(name, parameter) else 1e-3
        assert rates[name] == pytest.approx(0.5 * factors[name] * peak), name


def test_lower_layers_have_lower_rates() -> None:
    factors = layer_factors(named(tiny_model()), 0.5)
    assert factors["visual.proj"] == factors["ln_final.weight"] == factors["logit_scale"] == 1
    assert factors["visual.transformer.resblocks.1.attn.in_proj_weight"] == 0.5
    assert factors["visual.transformer.resblocks.0.mlp.c_fc.bias"] == 0.25
    assert factors["visual.conv1.weight"] == factors["visual.positional_embedding"] == 0.125
    assert factors["transformer.resblocks.0.ln_1.weight"] == 0.25
    assert factors["token_embedding.weight"] == 0.125


def test_a_residual_towers_stages_are_its_layers() -> None:
    factors = layer_factors(named(tiny_model(vision=RESNET)), 0.5)
    assert factors["visual.attnpool.positional_embedding"] == factors["visual.attnpool.c_proj.weight"] == 1
    assert factors["visual.layer4.0.conv1.weight"] == 0.5
    assert factors["visual.layer1.0.bn2.weight"] == 0.0625
    assert factors["visual.conv1.weight"] == factors["visual.bn3.bias"] == 0.03125


def test_the_names_of_other_towers_are_understood() -> None:
    names = ["visual.trunk.patch_embed.proj.weight", "visual.trunk.blocks.1.mlp.fc1.weight", "visual.head.proj.weight",
             "visual.trunk.blocks.0.norm1.weight", "text.transformer.encoder.layer.3.output.dense.weight",
             "text.transformer.embeddings.word_embeddings.weight"]  # fmt: skip
    factors = layer_factors(names, 0.5)
    assert list(factors.values()) == [0.125, 0.5, 1, 0.25, 0.5, 0.5**5]


def test_the_tables_agree(tiny: Recipe) -> None:
    assert tiny.num_steps == tiny.training.num_steps
