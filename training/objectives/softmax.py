"""The softmax loss in general: several positives, graded, among weighted negatives, in blocks."""

from __future__ import annotations

from typing import Literal

import torch

from training.objectives.blocks import Adjust, Block, log_sum_exps, log_sum_exps_and_pairs, pair_sum
from training.objectives.negatives import Negatives
from training.objectives.pairs import Pairs
from training.objectives.positives import Positives


def softmax_loss(
    pairs: Pairs,
    positives: Positives,
    negatives: Negatives,
    *,
    multi_positive: Literal["out", "in"],
    label_smoothing: float = 0.0,
    chunk_size: int | None,
) -> torch.Tensor:
    """Symmetric cross entropy (InfoNCE), the mean of both directions; a scalar.

    With one positive for each picture and plain negatives it is CLIP's. Texts without a picture (supplied negatives)
    stand in the pictures' denominators and ask for nothing themselves, as in NegCLIP (Yuksekgonul et al. 2023, arXiv
    2210.01936). Pictures and texts without positives are skipped.

    ``label_smoothing`` e, in [0, 1) and with ``multi_positive`` "out" alone, asks of a picture 1 - e of what its
    positives would share and e / N of each of the N texts that belong to a picture of the batch; of a text e / B of
    each of the B pictures. It is torch's cross_entropy(label_smoothing=e). A label can be wrong in favour of any pair
    of the batch, but a supplied negative is known to be wrong, and a queue's vectors learn nothing: neither is given a
    share. Weights and guards of negatives act on denominators alone: a negative that is left out keeps its e / N, the
    little that speaks for its being a positive.
    """
    row_shares, column_shares = positives.row_shares, positives.column_shares
    # One caption each: their logits come with the sums, in one pass over the gradients.
    alone = 0.5 * (row_shares + column_shares[: len(row_shares)]) if pairs.positives is None else None
    rows, columns, wanted = log_sum_exps_and_pairs(
        pairs.images,
        pairs.texts,
        pairs.logit_scale,
        alone,
        chunk_size=chunk_size,
        adjust_rows=negatives.of_rows,
        adjust_columns=negatives.of_columns,
    )  # [B], [T], ()
    if pairs.extra_texts is not None and len(pairs.extra_texts):
        more, _ = log_sum_exps(
            pairs.images,
            pairs.extra_texts,
            pairs.logit_scale,
            chunk_size=chunk_size,
            columns=False,
            adjust_rows=negatives.of_extra_texts,
        )
        rows = torch.logaddexp(rows, more)
    if pairs.extra_images is not None and len(pairs.extra_images):
        _, more = log_sum_exps(
            pairs.extra_images,
            pairs.texts,
            pairs.logit_scale,
            chunk_size=chunk_size,
            rows=False,
            adjust_columns=negatives.of_extra_images,
        )
        columns = torch.logaddexp(columns, more)
    dtype = pairs.images.dtype
    denominators = 0.5 * (_weighted(rows, row_shares) + _weighted(columns, column_shares))
    if multi_positive == "out" or pairs.positives is None:
        if alone is None:
            shared = _Shared(positives)
            wanted = pair_sum(pairs.images, pairs.texts, pairs.logit_scale, None, shared, chunk_size=chunk_size)
        if label_smoothing > 0:
            wanted = (1 - label_smoothing) * wanted + label_smoothing * _mean_logit(pairs, positives)
        return (denominators - wanted).to(dtype)
    rows, columns = log_sum_exps(
        pairs.images,
        pairs.texts,
        pairs.logit_scale,
        chunk_size=chunk_size,
        adjust_rows=_only(positives, of_rows=True),
        adjust_columns=_only(positives, of_rows=False),
    )
    return (denominators - 0.5 * (_weighted(rows, row_shares) + _weighted(columns, column_shares))).to(dtype)


def _weighted(values: torch.Tensor, shares: torch.Tensor) -> torch.Tensor:
    """The weighted sum, over those that have a share; -inf elsewhere does no harm."""
    return (torch.where(shares > 0, values, torch.zeros_like(values)) * shares).sum()


def _mean_logit(pairs: Pairs, positives: Positives) -> torch.Tensor:
    """The mean logit of pictures and texts of the batch, a scalar in float64; each picture and each text has the say
    that it has in the loss. The mean of products is the product of means: no logit is computed."""
    belong = positives.belonging_texts.to(pairs.texts.dtype)  # [T]
    texts = belong @ pairs.texts / belong.sum().clamp(min=1)  # [D]
    of_rows = torch.linalg.vecdot(positives.row_shares @ pairs.images, texts)
    of_columns = torch.linalg.vecdot(pairs.images.mean(0), positives.column_shares @ pairs.texts)
    found: torch.Tensor = pairs.logit_scale.double() * 0.5 * (of_rows.double() + of_columns.double())
    return found


class _Shared:
    """The logits of the positives, each with its share."""

    def __init__(self, positives: Positives) -> None:
        self._positives = positives

    def value(self, scores: torch.Tensor, logits: torch.Tensor, block: Block) -> torch.Tensor:
        return self.slope(scores, logits, block) * logits

    def slope(self, scores: torch.Tensor, logits: torch.Tensor, block: Block) -> torch.Tensor:
        shares = self._positives.pair_shares(block)
        return torch.zeros_like(logits) if shares is None else shares


def _only(positives: Positives, *, of_rows: bool) -> Adjust:
    """Leaves out negatives and weighs positives."""

    def adjust(scores: torch.Tensor, block: Block) -> torch.Tensor:
        return positives.log_weights(block, of_rows=of_rows)

    return adjust
