"""A collection generation made searchable: immutable, so that a request that holds one sees one state throughout."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from sightline.collection import Generation, require_unit_length
from sightline.errors import QueryError, VectorsWrong
from sightline.filters import Filter
from sightline.index import Hits, Scores, VectorIndex

_NUM_PROBES = 8
_MAX_PROBE_ERROR = 5e-3
"""Half precision keeps the inner product of a unit vector with itself to about 1e-3."""


@dataclass(frozen=True)
class Snapshot:
    """A generation with its two indexes: pictures and captions. Thread-safe."""

    generation: Generation
    images: VectorIndex
    captions: VectorIndex

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
        return self.images.search(queries, k, self._allowed(where))

    def search_captions(self, queries: Scores, k: int, where: Filter | None) -> Hits:
        """float32 ``[B, D]`` → the k nearest captions (of pictures the filter keeps); rows are caption rows."""
        if not self.generation.num_captions:
            raise QueryError("This collection has no captions to find; build it from a source with captions.")
        allowed = self._allowed(where)
        if allowed is not None:
            allowed = allowed[self.generation.caption_items()]  # [N] -> [M]
        return self.captions.search(queries, k, allowed)

    def _allowed(self, where: Filter | None) -> npt.NDArray[np.bool_] | None:
        return None if where is None else where.mask(self.generation.columns)


def index_generation(generation: Generation, fingerprint: str) -> Snapshot:
    """Index an open generation and let a few of its vectors find themselves.

    Raises EncoderMismatch when another encoder than that of ``fingerprint`` made it, VectorsWrong or CollectionCorrupt.
    """
    generation.require_encoder(fingerprint)
    generation.columns  # noqa: B018 - read now, not under the deadline of the first request with a filter
    images = _index(generation.image_vectors(), "picture", generation.directory)
    return Snapshot(generation, images, _index(generation.caption_vectors(), "caption", generation.directory))


def _index(vectors: npt.NDArray[np.float16], kind: str, where: Path) -> VectorIndex:
    """An index over float16 ``[N, D]`` that has been asked for vectors spread over all rows."""
    require_unit_length(vectors, kind, where)
    index = VectorIndex(vectors)
    rows = np.unique(np.linspace(0, max(len(vectors) - 1, 0), _NUM_PROBES).astype(int))[: len(vectors)]
    queries = vectors[rows].astype(np.float32)  # [P, D]
    for row, query, found in zip(rows, queries, index.search(queries, 1).rows, strict=True):
        nearest = vectors[found[0]].astype(np.float32)  # [D]: the row itself, or another with the same vector
        if abs(float(query @ nearest) - 1.0) > _MAX_PROBE_ERROR:
            raise VectorsWrong(
                f"The {kind} vector of row {row} of {where} does not find itself in its index; build it again."
            )
    return index
