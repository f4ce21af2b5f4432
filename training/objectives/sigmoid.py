"""The sigmoid loss in general: several positives, graded, among weighted negatives, in blocks."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

from training.objectives.blocks import Adjust, Block, pair_sum
from training.objectives.negatives import Negatives
from training.objectives.pairs import Pairs
from training.objectives.positives import Positives


def initial_bias(batch_size: int) -> float:
    """The logit bias with which an untrained model guesses right how rare positives are: -ln(batch_size - 1).

    The -10 of SigLIP (Zhai et al. 2023, arXiv 2303.15343) is that of a batch of 22,027; at a batch of 64 it starts at a
    loss of 10.0 in place of 5.2, and the first steps only move the bias (open_clip #650).
    """
    return -math.log(max(1, batch_size - 1))


def sigmoid_loss(pairs: Pairs, positives: Positives, negatives: Negatives, *, chunk_size: int | None) -> torch.Tensor:
    """Each pair asked by itself whether it belongs together; the sum over pairs, divided by the pictures; a scalar.

    With one positive for each picture and plain negatives it is SigLIP's. A positive's term is multiplied by its weight
    over the mean weight; a negative's by the mean of its weights in the two directions. A picture without positives is
    not skipped: that nothing belongs to it is an answer too.
    """
    term = _Pairwise(positives, negatives)
    total = pair_sum(pairs.images, pairs.texts, pairs.logit_scale, pairs.logit_bias, term, chunk_size=chunk_size)
    for images, texts, adjust in (
        (pairs.images, pairs.extra_texts, negatives.of_extra_texts),
        (pairs.extra_images, pairs.texts, negatives.of_extra_images),
    ):
        if images is not None and texts is not None and len(images) and len(texts):
            extra = _Negative(adjust)
            total = total + pair_sum(images, texts, pairs.logit_scale, pairs.logit_bias, extra, chunk_size=chunk_size)
    return (total / len(pairs.images)).to(pairs.images.dtype)


class _Pairwise:
    """-w log sigmoid(z * logit), z = 1 for positives and -1 for negatives."""

    def __init__(self, positives: Positives, negatives: Negatives) -> None:
        self._positives, self._negatives = positives, negatives

    def value(self, scores: torch.Tensor, logits: torch.Tensor, block: Block) -> torch.Tensor:
        signs, weights = self._signs_and_weights(scores, block)
        terms = _softplus(logits) if signs is None else -F.logsigmoid(signs * logits)
        return terms if weights is None else terms * weights

    def slope(self, scores: torch.Tensor, logits: torch.Tensor, block: Block) -> torch.Tensor:
        signs, weights = self._signs_and_weights(scores, block)
        slopes = logits.sigmoid_() if signs is None else -signs * torch.sigmoid(-signs * logits)
        return slopes if weights is None else slopes * weights

    def _signs_and_weights(self, scores: torch.Tensor, block: Block) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """The signs are None where all are negatives."""
        mask = self._positives.mask(block)
        signs = None if mask is None else mask.to(scores.dtype) * 2 - 1  # [b, t]
        weights: torch.Tensor | None = None
        of_rows, of_columns = self._negatives.of_rows, self._negatives.of_columns
        if of_rows is not None and of_columns is not None:
            weights = 0.5 * (of_rows(scores, block).exp() + of_columns(scores, block).exp())  # [b, t]
        if mask is not None and self._positives.weighted:
            given = self._positives.weights(block)
            assert given is not None
            relative = given / self._positives.mean_weight.clamp(min=torch.finfo(given.dtype).tiny)
            weights = torch.where(mask, relative, 1.0 if weights is None else weights)  # [b, t]
        return signs, weights


class _Negative:
    """-w log sigmoid(-logit)."""

    def __init__(self, adjust: Adjust | None) -> None:
        self._adjust = adjust

    def value(self, scores: torch.Tensor, logits: torch.Tensor, block: Block) -> torch.Tensor:
        terms = _softplus(logits)
        return terms if self._adjust is None else terms * self._adjust(scores, block).exp()

    def slope(self, scores: torch.Tensor, logits: torch.Tensor, block: Block) -> torch.Tensor:
        slopes = logits.sigmoid_()
        return slopes if self._adjust is None else slopes * self._adjust(scores, block).exp()


def _softplus(logits: torch.Tensor) -> torch.Tensor:
    """-log sigmoid(-logit). torch's own takes the logit itself from 20 on, which is wrong in float64's tenth digit."""
    return F.softplus(logits, threshold=40.0)
