"""Which pictures make which batch, and which of its captions each of them brings: a pure function of (seed, epoch)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sightline.errors import SourceError
from training.data.captioned import numbered
from training.data.orders import balanced, cut, cut_apart, neighbours_together, shuffled

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Sampling:
    """How pictures come together.

    ``group_size`` consecutive pictures, or with ``neighbours`` (int64 [N, K], -1 for none) up to as many hard
    neighbours, come into the same batch. ``labels`` int64 [N] balances classes instead. ``apart``: no two pictures of a
    batch share their content (``contents`` int64 [N]) or a chosen caption (``sayings`` int64 [T], equal for equal
    captions).
    """

    group_size: int = 1
    neighbours: Rows | None = None
    labels: Rows | None = None
    apart: bool = False
    contents: Rows | None = None
    sayings: Rows | None = None


class Epochs:
    """The plan of each epoch. Not thread-safe: it keeps one.

    ``batches`` int64 [S, B] are rows of pictures; ``chosen`` int64 [N, k] are each picture's captions of this epoch as
    rows among all captions, different ones as long as the picture has so many. ``first`` int64 [N + 1] are the
    pictures' first captions and the number of all, ``owners`` int64 [T] the captions' pictures.
    """

    def __init__(
        self, num_captions: Sequence[int], batch_size: int, seed: int, sampling: Sampling, captions_per_image: int = 1
    ) -> None:
        self.num_rows = len(num_captions)
        if batch_size > self.num_rows:
            raise SourceError(
                f"A batch of {batch_size:,} cannot be drawn from {self.num_rows:,} pictures; "
                "lower batch_size in the recipe or give more data."
            )
        self.steps_per_epoch = self.num_rows // batch_size
        self.first = np.concatenate([[0], np.cumsum(num_captions)])  # [N + 1]
        self._batch_size = batch_size
        self._seed = seed
        self._sampling = sampling
        self._captions_per_image = captions_per_image
        self.owners = np.repeat(np.arange(self.num_rows), num_captions)  # [T]
        self._shared_contents = _shared(sampling.contents)
        self._shared_sayings = _shared(sampling.sayings)
        self._epoch = 0
        self._plan = self._make(0)
        self._first_plan = self._plan

    def plan(self, epoch: int) -> tuple[Rows, Rows]:
        """``batches`` and ``chosen`` of an epoch, counted from 0."""
        if epoch != self._epoch:
            self._plan = self._make(epoch)
            self._epoch = epoch
        return self._plan

    def _make(self, epoch: int) -> tuple[Rows, Rows]:
        sampling = self._sampling
        rng = np.random.default_rng([self._seed, epoch])
        if sampling.labels is not None:
            order = balanced(sampling.labels, rng)
        elif sampling.neighbours is not None:
            order = neighbours_together(sampling.neighbours, sampling.group_size, self._batch_size, rng)
        else:
            order = shuffled(self.num_rows, sampling.group_size, rng)
        chosen = self._choose(epoch, rng)
        if not sampling.apart and sampling.labels is None:
            return cut(order, self._batch_size), chosen
        batches = cut_apart(order, self._keys(chosen), self._batch_size)
        if batches is not None:
            return batches, chosen
        if epoch == 0:
            raise SourceError(
                f"No batch of {self._batch_size:,} pictures with different contents and captions can be drawn from "
                f"these {self.num_rows:,}; lower batch_size in the recipe or leave no_duplicates out."
            )
        # Other captions were chosen in epoch 0, and with those it could be done.
        batches, chosen = self._first_plan
        return rng.permutation(batches), chosen

    def _choose(self, epoch: int, rng: np.random.Generator) -> Rows:
        counts = np.diff(self.first)  # [N]
        wanted = self._captions_per_image
        if wanted == 1:
            one: Rows = self.first[:-1] + (rng.random(self.num_rows) * counts).astype(np.int64)
            return one[:, None]
        draws = np.random.default_rng([self._seed, epoch, 1]).random(len(self.owners))  # [T]
        mixed = np.lexsort((draws, self.owners))  # [T], each picture's captions in its own random order
        places = np.arange(wanted)[None, :] % counts[:, None]  # [N, k], fewer captions than wanted come again
        return mixed[self.first[:-1, None] + places]

    def _keys(self, chosen: Rows) -> list[tuple[int, ...]]:
        """What rows must not share. Contents and captions that occur once in the data can meet no equal."""
        keys: list[list[int]] = [[] for _ in range(self.num_rows)]
        if not self._sampling.apart:
            return [()] * self.num_rows
        if self._shared_contents is not None:
            for row in np.flatnonzero(self._shared_contents >= 0).tolist():
                keys[row].append(int(self._shared_contents[row]))
        if self._shared_sayings is not None:
            said = self._shared_sayings[chosen]  # [N, k]
            offset = self.num_rows  # numbers of contents are below it
            for row in np.flatnonzero((said >= 0).any(axis=1)).tolist():
                keys[row].extend({offset + number for number in said[row].tolist() if number >= 0})
        return [tuple(several) for several in keys]


def labels_of(metadata: Sequence[dict[str, object]], key: str) -> Rows:
    """A number for each picture's class, int64 [N]: its metadata under ``key``; those without it are one more class.

    Raises SourceError where no picture has the key.
    """
    if not any(key in entry for entry in metadata):
        counts = Counter(name for entry in metadata for name in entry)
        known = ", ".join(sorted(name for name, _ in counts.most_common(8))) or "none at all"
        raise SourceError(f"No picture has the metadata '{key}' to balance by; the data have {known}.")
    return numbered([str(entry.get(key)) for entry in metadata])


def _shared(numbers: Rows | None) -> Rows | None:
    """The numbers, with -1 for those that occur only once."""
    if numbers is None or not len(numbers):
        return None
    return np.where(np.bincount(numbers)[numbers] > 1, numbers, -1)
