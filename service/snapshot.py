"""A collection generation made searchable: immutable, so that a request that holds one sees one state throughout.

Live changes, where there are any, lie over the generation as another immutable state: a write makes a new snapshot with
the same generation and indexes, and requests that hold the old one end with it.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from sightline.collection import Generation, Item, require_unit_length
from sightline.errors import QueryError, VectorsWrong
from sightline.filters import Filter
from sightline.index import Hits, Scores, SearchIndex
from sightline.index.opening import Which, open_index, open_vectors
from sightline.live_state import LiveState

_STEP_ROWS = 65_536
_NUM_PROBES = 8
_MAX_PROBE_ERROR = 5e-3
"""Half precision keeps the inner product of a unit vector with itself to about 1e-3."""


@dataclass(frozen=True)
class Snapshot:
    """A generation with its two indexes, pictures and captions, and the live changes over it. Thread-safe.

    Rows below the generation's counts are the generation's; live pictures and captions are numbered on from there.
    """

    generation: Generation
    images: SearchIndex
    captions: SearchIndex
    live: LiveState | None = None

    @property
    def local(self) -> bool:
        """Whether items are in memory; else reading one waits for a network."""
        return True

    @property
    def num_items(self) -> int:
        """How many pictures can be found."""
        live = self.live
        more = 0 if live is None else live.num_items_alive - live.num_hidden_items
        return self.generation.num_items + more

    @property
    def num_captions(self) -> int:
        """How many captions can be found."""
        live = self.live
        more = 0 if live is None else live.num_captions_alive - live.num_hidden_captions
        return self.generation.num_captions + more

    def row_of(self, item_id: str) -> int:
        """The row of an item id. Raises NotFound."""
        return self.generation.row_of(item_id) if self.live is None else self.live.row_of(item_id)

    def shows(self, row: int) -> bool:
        """Whether there is a picture at a row."""
        return 0 <= row < self.generation.num_items if self.live is None else self.live.shows(row)

    def item(self, row: int) -> Item:
        """The picture at a row."""
        return self.generation.item(row) if self.live is None else self.live.item(row)

    def caption(self, row: int) -> tuple[str, int]:
        """The text of a caption row and the row of its picture."""
        return self.generation.caption(row) if self.live is None else self.live.caption(row)

    def thumbnail(self, row: int) -> bytes | None:
        """The WebP thumbnail of a row; None where there is none, or where it is no longer kept for a snapshot that a
        later change has replaced. Reads a file."""
        live_row = row - self.generation.num_items
        if live_row < 0 or self.live is None:
            return self.generation.thumbnail(row)
        return self.live.thumbnail(live_row)

    def thumbnail_tag(self, row: int) -> str:
        """Another value for another thumbnail."""
        live_row = row - self.generation.num_items
        return f"{self.tag}-{row}" if live_row < 0 or self.live is None else f"live-{self.live.sequences[live_row]}"

    @property
    def encoder(self) -> str:
        """The fingerprint of the encoder that made every vector in here."""
        return self.generation.manifest.encoder.fingerprint

    @cached_property
    def tag(self) -> str:
        """Another value for other contents, also where a collection was built anew under an old generation's name."""
        return hashlib.sha256(self.generation.manifest.model_dump_json().encode()).hexdigest()[:20]

    def search_images(self, queries: Scores, k: int, where: Filter | None) -> Hits:
        """float32 ``[B, D]`` → the k nearest pictures; rows are item rows. Blocking: call it off the event loop."""
        if self.live is not None and self.live.num_changes:
            return self.live.search_items(self.images, queries, k, where)
        return self.images.search(queries, k, None if where is None else where.mask(self.generation.columns))

    def search_captions(self, queries: Scores, k: int, where: Filter | None) -> Hits:
        """float32 ``[B, D]`` → the k nearest captions (of pictures the filter keeps); rows are caption rows."""
        if not self.num_captions:
            raise QueryError("This collection has no captions to find; build it from a source with captions.")
        if self.live is not None and self.live.num_changes:
            return self.live.search_captions(self.captions, queries, k, where)
        allowed = None if where is None else where.mask(self.generation.columns)[self.generation.caption_items()]
        return self.captions.search(queries, k, allowed)


def index_generation(generation: Generation, fingerprint: str) -> Snapshot:
    """Index an open generation and let a few of its vectors find themselves.

    Raises EncoderMismatch when another encoder than that of ``fingerprint`` made it, VectorsWrong or CollectionCorrupt.
    """
    generation.require_encoder(fingerprint)
    generation.columns  # noqa: B018 - read now, not under the deadline of the first request with a filter
    return Snapshot(generation, _index(generation, "images"), _index(generation, "captions"))


def _index(generation: Generation, which: Which) -> SearchIndex:
    """The index of a generation's float16 ``[N, D]``, asked for vectors spread over all rows.

    Each must find itself where search is exact; most must where it is approximate.
    """
    kind, where = {"images": "picture", "captions": "caption"}[which], generation.directory
    vectors = open_vectors(generation, which)
    for start in range(0, vectors.num_rows, _STEP_ROWS):
        require_unit_length(vectors.block(start, min(start + _STEP_ROWS, vectors.num_rows)), kind, where)
    index = open_index(generation, which)
    rows = np.unique(np.linspace(0, max(index.num_rows - 1, 0), _NUM_PROBES).astype(int))[: index.num_rows]
    stored = vectors.take(rows).astype(np.float32)  # [P, D]
    found = vectors.take(index.search(stored, 1).rows.reshape(-1)).astype(np.float32)  # [P, D]: itself, or its equal
    lost = np.flatnonzero(np.abs(np.einsum("pd,pd->p", stored, found) - 1.0) > _MAX_PROBE_ERROR)
    if len(lost) > (0 if index.capabilities.exact else len(rows) // 2):
        raise VectorsWrong(
            f"The {kind} vector of row {rows[lost[0]]} of {where} does not find itself in its index; build it again."
        )
    return index
