"""How much each negative counts: harder ones more, suspected false ones not at all."""

from __future__ import annotations

import math

import torch

from training.objectives.blocks import Adjust, Block, log_sum_exps
from training.objectives.pairs import Pairs
from training.objectives.positives import Positives
from training.objectives.settings import HardNegatives


class Negatives:
    """The logarithm of each negative's weight in the denominators, block by block; positives keep weight 1.

    Hardness b weighs a negative by exp(b * score) over the mean of that among the row's (or column's) negatives, so
    that their weights sum to their number (Robinson et al. 2021, arXiv 2010.04592); it acts on inner products, so that
    its meaning does not move with the temperature. The guard leaves out a negative that scores higher than the best
    positive by more than a margin, and one whose caption equals that of a positive: both are probably positives that
    nobody has marked. Weights and guard count as constants: no gradient goes through them.
    """

    def __init__(self, pairs: Pairs, positives: Positives, settings: HardNegatives, chunk_size: int | None) -> None:
        self._positives, self._hardness = positives, settings.hardness
        self._images, self._texts = pairs.images.detach(), pairs.texts.detach()
        self._ids = pairs.text_ids if settings.guard_equal_texts else None
        self._extra_ids = pairs.extra_ids if self._ids is not None else None
        self._row_ids = _ids_of_positives(pairs) if self._ids is not None and pairs.positives is not None else None
        self._row_limits: torch.Tensor | None = None  # [B]
        self._column_limits: torch.Tensor | None = None  # [T]
        if settings.guard_margin is not None:
            rows, columns = positives.best_scores(self._images, self._texts, chunk_size)
            self._row_limits, self._column_limits = rows + settings.guard_margin, columns + settings.guard_margin
        self._row_means: torch.Tensor | None = None  # [B]
        self._column_means: torch.Tensor | None = None  # [T]
        self.plain = self._hardness == 0 and self._row_limits is None and self._ids is None
        if self._hardness > 0:
            self._row_means, self._column_means = self._log_means(pairs, chunk_size)

    @property
    def of_rows(self) -> Adjust | None:
        """For the texts that a picture is compared with; None when every negative has weight 1."""
        return None if self.plain else self._rows

    @property
    def of_columns(self) -> Adjust | None:
        """For the pictures that a text is compared with."""
        return None if self.plain else self._columns

    @property
    def of_extra_texts(self) -> Adjust | None:
        """For pictures against the queue's texts."""
        return None if self.plain else self._extra_rows

    @property
    def of_extra_images(self) -> Adjust | None:
        """For the queue's images against texts."""
        return None if self.plain else self._extra_columns

    def _rows(self, scores: torch.Tensor, block: Block) -> torch.Tensor:
        return self._keep_positives(self._extra(scores, block, self._equal(block), of_rows=True), block)

    def _columns(self, scores: torch.Tensor, block: Block) -> torch.Tensor:
        return self._keep_positives(self._extra(scores, block, self._equal(block), of_rows=False), block)

    def _extra_rows(self, scores: torch.Tensor, block: Block) -> torch.Tensor:
        equal = None
        if self._ids is not None and self._extra_ids is not None:
            equal = self._equal_to_positives(block.rows, self._extra_ids[block.columns])
        return self._extra(scores, block, equal, of_rows=True)

    def _extra_columns(self, scores: torch.Tensor, block: Block) -> torch.Tensor:
        equal = None
        if self._ids is not None and self._extra_ids is not None:
            equal = self._extra_ids[block.rows, None] == self._ids[None, block.columns]  # [q, t]
        return self._extra(scores, block, equal, of_rows=False)

    def _extra(self, scores: torch.Tensor, block: Block, equal: torch.Tensor | None, *, of_rows: bool) -> torch.Tensor:
        """Log-weights of a block in which all are negatives, [b, t]."""
        limits = self._row_limits if of_rows else self._column_limits
        means = self._row_means if of_rows else self._column_means
        found = self._hardness * scores  # [b, t]
        if means is not None:
            found -= means[block.rows, None] if of_rows else means[None, block.columns]
        if limits is not None:
            limit = limits[block.rows, None] if of_rows else limits[None, block.columns]
            found.masked_fill_(scores > limit, -math.inf)
        if equal is not None:
            found.masked_fill_(equal, -math.inf)
        return found

    def _keep_positives(self, log_weights: torch.Tensor, block: Block) -> torch.Tensor:
        mask = self._positives.mask(block)
        return log_weights if mask is None else log_weights.masked_fill_(mask, 0.0)

    def _equal(self, block: Block) -> torch.Tensor | None:
        """Which texts of a block say the same as a positive of the picture, bool [b, t]."""
        if self._ids is None:
            return None
        return self._equal_to_positives(block.rows, self._ids[block.columns])

    def _equal_to_positives(self, rows: slice, ids: torch.Tensor) -> torch.Tensor:
        assert self._ids is not None
        if self._row_ids is None:  # picture i has the caption i alone
            return self._ids[rows, None] == ids[None, :]
        known, has = self._row_ids  # int64 [U] ascending, bool [B, U]
        place = torch.searchsorted(known, ids).clamp(max=len(known) - 1)  # [t]
        return has[rows][:, place] & (known[place] == ids)

    def _log_means(self, pairs: Pairs, chunk_size: int | None) -> tuple[torch.Tensor, torch.Tensor]:
        """log mean exp(hardness * score) over the negatives of each row [B] and column [T]."""

        def without_hardness(adjust: Adjust) -> Adjust:
            def left_out(scores: torch.Tensor, block: Block) -> torch.Tensor:
                added = adjust(scores, block)  # hardness * score, or -inf
                return torch.where(added == -math.inf, added, torch.zeros_like(added))

            return left_out

        def negatives_only(adjust: Adjust) -> Adjust:
            def left_out(scores: torch.Tensor, block: Block) -> torch.Tensor:
                added, mask = adjust(scores, block), self._positives.mask(block)
                return added if mask is None else added.masked_fill_(mask, -math.inf)

            return left_out

        def both(scale: float) -> tuple[torch.Tensor, torch.Tensor]:
            rows, columns = log_sum_exps(
                self._images,
                self._texts,
                scale,
                chunk_size=chunk_size,
                adjust_rows=negatives_only(without_hardness(self._rows)),
                adjust_columns=negatives_only(without_hardness(self._columns)),
            )
            if pairs.extra_texts is not None:
                more, _ = log_sum_exps(
                    self._images,
                    pairs.extra_texts,
                    scale,
                    chunk_size=chunk_size,
                    columns=False,
                    adjust_rows=without_hardness(self._extra_rows),
                )
                rows = torch.logaddexp(rows, more)
            if pairs.extra_images is not None:
                _, more = log_sum_exps(
                    pairs.extra_images,
                    self._texts,
                    scale,
                    chunk_size=chunk_size,
                    rows=False,
                    adjust_columns=without_hardness(self._extra_columns),
                )
                columns = torch.logaddexp(columns, more)
            return rows, columns

        with torch.no_grad():
            sums, counts = both(self._hardness), both(0.0)
        rows, columns = (
            torch.where(count == -math.inf, torch.zeros_like(total), total - count).to(self._images.dtype)
            for total, count in zip(sums, counts, strict=True)
        )
        return rows, columns


def _ids_of_positives(pairs: Pairs) -> tuple[torch.Tensor, torch.Tensor]:
    """The different captions of the batch, int64 [U] ascending, and which of them each picture has, bool [B, U]."""
    assert pairs.text_ids is not None and pairs.positives is not None
    known, place = torch.unique(pairs.text_ids, return_inverse=True)  # [U], [T]
    has = torch.zeros(len(pairs.images), len(known), dtype=torch.bool, device=known.device)  # [B, U]
    rows, columns = pairs.positives.nonzero(as_tuple=True)
    has[rows, place[columns]] = True
    return known, has
