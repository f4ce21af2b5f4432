"""Soft targets: the student is asked for what a teacher says about every pair, not for 0 and 1.

open_clip's DistillClipLoss takes softmax students of softmax teachers only; here all four pairings of kinds work.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from training.objectives.blocks import Block, log_sum_exps, pair_sum
from training.objectives.pairs import Pairs
from training.objectives.positives import Positives
from training.objectives.settings import Kind


def distillation_loss(pairs: Pairs, positives: Positives, *, kind: Kind, chunk_size: int | None) -> torch.Tensor:
    """Cross entropy between a teacher's view of the batch and the student's; a scalar.

    A softmax student learns the teacher's distribution over texts for each picture and over pictures for each text
    that has one (a sigmoid teacher's bias cancels). A sigmoid student learns a probability for each pair: a sigmoid
    teacher's own, or, of a softmax teacher, the mean of what its two directions give the pair. A queue's extras are
    left out: the teacher has not seen them.

    Raises ValueError when the pairs come without a teacher.
    """
    if pairs.teacher_images is None or pairs.teacher_texts is None or pairs.teacher_logit_scale is None:
        raise ValueError("Distillation needs the teacher's vectors and its logit scale.")
    teacher = _Teacher(pairs, positives, chunk_size)
    if kind == "sigmoid":
        asked = _SoftPairwise(teacher)
        total = pair_sum(pairs.images, pairs.texts, pairs.logit_scale, pairs.logit_bias, asked, chunk_size=chunk_size)
        return (total / len(pairs.images)).to(pairs.images.dtype)
    rows, columns = log_sum_exps(pairs.images, pairs.texts, pairs.logit_scale, chunk_size=chunk_size)
    denominators = 0.5 * (rows.mean() + (columns * teacher.column_shares).sum())
    expected = pair_sum(pairs.images, pairs.texts, pairs.logit_scale, None, _Expected(teacher), chunk_size=chunk_size)
    return (denominators - expected).to(pairs.images.dtype)


class _Teacher:
    """What the teacher says, block by block, without gradient."""

    @torch.no_grad()
    def __init__(self, pairs: Pairs, positives: Positives, chunk_size: int | None) -> None:
        assert pairs.teacher_images is not None and pairs.teacher_texts is not None
        assert pairs.teacher_logit_scale is not None
        dtype = pairs.images.dtype
        self._images, self._texts = pairs.teacher_images.detach().to(dtype), pairs.teacher_texts.detach().to(dtype)
        self._scale = pairs.teacher_logit_scale.detach().to(dtype)
        self._bias = None if pairs.teacher_logit_bias is None else pairs.teacher_logit_bias.detach().to(dtype)
        asks = (positives.column_shares > 0).to(dtype)  # [T]
        self.column_shares = asks / asks.sum().clamp(min=1)  # [T]
        self._asks = asks > 0
        sums = log_sum_exps(self._images, self._texts, self._scale, chunk_size=chunk_size)
        self._rows, self._columns = (some.to(dtype) for some in sums)  # [B], [T]

    def _logits(self, block: Block) -> torch.Tensor:
        return self._scale * (self._images[block.rows] @ self._texts[block.columns].T)  # [b, t]

    def _distributions(self, block: Block) -> tuple[torch.Tensor, torch.Tensor]:
        """Over texts for each picture and over pictures for each text, [b, t] each."""
        logits = self._logits(block)
        return (logits - self._rows[block.rows, None]).exp(), (logits - self._columns[None, block.columns]).exp()

    def shares(self, block: Block) -> torch.Tensor:
        """Both distributions as shares of the mean over pictures and texts, [b, t]; all of them together are 1."""
        of_texts, of_images = self._distributions(block)
        return 0.5 * (of_texts / len(self._images) + of_images * self.column_shares[None, block.columns])

    def probabilities(self, block: Block) -> torch.Tensor:
        """How probable it is that each pair belongs together, [b, t]."""
        if self._bias is not None:
            return torch.sigmoid(self._logits(block) + self._bias)
        of_texts, of_images = self._distributions(block)
        # A supplied negative belongs to no picture: its distribution over pictures says nothing.
        return torch.where(self._asks[None, block.columns], 0.5 * (of_texts + of_images), of_texts)


class _Expected:
    """The student's logits weighed with the teacher's shares."""

    def __init__(self, teacher: _Teacher) -> None:
        self._teacher = teacher

    def value(self, scores: torch.Tensor, logits: torch.Tensor, block: Block) -> torch.Tensor:
        return self._teacher.shares(block) * logits

    def slope(self, scores: torch.Tensor, logits: torch.Tensor, block: Block) -> torch.Tensor:
        return self._teacher.shares(block)


class _SoftPairwise:
    """Binary cross entropy with the teacher's probabilities."""

    def __init__(self, teacher: _Teacher) -> None:
        self._teacher = teacher

    def value(self, scores: torch.Tensor, logits: torch.Tensor, block: Block) -> torch.Tensor:
        return F.softplus(logits) - self._teacher.probabilities(block) * logits

    def slope(self, scores: torch.Tensor, logits: torch.Tensor, block: Block) -> torch.Tensor:
        return torch.sigmoid(logits) - self._teacher.probabilities(block)
