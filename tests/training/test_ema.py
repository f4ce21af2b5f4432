from __future__ import annotations

import pytest
import torch
from torch import nn

from training.ema import Ema


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 2, dtype=torch.float64)
        self.norm = nn.BatchNorm1d(2, dtype=torch.float64)
        self.register_buffer("mask", torch.full((2, 2), float("-inf")), persistent=False)

    def masked(self) -> bool:
        return bool(self.get_buffer("mask").isneginf().all())


def moved(model: Model, generator: torch.Generator) -> dict[str, torch.Tensor]:
    """The model after a random move of everything that it has."""
    for tensor in (*model.parameters(), model.norm.running_mean, model.norm.running_var):
        assert isinstance(tensor, torch.Tensor)
        tensor.data += torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
    assert model.norm.num_batches_tracked is not None
    model.norm.num_batches_tracked += 1
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def test_it_has_the_closed_form_for_weights_and_buffers() -> None:
    model, generator = Model(), torch.Generator().manual_seed(0)
    start = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    ema = Ema(model, 0.9)
    seen = []
    for _ in range(7):
        seen.append(moved(model, generator))
        ema.update(model)
    for name, found in ema.model.state_dict().items():
        if name == "norm.num_batches_tracked":
            assert int(found) == 7
            continue
        expected = 0.9**7 * start[name] + 0.1 * sum(0.9 ** (6 - i) * state[name] for i, state in enumerate(seen))
        assert torch.allclose(found, expected, rtol=0, atol=1e-14), name
    assert isinstance(ema.model, Model) and ema.model.masked()  # a buffer that is made anew is left alone
    assert not any(parameter.requires_grad for parameter in ema.model.parameters())


def test_the_warm_up_forgets_the_start() -> None:
    ema = Ema(Model(), 0.999, warm_up=True)
    assert [ema.decay_at(update) for update in (0, 9, 10**6)] == pytest.approx([0.1, 10 / 19, 0.999])


def test_it_goes_on_from_its_state() -> None:
    model, generator = Model(), torch.Generator().manual_seed(0)
    whole = Ema(model, 0.9, warm_up=True)
    moved(model, generator)
    whole.update(model)
    resumed = Ema(Model(), 0.9, warm_up=True)
    resumed.load_state_dict(whole.state_dict())
    moved(model, generator)
    for ema in (whole, resumed):
        ema.update(model)
    for one, other in zip(whole.model.state_dict().values(), resumed.model.state_dict().values(), strict=True):
        assert torch.equal(one, other)
