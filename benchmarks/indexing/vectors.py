"""Image vectors by file name: both sides write ``img_emb/*.npy`` with ``metadata/*.parquet`` in the same order."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

NamedVectors = dict[str, npt.NDArray[np.float32]]


def read_vectors(folder: Path) -> NamedVectors:
    """Vectors float32 ``[D]`` of unit length by the name of the picture's file."""
    names: list[str] = []
    for path in sorted((folder / "metadata").glob("*.parquet")):
        names += [Path(text).name for text in pq.read_table(path, columns=["image_path"])["image_path"].to_pylist()]
    shards = [np.load(path).astype(np.float32) for path in sorted((folder / "img_emb").glob("*.npy"))]
    rows = np.concatenate(shards)  # [N, D]
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return dict(zip(names, rows, strict=True))


def lowest_cosine(one: NamedVectors, other: NamedVectors) -> float:
    """The lowest cosine between two vectors of one picture. Raises ValueError when the pictures are not the same."""
    if not one or one.keys() != other.keys():
        raise ValueError(f"{len(one)} and {len(other)} pictures have vectors, and not the same ones.")
    return min(float(one[name] @ other[name]) for name in one)
