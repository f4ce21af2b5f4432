"""A collection generation made searchable: immutable, so that a request that holds one sees one state throughout."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from sightline.collection import Generation, open_collection
from sightline.errors import EncoderMismatch, QueryError
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
        return None if where is None else where.mask(self.generation.metadata)


def load_snapshot(path: Path, fingerprint: str, *, verify: bool = True) -> Snapshot:
    """Open the collection's current generation and index it.

    Raises EncoderMismatch when its vectors were made by another encoder: their inner products with ours would look
    like scores and mean nothing. Raises SourceError or CollectionCorrupt as ``open_collection`` does.
    """
    return index_generation(open_collection(path, verify=verify), fingerprint)


def index_generation(generation: Generation, fingerprint: str) -> Snapshot:
    """Index an open generation. Raises EncoderMismatch."""
    recorded = generation.manifest.encoder
    if recorded.fingerprint != fingerprint:
        raise EncoderMismatch(
            f"The collection was built by {recorded.name} ({recorded.fingerprint[:12]}) and the service runs another "
            f"encoder ({fingerprint[:12]}); start it with the right --encoder or build the collection again."
        )
    return Snapshot(generation, VectorIndex(generation.image_vectors()), VectorIndex(generation.caption_vectors()))
