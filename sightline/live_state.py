"""Live changes laid over a generation: which of its rows are hidden, and what is searched beside it.

Hidden rows are left out of the main index by its ``allowed`` mask, which costs nothing that can be measured (1 M rows
of 512 dimensions, exact, 1 core: 137 ms with and without a mask). Recent items are few: their vectors, rounded to half
precision as a generation's are, are compared with every query, and both answers are merged by score.

A ``LiveState`` never changes. The next one shares everything with it that only grows, so that a write costs what it
adds and a copy of the masks, not a copy of the vectors.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from sightline.collection import Generation, Item
from sightline.collection.live_log import LiveChange, LiveLog, open_live_log, require_fingerprint
from sightline.columns import Mask, MetadataColumns
from sightline.errors import LiveChangesMissing, NotFound
from sightline.filters import Filter
from sightline.index import Hits, Scores, SearchIndex

Vectors = npt.NDArray[np.float32]
Numbers = npt.NDArray[np.int64]

_BLOCK_ROWS = 256
"""Metadata of so many rows become columns once; only the rows after the last whole block are read again."""
_FIRST_ROWS = 64
_MAX_IDLE_ROWS = 1024
"""Rows of items that were put again: beyond so many, and half of all, they are dropped."""


@dataclass(frozen=True, eq=False)
class LiveState:
    """The live changes up to ``sequence``, over one generation. Immutable, thread-safe.

    Rows of live items are numbered on from the generation's ``num_items`` N, caption rows from its ``num_captions`` M.
    ``items`` and ``caption_rows`` may be longer than this state: only ``num_rows`` and ``num_captions`` belong to it.
    """

    generation: Generation
    sequence: int
    num_changes: int
    num_rows: int
    num_captions: int
    items: Sequence[Item]
    sequences: Sequence[int]
    vectors: Vectors  # [L, D]
    alive: Mask  # [L]
    caption_vectors: Vectors  # [C, D]
    caption_texts: Sequence[str]
    caption_rows: Numbers  # [C], rows below L
    rows: Mapping[str, int]
    shown_items: Mask | None  # [N]: None where none is hidden
    shown_captions: Mask | None  # [M]
    num_hidden_items: int
    num_hidden_captions: int
    blocks: Sequence[MetadataColumns]
    read_thumbnail: Callable[[int], bytes | None]

    @property
    def num_items_alive(self) -> int:
        return len(self.rows)

    @cached_property
    def num_captions_alive(self) -> int:
        return int(np.count_nonzero(self.alive[self.caption_rows]))

    def has(self, item_id: str) -> bool:
        """Whether there is such an item, live or not."""
        if item_id in self.rows:
            return True
        row = self.generation.find_row(item_id)
        return row is not None and (self.shown_items is None or bool(self.shown_items[row]))

    def row_of(self, item_id: str) -> int:
        """The row of an item, live or not. Raises NotFound."""
        live = self.rows.get(item_id)
        if live is not None:
            return self.generation.num_items + live
        row = self.generation.row_of(item_id)
        if self.shown_items is not None and not self.shown_items[row]:
            raise NotFound("There is no item with this id in the collection; take ids from search results.")
        return row

    def shows(self, row: int) -> bool:
        """Whether there is an item at a row, of the generation or live."""
        live = row - self.generation.num_items
        if live >= 0:
            return live < self.num_rows and bool(self.alive[live])
        return row >= 0 and (self.shown_items is None or bool(self.shown_items[row]))

    def item(self, row: int) -> Item:
        """The item at a row, of the generation or live."""
        live = row - self.generation.num_items
        return self.generation.item(row) if live < 0 else self.items[live]

    def caption(self, row: int) -> tuple[str, int]:
        """The text of a caption row, of the generation or live, and the row of its item."""
        live = row - self.generation.num_captions
        if live < 0:
            return self.generation.caption(row)
        return self.caption_texts[live], self.generation.num_items + int(self.caption_rows[live])

    def thumbnail(self, live_row: int) -> bytes | None:
        """Reads the log. None where there is none, or where a later change has taken this one's place."""
        return self.read_thumbnail(self.sequences[live_row]) or None

    def search_items(self, index: SearchIndex, queries: Scores, k: int, where: Filter | None = None) -> Hits:
        """float32 ``[B, D]`` → the nearest pictures, live or in ``index``, which holds the generation's. Rows of live
        ones are numbered on from N."""
        kept = None if where is None else where.mask(self.generation.columns)  # [N]
        main = index.search(queries, k, _both(kept, self.shown_items))
        keep = self._kept(where)  # [L]
        return _merged(main, _nearest(queries, self.vectors, keep, k, first_row=self.generation.num_items), k)

    def search_captions(self, index: SearchIndex, queries: Scores, k: int, where: Filter | None = None) -> Hits:
        """float32 ``[B, D]`` → the nearest captions of pictures that the filter keeps, live or in ``index``. Rows of
        live ones are numbered on from M."""
        kept = None
        if where is not None:
            kept = where.mask(self.generation.columns)[self.generation.caption_items()]  # [N] -> [M]
        main = index.search(queries, k, _both(kept, self.shown_captions))
        keep = self._kept(where)[self.caption_rows]  # [C]
        live = _nearest(queries, self.caption_vectors, keep, k, first_row=self.generation.num_captions)
        return _merged(main, live, k)

    def _kept(self, where: Filter | None) -> Mask:
        if where is None:
            return self.alive
        parts = [where.mask(block) for block in (*self.blocks, self._tail)]
        return self.alive & np.concatenate(parts) if parts else self.alive

    @cached_property
    def _tail(self) -> MetadataColumns:
        """The rows after the last whole block, read when a filter first asks."""
        first = len(self.blocks) * _BLOCK_ROWS
        return MetadataColumns(item.metadata for item in self.items[first : self.num_rows])


class LiveRows:
    """Applies changes to the state over one generation. For one thread at a time."""

    def __init__(
        self, generation: Generation, read_thumbnail: Callable[[int], bytes | None], sequence: int | None = None
    ) -> None:
        """``sequence``: up to where the changes are in the generation; what its manifest says by default."""
        dim = generation.manifest.encoder.dim
        owners = generation.caption_items()
        self._captions_in_order = bool((owners[1:] >= owners[:-1]).all())
        self._changed: set[str] = set()
        self._items: list[Item] = []
        self._sequences: list[int] = []
        self._texts: list[str] = []
        self._blocks: list[MetadataColumns] = []
        self._vectors = np.empty((_FIRST_ROWS, dim), np.float32)
        self._caption_vectors = np.empty((_FIRST_ROWS, dim), np.float32)
        self._caption_rows = np.empty(_FIRST_ROWS, np.int64)
        self.state = LiveState(
            generation, generation.manifest.live_sequence if sequence is None else sequence, 0, 0, 0, self._items,
            self._sequences, self._vectors[:0], np.empty(0, np.bool_), self._caption_vectors[:0], self._texts,
            self._caption_rows[:0], {}, None, None, 0, 0, (), read_thumbnail,
        )  # fmt: skip

    def apply(self, changes: Sequence[LiveChange]) -> LiveState:
        """The state after these changes, which come in the order of their numbers and follow the present state."""
        if not changes:
            return self.state
        self._drop_idle_rows(len(changes))
        old = self.state
        rows = dict(old.rows)
        alive = np.concatenate([old.alive, np.zeros(len(changes), np.bool_)])
        num_rows, num_captions = old.num_rows, old.num_captions
        for change in changes:
            self._changed.add(change.item_id)
            before = rows.pop(change.item_id, None)
            if before is not None:
                alive[before] = False
            if change.kind == "put":
                rows[change.item_id] = num_rows
                alive[num_rows] = True
                num_captions = self._add(change, num_rows, num_captions)
                num_rows += 1
        while (len(self._blocks) + 1) * _BLOCK_ROWS <= num_rows:
            first = len(self._blocks) * _BLOCK_ROWS
            self._blocks.append(MetadataColumns(item.metadata for item in self._items[first : first + _BLOCK_ROWS]))
        self.state = replace(
            self._hide(old, changes), sequence=changes[-1].sequence, num_changes=len(self._changed), num_rows=num_rows,
            num_captions=num_captions, vectors=self._vectors[:num_rows], alive=alive[:num_rows],
            caption_vectors=self._caption_vectors[:num_captions], caption_rows=self._caption_rows[:num_captions],
            rows=rows, blocks=tuple(self._blocks),
        )  # fmt: skip
        return self.state

    def _add(self, change: LiveChange, row: int, num_captions: int) -> int:
        """Append one item at a row and its captions; returns how many captions there are then."""
        self._items.append(
            Item(change.item_id, change.uri, change.captions, change.width_px, change.height_px, change.metadata)
        )
        self._sequences.append(change.sequence)
        self._texts.extend(change.captions)
        self._vectors = _with_room(self._vectors, row, 1)
        self._vectors[row] = change.vector
        end = num_captions + len(change.captions)
        self._caption_vectors = _with_room(self._caption_vectors, num_captions, len(change.captions))
        self._caption_rows = _with_room(self._caption_rows, num_captions, len(change.captions))
        if len(change.captions):
            self._caption_vectors[num_captions:end] = change.caption_vectors
            self._caption_rows[num_captions:end] = row
        return end

    def _hide(self, old: LiveState, changes: Sequence[LiveChange]) -> LiveState:
        """The old state with the generation's rows of changed items hidden, in masks of its own."""
        generation = old.generation
        found = {generation.find_row(change.item_id) for change in changes} - {None}
        items = sorted(row for row in found if row is not None and (old.shown_items is None or old.shown_items[row]))
        if not items:
            return old
        captions = self._captions_of(items, generation.caption_items())
        return replace(
            old, shown_items=_without(old.shown_items, items, generation.num_items),
            shown_captions=_without(old.shown_captions, captions, generation.num_captions),
            num_hidden_items=old.num_hidden_items + len(items),
            num_hidden_captions=old.num_hidden_captions + len(captions),
        )  # fmt: skip

    def _captions_of(self, items: list[int], owners: Numbers) -> Numbers:
        """The caption rows of item rows."""
        if not self._captions_in_order:
            return np.flatnonzero(np.isin(owners, items))
        first, last = np.searchsorted(owners, items, side="left"), np.searchsorted(owners, items, side="right")
        ranges = [np.arange(start, stop) for start, stop in zip(first, last, strict=True)]
        return np.concatenate(ranges).astype(np.int64)

    def _drop_idle_rows(self, num_more: int) -> None:
        """Build the rows anew when most of them are of items that have changed again. Older states keep theirs."""
        old = self.state
        idle = old.num_rows - len(old.rows)
        if idle <= max(_MAX_IDLE_ROWS, len(old.rows)):
            return
        kept = np.flatnonzero(old.alive)  # [K]
        self._items = [old.items[row] for row in kept.tolist()]
        self._sequences = [old.sequences[row] for row in kept.tolist()]
        numbers = np.full(old.num_rows, -1, np.int64)
        numbers[kept] = np.arange(len(kept))
        chosen = np.flatnonzero(old.alive[old.caption_rows])  # [C]
        self._texts = [old.caption_texts[row] for row in chosen.tolist()]
        self._vectors = _with_room(old.vectors[kept], len(kept), num_more)
        self._caption_vectors = _with_room(old.caption_vectors[chosen], len(chosen), num_more)
        self._caption_rows = _with_room(numbers[old.caption_rows[chosen]], len(chosen), num_more)
        self._blocks = [
            MetadataColumns(item.metadata for item in self._items[first : first + _BLOCK_ROWS])
            for first in range(0, len(kept) // _BLOCK_ROWS * _BLOCK_ROWS, _BLOCK_ROWS)
        ]
        self.state = replace(
            old, num_rows=len(kept), num_captions=len(chosen), items=self._items, sequences=self._sequences,
            vectors=self._vectors[: len(kept)], alive=np.ones(len(kept), np.bool_),
            caption_vectors=self._caption_vectors[: len(chosen)], caption_texts=self._texts,
            caption_rows=self._caption_rows[: len(chosen)],
            rows={item.item_id: row for row, item in enumerate(self._items)}, blocks=tuple(self._blocks),
        )  # fmt: skip


def lay_over(generation: Generation, log: LiveLog) -> LiveRows:
    """All changes of a log that a generation lacks.

    Raises LiveChangesMissing when the log has let go of some of them, EncoderMismatch when another encoder made their
    vectors, and LiveLogDamaged.
    """
    contained, pruned = generation.manifest.live_sequence, log.pruned_through()
    if pruned > contained:
        raise LiveChangesMissing(
            f"{generation.generation} lacks live changes that the log does not hold any more (up to {pruned}); serve a "
            "generation that contains them, or move live.db aside to let go of all of them."
        )
    changes = log.read(contained)
    require_fingerprint(changes, generation.manifest.encoder.fingerprint)
    rows = LiveRows(generation, log.thumbnail)
    rows.apply(changes)
    return rows


def verify_live(generation: Generation) -> LiveState | None:
    """The live changes over a generation, every one proven; None where its collection has no log.

    Raises LiveLogDamaged, LiveChangesMissing or EncoderMismatch.
    """
    log = open_live_log(generation.directory.parent)
    if log is None:
        return None
    try:
        log.verify()
        return lay_over(generation, log).state
    finally:
        log.close()


def _merged(main: Hits, live: Hits, k: int) -> Hits:
    """The k best of both, best first; equal scores come in row order, those of the generation first."""
    scores = np.concatenate([main.scores, live.scores], axis=1)  # [B, K]
    rows = np.concatenate([main.rows, live.rows], axis=1)
    order = np.lexsort((rows, -scores), axis=-1)[:, :k]
    return Hits(np.take_along_axis(scores, order, axis=-1), np.take_along_axis(rows, order, axis=-1))


def _nearest(queries: Scores, vectors: Vectors, keep: Mask, k: int, *, first_row: int) -> Hits:
    """The k largest inner products among the rows that are kept, by comparing with every one of them."""
    rows = np.flatnonzero(keep).astype(np.int64)  # [R]
    scores = (queries.astype(np.float32, copy=False) @ vectors.T)[:, rows]  # [B, R]
    if k < len(rows):
        places = np.argpartition(-scores, k - 1, axis=1)[:, :k]  # [B, k]
    else:
        places = np.broadcast_to(np.arange(len(rows)), scores.shape)
    best, found = np.take_along_axis(scores, places, axis=1), rows[places] + first_row
    order = np.lexsort((found, -best), axis=-1)
    return Hits(np.take_along_axis(best, order, axis=1), np.take_along_axis(found, order, axis=1))


def _both(one: Mask | None, other: Mask | None) -> Mask | None:
    if one is None or other is None:
        return other if one is None else one
    return one & other


def _without(shown: Mask | None, rows: Any, num_rows: int) -> Mask:
    fresh = np.ones(num_rows, np.bool_) if shown is None else shown.copy()
    fresh[rows] = False
    return fresh


def _with_room(array: npt.NDArray[Any], used: int, more: int) -> npt.NDArray[Any]:
    """The array, or a copy of twice its length, with room for ``more`` rows after ``used``. What readers of earlier
    states see of it is below ``used`` and never written again."""
    if used + more <= len(array):
        return array
    larger = np.empty((max(2 * len(array), used + more, _FIRST_ROWS), *array.shape[1:]), array.dtype)
    larger[:used] = array[:used]
    return larger
