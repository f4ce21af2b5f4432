"""Functions of a whole matrix of logits that never hold the whole matrix.

A batch of 262,144 pairs has 68.7 thousand million logits: 275 GB in float32, and a dense loss keeps several such
matrices. Both functions here walk the matrix in square blocks instead, keep only sums, and compute each block again
in the backward pass, as Inf-CL does with tiles (Cheng et al. 2024, arXiv 2410.17243). The price is one more product
of images and texts. At most about eight blocks are alive at once, 8 x 4 x chunk_size^2 bytes: 540 MB for blocks of
4,096, 8 MB for blocks of 512, whatever the batch, and 40 bytes for each row and column (21 MB for 262,144 pairs). The
gradients of the vectors, of the vectors' own size, come on top, as they do for any loss. Measured in float32 on a
CPU, above 16,384 pairs and with these gradients of 4 MiB: 134 MiB (softmax) and 405 MiB (sigmoid) for blocks of
4,096, 9 MiB and 14 MiB for blocks of 512; for 262,144 pairs see ``benchmarks.training.costs``.

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
    """A function of each logit by itself, given for a block of scores and logits [b, t]. The logits are its own: it
    may answer in their place."""

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
    plan = _Plan(chunk_size, rows, columns, adjust_rows, adjust_columns, None)
    found: tuple[torch.Tensor, torch.Tensor, torch.Tensor] = _LogSumExps.apply(images, texts, factor, plan)
    return found[:2]


def log_sum_exps_and_pairs(
    images: torch.Tensor,
    texts: torch.Tensor,
    scale: torch.Tensor,
    shares: torch.Tensor | None,
    *,
    chunk_size: int | None = None,
    adjust_rows: Adjust | None = None,
    adjust_columns: Adjust | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """``log_sum_exps`` of both sides, and the sum over i < len(shares) of ``shares[i] * scale * <image i, text i>``, a
    scalar in float64 (0 without shares). The same as computed one by one, without a second copy of the vectors'
    gradients."""
    plan = _Plan(chunk_size, True, True, adjust_rows, adjust_columns, shares)
    found: tuple[torch.Tensor, torch.Tensor, torch.Tensor] = _LogSumExps.apply(images, texts, scale, plan)
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
    pair_shares: torch.Tensor | None

    def row_logits(self, scores: torch.Tensor, logits: torch.Tensor, block: Block) -> torch.Tensor:
        return logits if self.adjust_rows is None else logits + self.adjust_rows(scores, block)

    def column_logits(self, scores: torch.Tensor, logits: torch.Tensor, block: Block) -> torch.Tensor:
        return logits if self.adjust_columns is None else logits + self.adjust_columns(scores, block)

    def rooms(self, images: torch.Tensor, texts: torch.Tensor) -> tuple[_Room, _Room, _Room]:
        """For scores, for logits and for terms; the first two are one where nobody asks for scores."""
        plain = self.adjust_rows is None and self.adjust_columns is None
        first, second, third = (_Room(images, texts, self.chunk_size) for _ in range(3))
        return first, first if plain else second, third


class _Room:
    """Memory for one block, used again for each: asking the system for fresh megabytes costs a CPU as much as the
    arithmetic on them. What a method gives is gone with the next call of any; what it takes may lie in the same room,
    except for ``scores``."""

    def __init__(self, images: torch.Tensor, texts: torch.Tensor, chunk_size: int | None) -> None:
        height, width = (min(chunk_size or len(vectors), len(vectors)) for vectors in (images, texts))
        self._cells = images.new_empty(height * width)

    def scores(self, images: torch.Tensor, texts: torch.Tensor, block: Block) -> torch.Tensor:
        """The inner products of a block, [b, t]."""
        rows, columns = images[block.rows], texts[block.columns]
        return torch.mm(rows, columns.T, out=self._shaped(len(rows), len(columns)))

    def times(self, scores: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        """``scores * scale``, [b, t]."""
        return torch.mul(scores, scale, out=self._shaped(*scores.shape))

    def less(self, logits: torch.Tensor, largest: torch.Tensor) -> torch.Tensor:
        """``logits - largest``, [b, t], of a number for each row [b, 1] or column [1, t]."""
        return torch.sub(logits, largest, out=self._shaped(*logits.shape))

    def _shaped(self, num_rows: int, num_columns: int) -> torch.Tensor:
        return self._cells[: num_rows * num_columns].view(num_rows, num_columns)


class _RunningSums:
    """sum exp of rows (or columns) seen block by block, as a largest logit and the sum relative to it.

    The two are kept apart to the end: their sum in float32 would round a logit of 30 at the sixth digit of every share.
    Rows and columns each have their own largest, though one for both would save an exponential: only so is the share of
    a pair that leaves no doubt exactly 1, and its gradient 0.
    """

    def __init__(self, count: int, like: torch.Tensor, dim: int) -> None:
        self.largest = like.new_full((count,), -math.inf)
        self.sums = like.new_zeros((count,))
        self._dim = dim

    def add(self, logits: torch.Tensor, part: slice, room: _Room) -> None:
        """Add a block, [b, t]; ``room`` is for its terms."""
        before = self.largest[part]
        largest = torch.maximum(before, logits.amax(self._dim))
        reference = largest.masked_fill(largest == -math.inf, 0.0)  # -inf - -inf is not a number
        terms = room.less(logits, reference.unsqueeze(self._dim)).exp_().sum(self._dim)
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
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        rows = _RunningSums(len(images) if plan.rows else 0, images, dim=1)  # [B]
        columns = _RunningSums(len(texts) if plan.columns else 0, images, dim=0)  # [T]
        of_scores, of_logits, of_terms = plan.rooms(images, texts)
        with torch.autocast(images.device.type, enabled=False):
            for block in blocks(len(images), len(texts), plan.chunk_size):
                scores = of_scores.scores(images, texts, block)  # [b, t]
                logits = of_logits.times(scores, scale)  # [b, t]
                if plan.rows:
                    rows.add(plan.row_logits(scores, logits, block), block.rows, of_terms)
                if plan.columns:
                    columns.add(plan.column_logits(scores, logits, block), block.columns, of_terms)
            pairs = torch.zeros((), dtype=torch.float64, device=images.device)
            if plan.pair_shares is not None:
                for part in _parts(plan.pair_shares):
                    scores = torch.linalg.vecdot(images[part], texts[part])  # [b]
                    pairs += scores.double() @ plan.pair_shares[part].double()
        found = rows.finish(), columns.finish(), pairs * scale.double()
        ctx.plan = plan
        ctx.save_for_backward(images, texts, scale, rows.largest, rows.sums, columns.largest, columns.sums)
        return found

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, grad_rows: torch.Tensor, grad_columns: torch.Tensor, grad_pairs: torch.Tensor
    ) -> tuple[torch.Tensor | None, ...]:
        images, texts, scale, row_largest, row_sums, column_largest, column_sums = ctx.saved_tensors
        plan: _Plan = ctx.plan
        row_factors = grad_rows.to(images.dtype) / row_sums  # [B]
        column_factors = grad_columns.to(images.dtype) / column_sums  # [T]
        gradients = _Gradients(images, texts, ctx.needs_input_grad)
        of_scores, of_logits, of_terms = plan.rooms(images, texts)
        with torch.autocast(images.device.type, enabled=False):
            for block in blocks(len(images), len(texts), plan.chunk_size):
                scores = of_scores.scores(images, texts, block)  # [b, t]
                logits = of_logits.times(scores, scale)  # [b, t]
                slopes: torch.Tensor | None = None
                if plan.rows:
                    slopes = of_terms.less(plan.row_logits(scores, logits, block), row_largest[block.rows, None])
                    slopes.exp_().mul_(row_factors[block.rows, None])  # [b, t]
                if plan.columns:  # the last to ask for the logits: it may take their room
                    shares = of_logits.less(plan.column_logits(scores, logits, block), column_largest[block.columns])
                    shares.exp_().mul_(column_factors[block.columns])  # [b, t]
                    slopes = shares if slopes is None else slopes.add_(shares)
                if slopes is not None:
                    gradients.add(slopes, block)
            if plan.pair_shares is not None:
                gradients.add_pairs(plan.pair_shares * grad_pairs.to(images.dtype))
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
        of_scores, of_logits = _Room(images, texts, chunk_size), _Room(images, texts, chunk_size)
        with torch.autocast(images.device.type, enabled=False):
            for block in blocks(len(images), len(texts), chunk_size):
                scores = of_scores.scores(images, texts, block)  # [b, t]
                logits = of_logits.times(scores, scale).add_(bias)  # [b, t]
                total += _sum(term.value(scores, logits, block))
        ctx.term, ctx.chunk_size = term, chunk_size
        ctx.save_for_backward(images, texts, scale, bias)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        images, texts, scale, bias = ctx.saved_tensors
        gradients = _Gradients(images, texts, ctx.needs_input_grad)
        grad_bias = torch.zeros((), dtype=torch.float64, device=images.device)
        of_scores, of_logits = _Room(images, texts, ctx.chunk_size), _Room(images, texts, ctx.chunk_size)
        with torch.autocast(images.device.type, enabled=False):
            for block in blocks(len(images), len(texts), ctx.chunk_size):
                scores = of_scores.scores(images, texts, block)  # [b, t]
                logits = of_logits.times(scores, scale).add_(bias)  # [b, t]
                slopes = ctx.term.slope(scores, logits, block)  # [b, t]
                grad_bias += _sum(slopes)
                gradients.add(slopes, block)
            return (*gradients.finish(scale, grad), (grad_bias * grad).to(bias.dtype), None, None)


def _sum(terms: torch.Tensor) -> torch.Tensor:
    """The sum of a block in float64; along each row in the block's own type, or all of it would have to be cast."""
    return terms.sum(1).sum(dtype=torch.float64)


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

    def add_pairs(self, slopes: torch.Tensor) -> None:
        """``slopes`` [n]: the derivative with respect to the logit of picture i and text i, for i < n."""
        for part in _parts(slopes):
            factors = slopes[part, None]  # [b, 1]
            if self._of_images is not None:
                self._of_images[part].addcmul_(self._texts[part], factors)
            if self._of_texts is not None:
                self._of_texts[part].addcmul_(self._images[part], factors)

    def finish(
        self, scale: torch.Tensor, factor: torch.Tensor | None = None
    ) -> tuple[torch.Tensor | None, torch.Tensor | None, torch.Tensor | None]:
        """``factor`` multiplies all of them: once for each vector, in place of once for each slope."""
        of_scale: torch.Tensor | None = None
        if self._wants_scale and self._of_images is not None:
            of_scale = torch.zeros((), dtype=torch.float64, device=scale.device)
            for part in _parts(self._images):
                of_scale += (self._of_images[part] * self._images[part]).sum(dtype=torch.float64)
            of_scale = (of_scale if factor is None else of_scale * factor).to(scale.dtype)
        whole = scale if factor is None else scale * factor.to(scale.dtype)
        of_images = self._of_images.mul_(whole) if self._wants_images and self._of_images is not None else None
        of_texts = None if self._of_texts is None else self._of_texts.mul_(whole)
        return of_images, of_texts, of_scale


def _parts(vectors: torch.Tensor) -> Iterator[slice]:
    """Parts of some vectors, so that what is computed from each needs little memory."""
    return (block.rows for block in blocks(len(vectors), 1, 4096))
