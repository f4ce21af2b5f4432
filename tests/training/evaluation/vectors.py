"""Vectors for tests: random ones, and ones with chosen scores."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from training.evaluation.places import Rows, Vectors


def unit(rng: np.random.Generator, count: int, dim: int = 8) -> Vectors:
    """Random unit vectors [count, dim]."""
    vectors: Vectors = rng.standard_normal((count, dim)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors


def captioned(
    rng: np.random.Generator, num_images: int, most: int, noise: float = 0.5
) -> tuple[Vectors, Vectors, Rows]:
    """Images [N, D], texts [T, D] near them and the image of each text: one to ``most`` texts for each image."""
    rows = np.repeat(np.arange(num_images), rng.integers(1, most + 1, num_images))
    images = unit(rng, num_images)
    texts = images[rows] + noise * unit(rng, len(rows))
    texts /= np.linalg.norm(texts, axis=1, keepdims=True)
    return images, texts.astype(np.float32), rows


def scoring(scores: Sequence[float]) -> tuple[Vectors, Vectors]:
    """A query [1, 2] and candidates [N, 2] whose inner products with it are ``scores``."""
    places = np.array(scores)
    return np.array([[1, 0]], np.float32), np.stack([places, np.sqrt(1 - places**2)], axis=1).astype(np.float32)
