"""Which texts belong to which pictures, and how much each pair counts."""

from __future__ import annotations

import math

import torch

from training.objectives.blocks import Block, blocks
from training.objectives.pairs import Pairs


class Positives:
    """The positives of a batch, block by block, with their weights.

    A picture's share of the loss is the mean weight of its positives over the sum of these means; within a picture
    its positives share by weight. So a weight of 1 everywhere is the plain mean over pictures, and with one positive
    each it is the weighted mean over pairs (generalised contrastive learning, Zhu et al. 2024, arXiv 2404.08535). The
    same holds for texts. Pictures and texts without positives, or with weights of 0 alone, have no share.
    """

    def __init__(self, pairs: Pairs) -> None:
        self._mask, self._num_rows = pairs.positives, len(pairs.images)
        num_columns, dtype = len(pairs.texts), pairs.images.dtype
        self._weights: torch.Tensor | None  # [B, T], or [B] on the diagonal
        self._largest: tuple[torch.Tensor, torch.Tensor] | None = None  # [B], [T]
        if self._mask is None:
            diagonal = None if pairs.weights is None else pairs.weights.diagonal().to(dtype)  # [B]
            self._weights = diagonal
            row_sums = pairs.images.new_ones(self._num_rows) if diagonal is None else diagonal  # [B]
            row_counts = torch.ones_like(row_sums)  # [B]
            rest = num_columns - self._num_rows
            column_sums = torch.nn.functional.pad(row_sums, (0, rest))  # [T]
            column_counts = torch.nn.functional.pad(row_counts, (0, rest))  # [T]
        else:
            self._weights = None if pairs.weights is None else (pairs.weights * self._mask).to(dtype)  # [B, T]
            if self._weights is not None:
                self._largest = self._weights.amax(1), self._weights.amax(0)
            counted = self._mask if self._weights is None else self._weights
            row_sums, column_sums = counted.sum(1).to(dtype), counted.sum(0).to(dtype)  # [B], [T]
            row_counts, column_counts = self._mask.sum(1).to(dtype), self._mask.sum(0).to(dtype)  # [B], [T]
        self.row_shares, self._row_factors = _shares(row_sums, row_counts)  # [B], [B]
        self.column_shares, self._column_factors = _shares(column_sums, column_counts)  # [T], [T]
        self.mean_weight = _mean(row_sums.sum(), row_counts.sum())  # ()

    @property
    def weighted(self) -> bool:
        """Whether weights were given."""
        return self._weights is not None

    @property
    def belonging_texts(self) -> torch.Tensor:
        """Which texts are a positive of some picture, bool [T]; the others are supplied negatives."""
        if self._mask is not None:
            return self._mask.any(0)
        return torch.arange(len(self.column_shares), device=self.column_shares.device) < self._num_rows

    def mask(self, block: Block) -> torch.Tensor | None:
        """Which pairs of a block are positives, bool [b, t]; None when none is."""
        if self._mask is not None:
            return self._mask[block.rows, block.columns]
        if block.rows.stop <= block.columns.start or block.columns.stop <= block.rows.start:
            return None
        device = self.row_shares.device
        rows = torch.arange(block.rows.start, block.rows.stop, device=device)
        columns = torch.arange(block.columns.start, block.columns.stop, device=device)
        return rows[:, None] == columns[None, :]

    def weights(self, block: Block) -> torch.Tensor | None:
        """The positives' weights [b, t], 0 for negatives; None when the block has no positives."""
        mask = self.mask(block)
        if mask is None:
            return None
        if self._weights is None:
            return mask.to(self.row_shares.dtype)
        if self._mask is None:
            return mask * self._weights[block.rows, None]
        return self._weights[block.rows, block.columns]

    def pair_shares(self, block: Block) -> torch.Tensor | None:
        """What each positive counts in the mean of both directions, [b, t]; all of them together are 1."""
        weights = self.weights(block)
        if weights is None:
            return None
        factors = self._row_factors[block.rows, None] + self._column_factors[None, block.columns]  # [b, t]
        return weights * factors * 0.5

    def log_weights(self, block: Block, *, of_rows: bool) -> torch.Tensor:
        """Given a mask: the logarithm of each positive's weight relative to the largest of its row or column.

        -inf for negatives, [b, t].
        """
        weights = self.weights(block)
        assert weights is not None and self._mask is not None
        if self._weights is None:
            return weights.log()
        assert self._largest is not None
        of_row, of_column = self._largest
        largest = of_row[block.rows, None] if of_rows else of_column[None, block.columns]
        return (weights / largest).nan_to_num(0.0).log()  # 0/0: weights of 0 alone

    @torch.no_grad()
    def best_scores(
        self, images: torch.Tensor, texts: torch.Tensor, chunk_size: int | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The highest score of a positive of each picture [B] and of each text [T]; inf where there is none."""
        rows = images.new_full((len(images),), -math.inf)  # [B]
        columns = images.new_full((len(texts),), -math.inf)  # [T]
        for block in blocks(len(images), len(texts), chunk_size):
            mask = self.mask(block)
            if mask is None:
                continue
            scores = images[block.rows] @ texts[block.columns].T  # [b, t]
            scores = scores.masked_fill_(~mask, -math.inf)
            rows[block.rows] = torch.maximum(rows[block.rows], scores.amax(1))
            columns[block.columns] = torch.maximum(columns[block.columns], scores.amax(0))
        return rows.masked_fill_(rows == -math.inf, math.inf), columns.masked_fill_(columns == -math.inf, math.inf)


def _shares(sums: torch.Tensor, counts: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The share of each row, summing to 1, and the factor from a positive's weight to its share of the whole."""
    means = sums / counts.clamp(min=1)  # [N]
    total = means.sum()
    scale = torch.where(total > 0, 1 / total, torch.zeros_like(total))
    return means * scale, scale / counts.clamp(min=1)


def _mean(total: torch.Tensor, count: torch.Tensor) -> torch.Tensor:
    return torch.where(count > 0, total / count.clamp(min=1), torch.zeros_like(total))
