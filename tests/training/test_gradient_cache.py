from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from open_clip.loss import ClipLoss, SigLipLoss

from tests.training.tiny import RESNET, gradients, objective_of, random_batch, tiny_model, worst_difference
from tests.training.towers import move
from training.adapters.lora import LoraSettings, attach_lora, remove_hooks
from training.batch import Batch
from training.gradient_cache import RandomState, backward
from training.objective import Objective
from training.stages import StageSettings, begin


def dense(objective: Objective, batch: Batch) -> dict[str, torch.Tensor]:
    objective.zero_grad()
    objective(batch).total.backward()
    return gradients(objective)


def cached(objective: Objective, batch: Batch, micro_batch: int | None) -> dict[str, torch.Tensor]:
    objective.zero_grad()
    backward(objective, batch, micro_batch)
    return gradients(objective)


@pytest.mark.parametrize("micro_batch", [1, 3, 8, None])
@pytest.mark.parametrize("bias", [None, -2.0])
def test_every_gradient_equals_the_whole_batchs(bias: float | None, micro_batch: int | None) -> None:
    batch = random_batch(9, 11)  # two supplied negatives
    for dtype, bound in ((torch.float64, 1e-12), (torch.float32, 1e-5)):
        objective = objective_of(tiny_model(bias=bias), adversary={"strength": 0.5}).to(dtype)
        expected = dense(objective, batch)
        assert {"model.logit_scale", "criterion.adversary.network.0.weight"} <= expected.keys()
        assert ("model.logit_bias" in expected) == (bias is not None)
        assert worst_difference(expected, cached(objective, batch, micro_batch)) <= bound


def test_the_loss_and_its_vectors_are_the_whole_batchs() -> None:
    objective, batch = objective_of(tiny_model()).double(), random_batch(9)
    expected, found = backward(objective, batch), backward(objective, batch, 2)
    assert found.total.item() == pytest.approx(expected.total.item(), abs=1e-14)
    assert torch.allclose(found.images, expected.images, rtol=0, atol=1e-14)
    assert found.texts.shape == (9, 16) and not found.texts.requires_grad


def whole_graph_of_micro_batches(objective: Objective, batch: Batch, micro_batch: int) -> dict[str, torch.Tensor]:
    """The reference for dropout: the same micro-batches with the same random numbers, under one graph."""
    objective.zero_grad()
    images, tokens = objective.inputs(batch)
    image_vectors = torch.cat([objective.encode_images(part) for part in torch.split(images, micro_batch)])
    text_vectors = torch.cat([objective.encode_texts(part) for part in torch.split(tokens, micro_batch)])
    torch.autograd.backward(objective.compare(image_vectors, text_vectors, batch).total)
    return gradients(objective)


def test_dropout_is_replayed() -> None:
    objective, batch = objective_of(tiny_model(dropout=0.3)).double(), random_batch(9)
    torch.manual_seed(5)
    expected = whole_graph_of_micro_batches(objective, batch, 2)
    after = torch.get_rng_state()
    torch.manual_seed(5)
    assert worst_difference(expected, cached(objective, batch, 2)) <= 1e-12
    assert torch.equal(torch.get_rng_state(), after)
    torch.manual_seed(6)
    assert worst_difference(expected, cached(objective, batch, 2)) > 1e-2  # the masks do matter


def test_under_bf16_autocast() -> None:
    objective, batch = objective_of(tiny_model(dropout=0.3), precision="bf16"), random_batch(9)
    torch.manual_seed(5)
    expected = whole_graph_of_micro_batches(objective, batch, 3)
    torch.manual_seed(5)
    # Both encodings take the same attention: with another kernel in one of them this is 2e-2.
    assert worst_difference(expected, cached(objective, batch, 3)) <= 1e-6


@pytest.mark.parametrize("micro_batch", [3, None])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_adapters_under_gradient_checkpointing(precision: str, micro_batch: int | None) -> None:
    model, batch = tiny_model(), random_batch(8)
    names = attach_lora(model, LoraSettings(rank=2))
    move([parameter for name, parameter in model.named_parameters() if name in names])
    begin(model, StageSettings(name="adapters", num_steps=1, train=("adapters",)))
    objective = objective_of(model, precision)
    for module in model.modules():  # the reference computes an adapted weight at each access
        remove_hooks(module)
    expected = cached(objective, batch, micro_batch)
    again = tiny_model()
    attach_lora(again, LoraSettings(rank=2))
    again.load_state_dict(model.state_dict())
    begin(again, StageSettings(name="adapters", num_steps=1, train=("adapters",)))
    again.set_grad_checkpointing(True)
    found = cached(objective_of(again, precision), batch, micro_batch)
    assert len(expected) == len(names)
    assert worst_difference(expected, found) == 0


def test_batch_norm_counts_every_row_once() -> None:
    one, other = (objective_of(tiny_model(vision=RESNET)) for _ in range(2))
    batch = random_batch(8, side=32)
    whole_graph_of_micro_batches(one, batch, 4)
    cached(other, batch, 4)
    for (name, expected), found in zip(one.named_buffers(), other.buffers(), strict=True):
        assert torch.equal(expected, found), name


def test_a_locked_tower_is_encoded_once() -> None:
    model = tiny_model()
    model.visual.requires_grad_(False)
    calls = []
    model.visual.register_forward_hook(lambda *_: calls.append(1))
    objective, batch = objective_of(model).double(), random_batch(8)
    found = cached(objective, batch, 2)
    assert len(calls) == 4
    assert worst_difference(dense(objective, batch), found) <= 1e-12
    assert not any(name.startswith("model.visual") for name in found)


def test_gradient_checkpointing_changes_no_gradient() -> None:
    objective, batch = objective_of(tiny_model(dropout=0.3)).double(), random_batch(8)
    torch.manual_seed(5)
    expected = cached(objective, batch, 3)
    objective.model.set_grad_checkpointing(True)  # type: ignore[operator]
    for micro_batch in (3, None):
        torch.manual_seed(5)
        found = cached(objective, batch, micro_batch)
        if micro_batch == 3:
            assert worst_difference(expected, found) <= 1e-12


@pytest.mark.parametrize("micro_batch", [3, None])
def test_gradient_checkpointing_under_bf16_autocast(micro_batch: int | None) -> None:
    objective, batch = objective_of(tiny_model(), precision="bf16"), random_batch(8)
    expected = cached(objective, batch, micro_batch)
    objective.model.set_grad_checkpointing(True)  # type: ignore[operator]
    assert worst_difference(expected, cached(objective, batch, micro_batch)) == 0


def test_the_random_state_can_be_taken_back() -> None:
    before = RandomState.now(torch.device("cpu"))
    first = torch.rand(3)
    before.restore()
    assert torch.equal(torch.rand(3), first)


class TestOpenClipsOwnLoop:
    """What ``open_clip_train`` 3.3 does with ``--accum-freq 4`` (#761, #957): the reason for a loop of our own."""

    @staticmethod
    def accumulated(model: Any, batch: Batch, parts: int) -> dict[str, torch.Tensor]:
        from open_clip_train.train import train_one_epoch  # type: ignore[import-untyped]

        model.output_dict = True
        objective = objective_of(model).double()
        images = ((torch.from_numpy(batch.pixels).permute(0, 3, 1, 2).double() / 255) - 0.5) / 0.5
        tokens = torch.from_numpy(batch.tokens)
        pairs = list(zip(images.chunk(parts), tokens.chunk(parts), strict=True))

        class Loader:
            num_batches, num_samples = parts, len(images)

            def __iter__(self) -> Any:
                return iter(pairs)

        data = {"train": SimpleNamespace(set_epoch=lambda epoch: None, dataloader=Loader())}
        arguments = SimpleNamespace(
            device="cpu", precision="fp64", distill=False, accum_freq=parts, skip_scheduler=True, horovod=False,
            grad_clip_norm=None, log_every_n_steps=10**9, rank=0, local_rank=0, log_local=False, world_size=1,
            batch_size=len(images) // parts, wandb=False, distributed=False,
        )  # fmt: skip
        kept: dict[str, torch.Tensor] = {}

        class Keep(torch.optim.SGD):
            def step(self, closure: Any = None) -> None:  # type: ignore[override]
                kept.update(gradients(objective))

        loss = ClipLoss() if objective.logit_bias is None else SigLipLoss()
        optimizer = Keep(model.parameters(), lr=0.0)
        train_one_epoch(model, data, loss, 0, optimizer, None, None, None, arguments)
        return kept

    @pytest.mark.parametrize("bias", [None, -2.0])
    def test_it_multiplies_the_scalars_gradients_by_the_number_of_parts(self, bias: float | None) -> None:
        model = tiny_model(bias=bias).double()
        batch = random_batch(8)
        expected = dense(objective_of(model).double(), batch)
        theirs = self.accumulated(model, batch, 4)
        scalars = [name for name in expected if "logit" in name]
        assert len(scalars) == (1 if bias is None else 2)
        for name in scalars:
            assert (theirs[name] / expected[name]).item() == pytest.approx(4.0, abs=1e-9)
        towers = {name: value for name, value in expected.items() if "logit" not in name}
        assert worst_difference(towers, {name: theirs[name] for name in towers}) <= 1e-12
        ours = cached(objective_of(model).double(), batch, 2)
        assert worst_difference(expected, ours) <= 1e-12

    def test_it_draws_other_dropout_masks_the_second_time(self) -> None:
        model, batch = tiny_model(dropout=0.3).double(), random_batch(8)
        objective = objective_of(model).double()
        torch.manual_seed(5)
        expected = whole_graph_of_micro_batches(objective, batch, 2)
        torch.manual_seed(5)
        theirs = self.accumulated(model, batch, 4)
        towers = {name: value for name, value in expected.items() if "logit" not in name}
        assert worst_difference(towers, {name: theirs[name] for name in towers}) > 1e-2


def test_micro_batches_beyond_the_batch_are_the_dense_step() -> None:
    objective, batch = objective_of(tiny_model()).double(), random_batch(4)
    assert worst_difference(dense(objective, batch), cached(objective, batch, 100)) == 0
    assert math.isfinite(backward(objective, batch, 100).total.item())
