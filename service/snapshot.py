"""A collection generation made searchable: immutable, so that a request that holds one sees one state throughout."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sightline.collection import Generation
from sightline.errors import QueryError
from sightline.filters import Filter
from sightline.index import Hits, Scores, VectorIndex


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
    """Index an open generation. Raises EncoderMismatch when another encoder than that of ``fingerprint`` made it."""
    generation.require_encoder(fingerprint)
    return Snapshot(generation, VectorIndex(generation.image_vectors()), VectorIndex(generation.caption_vectors()))
