"""Proving that a generation is what its manifest says, beyond what opening it checks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from sightline.collection.manifest import INDEX_FOLDER
from sightline.collection.reader import Generation, open_collection
from sightline.errors import CollectionCorrupt, IndexUnusable, VectorsWrong
from sightline.storage import first_difference

_MAX_NORM_ERROR = 2e-3
"""A unit vector rounded to float16 keeps its length to about 5e-4 at 512 dimensions."""

_STEP_ROWS = 65_536


def require_unit_length(vectors: npt.NDArray[np.float16], kind: str, where: Path) -> None:
    """Raise VectorsWrong unless every row of float16 ``[N, D]`` has length 1: else scores are no cosines."""
    for start in range(0, len(vectors), _STEP_ROWS):
        lengths = np.linalg.norm(vectors[start : start + _STEP_ROWS].astype(np.float32), axis=1)  # [rows]
        wrong = np.flatnonzero(~(np.abs(lengths - 1.0) <= _MAX_NORM_ERROR))
        if wrong.size:
            raise VectorsWrong(
                f"A {kind} vector of {where} has length {lengths[wrong[0]]:.3f} and must have length 1 "
                f"(row {start + wrong[0]}); build the collection again."
            )


def verify_collection(path: Path) -> Generation:
    """Check hashes, shapes, unit lengths, caption references and thumbnails of the current generation.

    Returns the opened generation. Raises SourceError or CollectionCorrupt with the first thing that is wrong.
    """
    generation = open_collection(path, verify=True)
    files = generation.manifest.files
    indexes = {name: record for name, record in files.items() if name.startswith(f"{INDEX_FOLDER}/")}
    difference = first_difference(generation.directory, indexes)
    if difference is not None:
        raise IndexUnusable(f"{difference}; make it again with: sightline index optimise --collection {path}.")
    require_unit_length(generation.image_vectors(), "picture", path)
    require_unit_length(generation.caption_vectors(), "caption", path)
    rows = generation.caption_items()
    if rows.size and (rows.min() < 0 or rows.max() >= generation.num_items):
        raise CollectionCorrupt(f"A caption of {path} belongs to no picture; build the collection again.")
    for row in range(generation.num_items):
        thumbnail = generation.thumbnail(row)
        if thumbnail is not None and thumbnail[8:12] != b"WEBP":
            raise CollectionCorrupt(f"The thumbnail of row {row} of {path} is damaged; build the collection again.")
    return generation
