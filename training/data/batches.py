"""Batches by step number: pictures, their captions, further positives and negatives.

A batch is a pure function of (seed, step): each epoch has its own order of the pictures and, for each picture, its own
choice among its captions; what changes a picture or a caption is drawn from (seed, step, row). A resumed run therefore
needs nothing but the step to see what an unbroken run sees.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from sightline.images import Pixels
from training.batch import Batch, Features, Rows, Tokens
from training.data.augmentation import Augmentation
from training.data.captioned import caption_key
from training.data.captions import Wording
from training.data.epochs import Epochs, Sampling
from training.data.negatives import Negatives

Tokenize = Callable[[Sequence[str]], Tokens]
"""Texts to token ids int64 [n, L]."""

_FILLING = 4  # the purpose of the draws that fill up negatives


@dataclass(frozen=True, slots=True)
class Texts:
    """What captions say, for options that need to know it.

    ``texts`` has one for each row of the captions' tokens. ``wording`` and ``negatives`` need ``tokenize``. ``sayings``
    int64 [T] has equal numbers for equal captions. ``used_ids``: every token id that may come up, ascending.
    """

    texts: Sequence[str]
    sayings: Rows
    tokenize: Tokenize
    used_ids: Tokens
    wording: Wording | None = None
    negatives: Negatives | None = None
    numbers: dict[str, int] = field(default_factory=dict)
    """The saying of a caption by its ``caption_key``; filled where there are negatives."""


class Batches:
    """Batches of pictures with their captions, drawn afresh every epoch; the last, short batch is left out.

    ``tokens`` int64 [T, L] holds the captions of all pictures one after the other, ``num_captions`` says how many each
    picture has. ``group_size`` consecutive pictures always come together; ``sampling`` says more of that (its own
    ``group_size`` counts then). With ``features`` float32 [N, F] a batch has those instead of pixels. ``relevance``
    float32 [T] grades each caption's fit to its picture.

    The texts of a batch are [first captions of B pictures][their second captions]…[negatives of picture 0]…: with
    ``captions_per_image`` k and m negatives a picture T is always B·(k + m). Not thread-safe: it keeps an epoch's plan.
    """

    def __init__(
        self,
        pixels: Pixels | None,
        tokens: Tokens,
        num_captions: Sequence[int],
        *,
        batch_size: int,
        seed: int,
        group_size: int = 1,
        features: Features | None = None,
        sampling: Sampling | None = None,
        captions_per_image: int = 1,
        texts: Texts | None = None,
        augmentation: Augmentation | None = None,
        equal_captions_are_positives: bool = False,
        relevance: Features | None = None,
    ) -> None:
        self._epochs = Epochs(num_captions, batch_size, seed, sampling or Sampling(group_size), captions_per_image)
        self.batch_size = batch_size
        self.steps_per_epoch = self._epochs.steps_per_epoch
        self._pixels = pixels
        self._features = features
        self._tokens = tokens
        self._texts = texts
        self._seed = seed
        self._augmentation = augmentation
        self._equal_are_positives = equal_captions_are_positives
        self._relevance = relevance
        self._renumber: Callable[[Tokens], Tokens] | None = None
        self._share: Callable[[int], slice] | None = None

    @property
    def caption_tokens(self) -> Tokens:
        """Token ids int64 [T, L] of the captions of all pictures one after the other, as the tokenizer gave them."""
        return self._tokens

    @property
    def used_ids(self) -> Tokens:
        """Every token id that batches may hold, ascending: what a narrowed vocabulary must keep."""
        return np.unique(self._tokens) if self._texts is None else self._texts.used_ids

    def renumber(self, by: Callable[[Tokens], Tokens]) -> None:
        """From now on give token ids as ``by`` maps them: to the rows of a table of ``used_ids`` alone."""
        self._renumber = by

    def show_only(self, share: Callable[[int], slice]) -> None:
        """From now on give the pictures of ``share(B)`` of a batch's B rows alone, and still all texts: each of several
        processes encodes its own pictures and knows what belongs to what."""
        self._share = share

    def at(self, step: int) -> Batch:
        """The batch of a step, counted from 0."""
        epoch, position = divmod(step, self.steps_per_epoch)
        batches, chosen = self._epochs.plan(epoch)
        rows = batches[position]  # [B]
        picks = chosen[rows]  # [B, k]
        said = self._said(picks, rows, step)
        tokens = self._own_tokens(picks, said)  # [B * k, L]
        negatives = self._negatives(picks, rows, step)
        positives, weights = self._relations(picks, rows, [] if negatives is None else negatives.sayings)
        if negatives is not None:
            tokens = np.concatenate([tokens, negatives.tokens])  # [T, L]
            said = [own + more for own, more in zip(said, negatives.texts, strict=True)]
        if self._renumber is not None:
            tokens = self._renumber(tokens)
        pixels = None
        shown = slice(None) if self._share is None else self._share(len(rows))
        if self._features is None and self._pixels is not None:
            pixels = np.asarray(self._pixels[rows[shown]])  # [B, H, W, 3]
            if self._augmentation is not None:
                pixels = self._augmentation.apply(pixels, said[shown], step, rows[shown])
        features = None if self._features is None else np.asarray(self._features[rows[shown]], np.float32)
        return Batch(step, epoch, rows, pixels, features, tokens, positives, weights)

    def _said(self, picks: Rows, rows: Rows, step: int) -> list[list[str]]:
        """The captions of each picture in this step; nothing where nobody needs to know."""
        if self._texts is None:
            return [[] for _ in rows]
        texts, wording = self._texts.texts, self._texts.wording
        said = [[texts[pick] for pick in several] for several in picks.tolist()]
        if wording is None:
            return said
        return [wording.vary(several, step, row) for several, row in zip(said, rows.tolist(), strict=True)]

    def _own_tokens(self, picks: Rows, said: list[list[str]]) -> Tokens:
        """[B * k, L]: the first captions of all pictures, then the second ones, and so on."""
        prepared: Tokens = self._tokens[picks.T.ravel()]
        if self._texts is None or self._texts.wording is None:
            return prepared
        texts = [several[place] for place in range(picks.shape[1]) for several in said]
        return self._known(self._texts.tokenize(texts), prepared)

    def _negatives(self, picks: Rows, rows: Rows, step: int) -> _Drawn | None:
        """The negatives of each picture's first caption; captions of other pictures where the rules find too few."""
        texts = self._texts
        if texts is None or texts.negatives is None:
            return None
        count = texts.negatives.per_image
        fillers = self._fillers(rows, count, step)  # [B, m] rows of captions
        drawn: list[list[str]] = []
        for row, pick, spare in zip(rows.tolist(), picks[:, 0].tolist(), fillers.tolist(), strict=True):
            made = texts.negatives.of(texts.texts[pick], row, step)
            drawn.append(made + [texts.texts[one] for one in spare[len(made) :]])
        flat = [text for several in drawn for text in several]
        tokens = self._known(texts.tokenize(flat), self._tokens[fillers.ravel()])
        return _Drawn(tokens, drawn, [texts.numbers.get(caption_key(text), -1) for text in flat])

    def _fillers(self, rows: Rows, count: int, step: int) -> Rows:
        """Rows of captions [B, m] of pictures outside the batch, as long as there are any."""
        rng = np.random.default_rng([self._seed, step, _FILLING])
        found = rng.integers(len(self._tokens), size=(len(rows), count))
        for _ in range(8):
            inside = np.isin(self._epochs.owners[found], rows)
            if not inside.any():
                break
            found[inside] = rng.integers(len(self._tokens), size=int(inside.sum()))
        return found

    def _known(self, tokens: Tokens, instead: Tokens) -> Tokens:
        """The tokens, but ``instead`` for a text with an id that the narrowed vocabulary has not: punctuation can
        melt into one token when words come together anew."""
        if self._renumber is None:
            return tokens
        known = np.all(np.isin(tokens, self.used_ids), axis=1)  # [n]
        return np.where(np.asarray(known)[:, None], tokens, instead)

    def _relations(
        self, picks: Rows, rows: Rows, more: list[int]
    ) -> tuple[npt.NDArray[np.bool_] | None, Features | None]:
        """``positives`` and ``weights`` [B, T] of a batch, None where they say nothing.

        A text equal to any caption of a picture is a positive of it: among the own captions where asked for, among the
        negatives always, because a sentence that is false of one picture may be said of its neighbour.
        """
        num_rows, several = picks.shape
        own = np.tile(np.eye(num_rows, dtype=bool), several)  # [B, B * k]
        positives = np.concatenate([own, np.zeros((num_rows, len(more)), bool)], axis=1)  # [B, T]
        pairs = np.where(own, np.tile(picks.T.ravel(), (num_rows, 1)), -1)  # [B, B * k] rows of captions
        pairs = np.concatenate([pairs, np.full((num_rows, len(more)), -1)], axis=1)  # [B, T]
        if self._texts is not None and (self._equal_are_positives or more):
            sayings = self._texts.sayings
            said = np.concatenate([sayings[picks.T.ravel()], np.array(more, np.int64)])  # [T]
            start = 0 if self._equal_are_positives else num_rows * several
            for place, row in enumerate(rows.tolist()):
                first, last = self._epochs.first[row], self._epochs.first[row + 1]
                for caption in range(first, last):
                    equal = np.flatnonzero(said[start:] == sayings[caption]) + start
                    new = equal[~positives[place, equal]]
                    positives[place, new] = True
                    pairs[place, new] = caption
        weights = None
        if self._relevance is not None:
            weights = np.where(positives, self._relevance[pairs], 0).astype(np.float32)  # [B, T]
        if several == 1 and np.array_equal(positives[:, :num_rows], own) and not positives[:, num_rows:].any():
            return (None if weights is None else positives), weights
        return positives, weights


@dataclass(frozen=True, slots=True)
class _Drawn:
    """Negatives of a batch: ``tokens`` [B * m, L], ``texts`` by picture, the ``sayings`` of those that are captions of
    the data too, -1 for others."""

    tokens: Tokens
    texts: list[list[str]]
    sayings: list[int]
