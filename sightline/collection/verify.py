"""Proving that a generation is what its manifest says, beyond what opening it checks."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from sightline.collection.reader import Generation, open_collection
from sightline.errors import CollectionCorrupt

_MAX_NORM_ERROR = 2e-3
"""A unit vector rounded to float16 keeps its length to about 5e-4 at 512 dimensions."""


def verify_collection(path: Path) -> Generation:
    """Check hashes, shapes, unit lengths, caption references and thumbnails of the current generation.

    Returns the opened generation. Raises SourceError or CollectionCorrupt with the first thing that is wrong.
    """
    generation = open_collection(path, verify=True)
    for kind, vectors in (("picture", generation.image_vectors()), ("caption", generation.caption_vectors())):
        lengths = np.linalg.norm(vectors.astype(np.float32), axis=1)  # [rows]
        wrong = np.flatnonzero(~(np.abs(lengths - 1.0) <= _MAX_NORM_ERROR))
        if wrong.size:
            raise CollectionCorrupt(
                f"{wrong.size} {kind} vectors of {path} do not have length 1 (first: row {wrong[0]}); build it again."
            )
    rows = generation.caption_items()
    if rows.size and (rows.min() < 0 or rows.max() >= generation.num_items):
        raise CollectionCorrupt(f"A caption of {path} belongs to no picture; build the collection again.")
    for row in range(generation.num_items):
        thumbnail = generation.thumbnail(row)
        if thumbnail is not None and thumbnail[8:12] != b"WEBP":
            raise CollectionCorrupt(f"The thumbnail of row {row} of {path} is damaged; build the collection again.")
    return generation
