"""Blocks: the same as the whole matrix, gradients included, in a fraction of its memory."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tests.training.objectives import naive
from tests.training.objectives.naive import unit_rows
from training.objectives import Kind, ObjectiveSettings, Pairs, make_loss
from training.objectives.blocks import Block, blocks, log_sum_exps, pair_sum


class _Softplus:
    def value(self, scores: torch.Tensor, logits: torch.Tensor, block: Block) -> torch.Tensor:
        return F.softplus(logits)

    def slope(self, scores: torch.Tensor, logits: torch.Tensor, block: Block) -> torch.Tensor:
        return torch.sigmoid(logits)


def _without_first_column(scores: torch.Tensor, block: Block) -> torch.Tensor:
    added = torch.zeros_like(scores)
    if block.columns.start == 0:
        added[:, 0] = -math.inf
    return added


@pytest.mark.parametrize("chunk_size", [None, 1, 3, 5, 100])
def test_blocks_cover_the_matrix_once(chunk_size: int | None) -> None:
    seen = torch.zeros(7, 11)
    for block in blocks(7, 11, chunk_size):
        seen[block.rows, block.columns] += 1
    assert bool((seen == 1).all())


def test_no_rows_give_no_blocks() -> None:
    assert list(blocks(0, 5, None)) == []


@pytest.mark.parametrize("chunk_size", [None, 3])
@pytest.mark.parametrize("adjusted", [False, True])
def test_log_sum_exps_pass_finite_differences(chunk_size: int | None, adjusted: bool) -> None:
    images, texts = unit_rows(5, 4, 1).requires_grad_(), unit_rows(7, 4, 2).requires_grad_()
    scale = torch.tensor(3.0, dtype=torch.float64, requires_grad=True)
    adjust = _without_first_column if adjusted else None

    def both(images: torch.Tensor, texts: torch.Tensor, scale: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        rows, columns = log_sum_exps(
            images, texts, scale, chunk_size=chunk_size, adjust_rows=adjust, adjust_columns=adjust
        )
        return rows, columns[1:]  # the first is -inf where it is left out

    assert torch.autograd.gradcheck(both, (images, texts, scale))


@pytest.mark.parametrize("chunk_size", [None, 3])
def test_pair_sums_pass_finite_differences(chunk_size: int | None) -> None:
    images, texts = unit_rows(5, 4, 1).requires_grad_(), unit_rows(7, 4, 2).requires_grad_()
    scale = torch.tensor(3.0, dtype=torch.float64, requires_grad=True)
    bias = torch.tensor(-2.0, dtype=torch.float64, requires_grad=True)

    def total(images: torch.Tensor, texts: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        return pair_sum(images, texts, scale, bias, _Softplus(), chunk_size=chunk_size)

    assert torch.autograd.gradcheck(total, (images, texts, scale, bias))


def test_one_tensor_in_both_places_gets_both_gradients() -> None:
    vectors = unit_rows(6, 4, 3).requires_grad_()
    assert torch.autograd.gradcheck(lambda v: log_sum_exps(v, v, 2.0, chunk_size=4)[0], (vectors,))


def test_what_is_left_out_entirely_is_minus_infinity_with_no_gradient() -> None:
    images, texts = unit_rows(3, 4, 1).requires_grad_(), unit_rows(4, 4, 2).requires_grad_()

    def nothing(scores: torch.Tensor, block: Block) -> torch.Tensor:
        return torch.full_like(scores, -math.inf)

    rows, columns = log_sum_exps(images, texts, 10.0, chunk_size=2, adjust_rows=nothing)
    assert bool((rows == -math.inf).all())
    torch.where(rows == -math.inf, torch.zeros_like(rows), rows).sum().add(columns.sum()).backward()  # type: ignore[no-untyped-call]
    assert images.grad is not None and bool(images.grad.isfinite().all())
    assert texts.grad is not None and bool(texts.grad.isfinite().all())


def test_logits_of_thousands_do_not_overflow() -> None:
    images = unit_rows(4, 4, 1, torch.float32)
    rows, columns = log_sum_exps(images, images, 5000.0, chunk_size=2)
    assert torch.allclose(rows, torch.full_like(rows, 5000.0), rtol=1e-4)
    assert torch.allclose(columns, torch.full_like(columns, 5000.0), rtol=1e-4)


@pytest.mark.parametrize("scale", [14.3, 30.0, 100.0])
@pytest.mark.parametrize("chunk_size", [None, 4, 16])
@pytest.mark.parametrize("side", [0, 1], ids=["row", "column"])
def test_what_lies_far_below_its_block_is_not_lost(scale: float, chunk_size: int | None, side: int) -> None:
    """A picture or a text opposite to all others: its logits lie up to 200 below the largest of its blocks."""
    images, texts = unit_rows(24, 8, 1), unit_rows(24, 8, 2)
    images[:, 0] += 4.0
    texts[:, 0] += 4.0
    (images, texts)[side][5] *= -1
    images, texts = (F.normalize(vectors, dim=1) for vectors in (images, texts))
    weights = unit_rows(2, 24, 3)

    def both(dtype: torch.dtype) -> list[torch.Tensor]:
        given = {"images": images, "texts": texts, "scale": torch.tensor(scale)}
        leaves = {name: tensor.to(dtype).requires_grad_() for name, tensor in given.items()}
        if dtype == torch.float32:
            rows, columns = log_sum_exps(**leaves, chunk_size=chunk_size)  # type: ignore[arg-type]
        else:
            logits = leaves["scale"] * leaves["images"] @ leaves["texts"].T
            rows, columns = logits.logsumexp(1), logits.logsumexp(0)
        gradients = torch.autograd.grad(rows.double() @ weights[0] + columns.double() @ weights[1], [*leaves.values()])
        return [rows.detach(), columns.detach(), *gradients]

    found, expected = both(torch.float32), both(torch.float64)
    assert float(expected[side].max() - expected[side].min()) > scale  # they are far apart
    for ours, exact in zip(found, expected, strict=True):
        assert float((ours.double() - exact).abs().max()) <= 1e-6 * scale


def test_the_side_not_asked_for_is_empty_and_costs_no_gradient() -> None:
    images, texts = unit_rows(3, 4, 1).requires_grad_(), unit_rows(4, 4, 2)
    rows, columns = log_sum_exps(images, texts, 10.0, columns=False)
    assert rows.shape == (3,) and columns.shape == (0,)
    rows.sum().backward()  # type: ignore[no-untyped-call]
    assert images.grad is not None and texts.grad is None


def test_autocast_does_not_reach_the_blocks() -> None:
    images, texts = unit_rows(8, 16, 1, torch.float32), unit_rows(8, 16, 2, torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        inside, _ = log_sum_exps(images, texts, 100.0)
    outside, _ = log_sum_exps(images, texts, 100.0)
    assert torch.equal(inside, outside)


class _Sizes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes the size of the largest tensor that any operation makes."""

    largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        made = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, torch.Tensor):
                self.largest = max(self.largest, tensor.numel())
        return made


@pytest.mark.parametrize("kind", ["softmax", "sigmoid"])
def test_no_tensor_is_larger_than_a_block_or_the_vectors(kind: Kind) -> None:
    settings = ObjectiveSettings.model_validate(
        {
            "chunk_size": 32,
            "hard_negatives": {"hardness": 4.0, "guard_margin": 0.1, "guard_equal_texts": True},
            "distillation": {"alpha": 0.4},
            "regularisers": {"diversity": 0.1},
            "label_smoothing": 0.1 if kind == "softmax" else 0.0,
        }
    )
    given, teacher = naive.leaves(256, 256, dim=4, bias=-6.0), naive.leaves(256, 256, dim=4, seed=9)
    pairs = Pairs(
        **given,  # type: ignore[arg-type]
        teacher_images=teacher["images"],
        teacher_texts=teacher["texts"],
        teacher_logit_scale=teacher["logit_scale"],
        text_ids=torch.arange(256),
    )
    loss = make_loss(settings, kind=kind)
    with _Sizes() as sizes:  # type: ignore[no-untyped-call]
        loss(pairs).total.backward()
    assert sizes.largest == 32 * 32 == 256 * 4
