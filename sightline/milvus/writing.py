"""Changing single items of a version while it is served.

A picture that is put gets rows with numbers that were never used, and only then its older rows are deleted: an
interrupted change leaves the old item, or for a moment both, never none, and what readers remember of a row stays true.
The next change of the item, put or delete, takes away whatever an interrupted one left.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from sightline.collection import Item
from sightline.milvus import layout
from sightline.milvus.expressions import one_of
from sightline.milvus.generation import MilvusGeneration
from sightline.milvus.terms import searchable

Half = npt.NDArray[np.float16]


class MilvusWriter:
    """Puts and deletes items of one version. Thread-safe; one process at a time may write to a version."""

    def __init__(self, generation: MilvusGeneration) -> None:
        self._generation = generation
        self._server = generation.server
        self._lock = threading.Lock()
        self._next: tuple[int, int] | None = None

    def upsert(self, item: Item, vector: Half, caption_vectors: Half, thumbnail: bytes | None = None) -> bool:
        """Add an item, or put it in the place of the one with its id; returns whether there was one.

        ``vector`` float16 ``[D]``, ``caption_vectors`` float16 ``[C, D]``, of unit length. Found by this process when
        it returns. Raises QueryError (a text that is too long) and MilvusFailed.
        """
        generation = self._generation
        looked_at = searchable(item.metadata)
        with self._lock:
            row, caption = self._next or (generation.images.end(), generation.captions.end())
            old = generation.rows_of(item.item_id)
            picture = layout.item_row(row, item, vector, thumbnail, looked_at, generation.images.plan)
            captions = [
                layout.caption_row(caption + n, row, text, one, looked_at, generation.captions.plan)
                for n, (text, one) in enumerate(zip(item.captions, caption_vectors, strict=True))
            ]
            self._next = row + 1, caption + len(captions)
            if captions:
                self._server.insert(generation.captions.name, captions)
            self._server.insert(generation.images.name, [picture])
            self._take_out(old)
        return bool(old)

    def delete(self, item_id: str) -> bool:
        """Take an item out with its captions; returns whether there was one. Raises MilvusFailed."""
        with self._lock:
            old = self._generation.rows_of(item_id)
            self._take_out(old)
        return bool(old)

    def _take_out(self, rows: Sequence[int]) -> None:
        if rows:
            self._server.delete(self._generation.images.name, one_of("row", rows))
            self._server.delete(self._generation.captions.name, one_of("item_row", rows))
