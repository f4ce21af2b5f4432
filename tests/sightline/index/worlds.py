"""Small sets of unit vectors, and every plan built on them."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt

from sightline.index import SearchIndex, VectorIndex
from sightline.index.approximate import ApproximateIndex
from sightline.index.gpu import TorchIndex
from sightline.index.plans import PLANS
from sightline.index.store import MemoryVectors, ShardFiles, VectorStore
from sightline.index.training import train

Vectors = npt.NDArray[np.float32]

BACKENDS = ("exact", "torch", "ivf-sq8", "hnsw", "codes", "ivf-codes", "ivf-sq8 on files")


def unit(rows: int, dim: int = 16, seed: int = 0) -> Vectors:
    vectors = np.random.default_rng(seed).standard_normal((rows, dim)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors


def on_files(vectors: npt.NDArray[np.float16], folder: Path) -> ShardFiles:
    """The vectors in three shards of different lengths."""
    cuts = [0, len(vectors) // 2, len(vectors) // 2 + len(vectors) // 8, len(vectors)]
    paths = []
    for number, (start, stop) in enumerate(pairwise(cuts)):
        paths.append(folder / f"img_emb_{number}.npy")
        np.save(paths[-1], vectors[start:stop])
    return ShardFiles(paths, vectors.shape[1])


def built(backend: str, vectors: Vectors, folder: Path, setting: int | None = None) -> SearchIndex:
    """An index of this kind; exact where there are too few vectors to train it, as building decides as well."""
    half = vectors.astype(np.float16)
    if backend == "torch":
        return TorchIndex(half, "cpu")
    name, _, files = backend.partition(" on ")
    if name == "exact" or len(half) < PLANS[name].min_rows:
        return VectorIndex(half)
    store: VectorStore = on_files(half, folder) if files else MemoryVectors(half)
    default = {"nprobe": 4, "efSearch": 64, "num_candidates": 100}[PLANS[name].setting]
    return ApproximateIndex(PLANS[name], train(PLANS[name], store), store, setting or default)


def brute_force(vectors: Vectors, query: Vectors, k: int, allowed: npt.NDArray[np.bool_] | None = None) -> list[int]:
    """The rows of the k best, equal scores in row order: the naive way."""
    scores = np.einsum("nd,d->n", vectors.astype(np.float16).astype(np.float32), query)
    rows = np.arange(len(vectors)) if allowed is None else np.flatnonzero(allowed)
    return [int(row) for row in rows[np.argsort(-scores[rows], kind="stable")][:k]]
