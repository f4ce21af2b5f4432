"""Batches of drawn pictures in memory: a pure function of (seed, step)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from benchmarks.training.world.scenes import Told
from sightline.images import Pixels
from training.batch import Batch

Tokens = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Tokenised:
    """Drawn pictures with token ids: ``captions`` int64 [N, C, L], ``swaps`` the same, ``has_swap`` bool [N]."""

    pixels: Pixels
    captions: Tokens
    swaps: Tokens
    has_swap: npt.NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.pixels)

    def first(self, num: int) -> Tokenised:
        """The first ``num`` of these pictures."""
        return Tokenised(self.pixels[:num], self.captions[:num], self.swaps[:num], self.has_swap[:num])

    def joined_with_first(self, num: int, other: Tokenised) -> Tokenised:
        """These pictures and the first ``num`` of another set."""
        return Tokenised(
            np.concatenate([self.pixels, other.pixels[:num]]),
            np.concatenate([self.captions, other.captions[:num]]),
            np.concatenate([self.swaps, other.swaps[:num]]),
            np.concatenate([self.has_swap, other.has_swap[:num]]),
        )

    def with_wrong_captions(self, share: float, seed: int) -> Tokenised:
        """The captions of this share of the pictures dealt among them, so that they are another picture's."""
        rng = np.random.default_rng([seed, 30])
        wrong = rng.permutation(len(self))[: round(share * len(self))]
        order = np.arange(len(self))
        order[wrong] = np.roll(wrong, 1)
        return Tokenised(self.pixels, self.captions[order], self.swaps[order], self.has_swap[order])


class DrawnBatches:
    """Every epoch its own order, and for each picture one of its captions; with ``negatives`` the swapped captions of
    the batch follow its own."""

    def __init__(self, data: Tokenised, *, batch_size: int, seed: int, negatives: bool = False) -> None:
        self.steps_per_epoch = len(data) // batch_size
        self.batch_size = batch_size
        self._data, self._seed, self._negatives = data, seed, negatives

    def at(self, step: int) -> Batch:
        """The batch of a step, counted from 0."""
        data = self._data
        epoch, position = divmod(step, self.steps_per_epoch)
        order = np.random.default_rng([self._seed, epoch]).permutation(len(data))
        rows = order[position * self.batch_size : (position + 1) * self.batch_size]  # [B]
        forms = np.random.default_rng([self._seed, step, 1]).integers(0, data.captions.shape[1], len(rows))  # [B]
        tokens = data.captions[rows, forms]  # [B, L]
        if self._negatives:
            swapped = data.has_swap[rows]
            tokens = np.concatenate([tokens, data.swaps[rows[swapped], forms[swapped]]])  # [T, L]
        return Batch(step, epoch, rows, data.pixels[rows], None, tokens)


def tokenise(told: Told, pixels: Pixels, tokenizer: Tokenizer, ids: Tokens) -> Tokenised:
    """Token ids of all captions and swaps as rows of a table narrowed to ``ids``, which are ascending."""
    has_swap = np.array([swaps is not None for swaps in told.swaps])
    swaps = [one or several for one, several in zip(told.swaps, told.captions, strict=True)]
    return Tokenised(
        pixels, np.searchsorted(ids, tokenizer(told.captions)), np.searchsorted(ids, tokenizer(swaps)), has_swap
    )


class Tokenizer:
    """Nested captions to token ids int64 [N, C, L]; each different sentence is tokenised once."""

    def __init__(self, context_length: int) -> None:
        import open_clip

        self._tokenizer = open_clip.SimpleTokenizer(context_length=context_length)
        self._known: dict[str, Tokens] = {}

    def __call__(self, captions: Sequence[Sequence[str]]) -> Tokens:
        new = list(dict.fromkeys(text for several in captions for text in several if text not in self._known))
        if new:
            for text, tokens in zip(new, self._tokenizer(new).numpy(), strict=True):
                self._known[text] = tokens
        return np.stack([np.stack([self._known[text] for text in several]) for several in captions])
