"""Functions of a whole matrix of logits that never hold the whole matrix.

A batch of 262,144 pairs has 68.7 thousand million logits: 275 GB in float32, and a dense loss keeps several such
matrices. Both functions here walk the matrix in square blocks instead, keep only sums, and compute each block again
in the backward pass, as Inf-CL does with tiles (Cheng et al. 2024, arXiv 2410.17243). The price is one more product
of images and texts. At most about eight blocks are alive at once, 8 x 4 x chunk_size^2 bytes: 540 MB for blocks of
4,096, 8 MB for blocks of 512, whatever the batch, and 40 bytes for each row and column (21 MB for 262,144 pairs). The
gradients of the vectors, of the vectors' own size, come on top, as they do for any loss. Measured in float32 on a
CPU, above 16,384 pairs and with these gradients of 4 MiB: 339 MiB (softmax) and 491 MiB (sigmoid) for blocks of
4,096, 25 MiB and 28 MiB for blocks of 512; 33 MiB above 32,768 pairs with gradients of 8 MiB.

Every gradient is that of the dense formula, those of the scale and the bias included. Arithmetic is in the vectors' own
type (float32 or float64), with autocast off; the sums behind the two scalars' gradients are in float64.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch.autograd.function import once_differentiable


@dataclass(frozen=True, slots=True)
class Block:
    """A part of the matrix of scores: some rows (images) and some columns (texts)."""

    rows: slice
    columns: slice


Adjust = Callable[[torch.Tensor, Block], torch.Tensor]
"""From the scores (inner products) of a block [b, t] to what is added to its logits: 0, a constant, or -inf to leave
one out. It counts as constant: no gradient goes through it."""


class PairTerm(Protocol):
    """A function of each logit by itself, given for a block of scores and logits [b, t]."""

    def value(self, scores: torch.Tensor, logits: torch.Tensor, block: Block) -> torch.Tensor:
        """The terms themselves, [b, t]."""

    def slope(self, scores: torch.Tensor, logits: torch.Tensor, block: Block) -> torch.Tensor:
        """Their derivatives with respect to the logits, [b, t]."""


def blocks(num_rows: int, num_columns: int, chunk_size: int | None) -> Iterator[Block]:
    """The blocks of a matrix, row by row; with ``chunk_size`` None the whole matrix is one."""
    height, width = chunk_size or num_rows, chunk_size or num_columns
    for top in range(0, num_rows, max(1, height)):
        for left in range(0, num_columns, max(1, width)):
            yield Block(slice(top, min(top + height, num_rows)), slice(left, min(left + width, num_columns)))


def log_sum_exps(
    images: torch.Tensor,
    texts: torch.Tensor,
    scale: torch.Tensor | float,
    *,
    chunk_size: int | None = None,
    rows: bool = True,
    columns: bool = True,
    adjust_rows: Adjust | None = None,
    adjust_columns: Adjust | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """log sum exp of ``scale * images @ texts.T`` over each row [B] and over each column [T].

    Both in float64, because losses are small differences of them. ``rows`` and ``columns`` say which of the two is
    wanted; the other comes empty. A row or column of which everything is left out gives -inf, with a gradient of 0.
    """
    factor = torch.as_tensor(scale, dtype=images.dtype, device=images.device)
    plan = _Plan(chunk_size, rows, columns, adjust_rows, adjust_columns)
    found: tuple[torch.Tensor, torch.Tensor] = _LogSumExps.apply(images, texts, factor, plan)
    return found


def pair_sum(
    images: torch.Tensor,
    texts: torch.Tensor,
    scale: torch.Tensor,
    bias: torch.Tensor | None,
    term: PairTerm,
    *,
    chunk_size: int | None = None,
) -> torch.Tensor:
    """The sum, over all pairs, of a function of the logit ``scale * <image, text> + bias``; a scalar in float64."""
    shift = images.new_zeros(()) if bias is None else bias
    found: torch.Tensor = _PairSum.apply(images, texts, scale, shift, term, chunk_size)
    return found


@dataclass(frozen=True, slots=True)
class _Plan:
    chunk_size: int | None
    rows: bool
    columns: bool
    adjust_rows: Adjust | None
    adjust_columns: Adjust | None

    def row_logits(self, scores: torch.Tensor, logits: torch.Tensor, block: Block) -> torch.Tensor:
        return logits if self.adjust_rows is None else logits + self.adjust_rows(scores, block)

    def column_logits(self, scores: torch.Tensor, logits: torch.Tensor, block: Block) -> torch.Tensor:
        return logits if self.adjust_columns is None else logits + self.adjust_columns(scores, block)


class _RunningSums:
    """sum exp of rows (or columns) seen block by block, as a largest logit and the sum relative to it.

    The two are kept apart to the end: their sum in float32 would round a logit of 30 at the sixth digit of every share.
    """

    def __init__(self, count: int, like: torch.Tensor, dim: int) -> None:
        self.largest = like.new_full((count,), -math.inf)
        self.sums = like.new_zeros((count,))
        self._dim = dim

    def add(self, logits: torch.Tensor, part: slice) -> None:
        before = self.largest[part]
        largest = torch.maximum(before, logits.amax(self._dim))
        reference = largest.masked_fill(largest == -math.inf, 0.0)  # -inf - -inf is not a number
        terms = (logits - reference.unsqueeze(self._dim)).exp_().sum(self._dim)
        self.sums[part] = self.sums[part] * (before - reference).exp() + terms
        self.largest[part] = largest

    def finish(self) -> torch.Tensor:
        """log sum exp in float64. Afterwards shares are ``exp(logit - largest) / sums``, 0 where all is left out."""
        found = self.largest.double() + self.sums.double().log()
        self.largest.masked_fill_(self.largest == -math.inf, 0.0)
        self.sums.masked_fill_(self.sums == 0, 1.0)
        return found


class _LogSumExps(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, images: torch.Tensor, texts: torch.Tensor, scale: torch.Tensor, plan: _Plan
    ) -> tuple[torch.Tensor, torch.Tensor]:
        rows = _RunningSums(len(images) if plan.rows else 0, images, dim=1)  # [B]
        columns = _RunningSums(len(texts) if plan.columns else 0, images, dim=0)  # [T]
        with torch.autocast(images.device.type, enabled=False):
            for block in blocks(len(images), len(texts), plan.chunk_size):
                scores = images[block.rows] @ texts[block.columns].T  # [b, t]
                logits = scores * scale  # [b, t]
                if plan.rows:
                    rows.add(plan.row_logits(scores, logits, block), block.rows)
                if plan.columns:
                    columns.add(plan.column_logits(scores, logits, block), block.columns)
        found = rows.finish(), columns.finish()
        ctx.plan = plan
        ctx.save_for_backward(images, texts, scale, rows.largest, rows.sums, columns.largest, columns.sums)
        return found

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_rows: torch.Tensor, grad_columns: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        images, texts, scale, row_largest, row_sums, column_largest, column_sums = ctx.saved_tensors
        plan: _Plan = ctx.plan
        row_factors = grad_rows.to(images.dtype) / row_sums  # [B]
        column_factors = grad_columns.to(images.dtype) / column_sums  # [T]
        gradients = _Gradients(images, texts, ctx.needs_input_grad)
        with torch.autocast(images.device.type, enabled=False):
            for block in blocks(len(images), len(texts), plan.chunk_size):
                scores = images[block.rows] @ texts[block.columns].T  # [b, t]
                logits = scores * scale  # [b, t]
                slopes: torch.Tensor | None = None
                if plan.rows:
                    slopes = plan.row_logits(scores, logits, block) - row_largest[block.rows, None]  # [b, t]
                    slopes.exp_().mul_(row_factors[block.rows, None])
                if plan.columns:
                    shares = plan.column_logits(scores, logits, block) - column_largest[None, block.columns]  # [b, t]
                    shares.exp_().mul_(column_factors[None, block.columns])
                    slopes = shares if slopes is None else slopes.add_(shares)
                if slopes is not None:
                    gradients.add(slopes, block)
            return (*gradients.finish(scale), None)


class _PairSum(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        images: torch.Tensor,
        texts: torch.Tensor,
        scale: torch.Tensor,
        bias: torch.Tensor,
        term: PairTerm,
        chunk_size: int | None,
    ) -> torch.Tensor:
        total = torch.zeros((), dtype=torch.float64, device=images.device)
        with torch.autocast(images.device.type, enabled=False):
            for block in blocks(len(images), len(texts), chunk_size):
                scores = images[block.rows] @ texts[block.columns].T  # [b, t]
                total += term.value(scores, scores * scale + bias, block).sum(dtype=torch.float64)
        ctx.term, ctx.chunk_size = term, chunk_size
        ctx.save_for_backward(images, texts, scale, bias)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        images, texts, scale, bias = ctx.saved_tensors
        gradients = _Gradients(images, texts, ctx.needs_input_grad)
        grad_bias = torch.zeros((), dtype=torch.float64, device=images.device)
        with torch.autocast(images.device.type, enabled=False):
            for block in blocks(len(images), len(texts), ctx.chunk_size):
                scores = images[block.rows] @ texts[block.columns].T  # [b, t]
                slopes = ctx.term.slope(scores, scores * scale + bias, block) * grad.to(images.dtype)  # [b, t]
                grad_bias += slopes.sum(dtype=torch.float64)
                gradients.add(slopes, block)
            return (*gradients.finish(scale), grad_bias.to(bias.dtype), None, None)


class _Gradients:
    """The gradients of images, texts and scale, gathered block by block from the logits' slopes."""

    def __init__(self, images: torch.Tensor, texts: torch.Tensor, wanted: tuple[bool, ...]) -> None:
        self._images, self._texts = images, texts
        self._wants_images, self._wants_texts, self._wants_scale = wanted[:3]
        # The scale's gradient is <images, gradient of images> before scaling: one pass over vectors, not over logits.
        self._of_images = torch.zeros_like(images) if self._wants_images or self._wants_scale else None  # [B, D]
        self._of_texts = torch.zeros_like(texts) if self._wants_texts else None  # [T, D]

    def add(self, slopes: torch.Tensor, block: Block) -> None:
        """``slopes`` [b, t]: the derivative with respect to each logit of the block."""
        if self._of_images is not None:
            self._of_images[block.rows].addmm_(slopes, self._texts[block.columns])
        if self._of_texts is not None:
            self._of_texts[block.columns].addmm_(slopes.T, self._images[block.rows])

    def finish(self, scale: torch.Tensor) -> tuple[torch.Tensor | None, torch.Tensor | None, torch.Tensor | None]:
        of_scale: torch.Tensor | None = None
        if self._wants_scale and self._of_images is not None:
            of_scale = torch.zeros((), dtype=torch.float64, device=scale.device)
            for block in blocks(len(self._images), 1, 4096):
                of_scale += (self._of_images[block.rows] * self._images[block.rows]).sum(dtype=torch.float64)
            of_scale = of_scale.to(scale.dtype)
        of_images = self._of_images.mul_(scale) if self._wants_images and self._of_images is not None else None
        of_texts = None if self._of_texts is None else self._of_texts.mul_(scale)
        return of_images, of_texts, of_scale
