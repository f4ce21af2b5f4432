"""Any number of vectors shaped as CLIP's are, and text queries as far from them as real captions are.

From 500 matching pairs of picture and caption vectors (OpenAI's CLIP on COCO) come: both means, which give the modality
gap; both covariances, shrunk towards a sphere as 500 points in 512 dimensions need (Ledoit and Wolf 2004); and how a
caption follows from its picture, a ridge regression whose residual is what captions vary by beyond their pictures.

A picture is a normal draw with that mean and covariance, scaled to unit length. A text query is drawn for a picture of
its own, *which is not in the collection*: its nearest neighbours are those that happen to fit, as in real use.

The ridge is chosen so that 500 drawn pairs find each other as often as the 500 real ones do (recall@1 about 0.5): with
less, a drawn caption knows its picture too well, with more too little. ``check`` compares gap, matching and other
scores, and recall@1 of drawn pairs with the real ones. What the draw lacks are the clusters of real collections (the
spread of picture-to-picture scores is 0.08, really 0.10), which make inverted lists work better than here.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

Matrix = npt.NDArray[np.float64]
Vectors = npt.NDArray[np.float32]

RIDGE = 0.016
_BLOCK_ROWS = 50_000


@dataclass(frozen=True)
class Shape:
    """What is compared: the distance of the means, mean and spread of scores, and recall@1 of 500 pairs."""

    gap: float
    matching_mean: float
    matching_spread: float
    other_mean: float
    other_spread: float
    recall_at_1_text_to_image: float
    recall_at_1_image_to_text: float


class ClipWorld:
    """Draws from the distributions of ``images.npy`` and ``texts.npy`` (float ``[n, D]``) in a folder."""

    def __init__(self, folder: Path, ridge: float = RIDGE) -> None:
        self.real_images, self.real_texts = (_unit(np.load(folder / f"{name}.npy")) for name in ("images", "texts"))
        self.dim = self.real_images.shape[1]
        count = len(self.real_images)
        self._image_mean, self._text_mean = self.real_images.mean(axis=0), self.real_texts.mean(axis=0)  # [D]
        images, texts = self.real_images - self._image_mean, self.real_texts - self._text_mean  # [n, D]
        covariance = _shrunk_covariance(images)
        kernel = images @ images.T  # [n, n]: the dual form, for there are fewer points than dimensions
        weight = ridge * np.trace(kernel) / 10
        self._follows: Matrix = images.T @ np.linalg.solve(kernel + weight * np.eye(count), texts)  # [D, D]
        left = _shrunk_covariance(texts) - self._follows.T @ covariance @ self._follows
        self._image_root, self._text_root = _root(covariance).astype(np.float32), _root(left)

    def images(self, count: int, generator: np.random.Generator) -> Vectors:
        """float32 ``[count, D]``, unit length."""
        mean = self._image_mean.astype(np.float32)
        drawn = generator.standard_normal((count, self.dim), dtype=np.float32) @ self._image_root + mean
        return np.asarray(drawn / np.linalg.norm(drawn, axis=1, keepdims=True), dtype=np.float32)

    def texts(self, images: Vectors, generator: np.random.Generator) -> Vectors:
        """A caption's vector for each picture: float32 ``[count, D]``, unit length."""
        noise = generator.standard_normal(images.shape) @ self._text_root
        return _unit((images - self._image_mean) @ self._follows + self._text_mean + noise).astype(np.float32)

    def collection(self, count: int, generator: np.random.Generator) -> npt.NDArray[np.float16]:
        """float16 ``[count, D]``, drawn block by block."""
        vectors = np.empty((count, self.dim), np.float16)
        for start in range(0, count, _BLOCK_ROWS):
            vectors[start : start + _BLOCK_ROWS] = self.images(min(_BLOCK_ROWS, count - start), generator)
        return vectors

    def check(self) -> dict[str, Shape]:
        """The real pairs and as many drawn ones, side by side."""
        generator = np.random.default_rng(2)
        images = self.images(len(self.real_images), generator)
        drawn = shape_of(images.astype(np.float64), self.texts(images, generator).astype(np.float64))
        return {"real": shape_of(self.real_images, self.real_texts), "drawn": drawn}


def shape_of(images: Matrix, texts: Matrix) -> Shape:
    """The figures of matching pairs ``[n, D]``."""
    scores = texts @ images.T  # [n, n]
    others = scores[~np.eye(len(scores), dtype=np.bool_)]
    own, rows = np.diag(scores), np.arange(len(scores))
    figures = (
        np.linalg.norm(images.mean(axis=0) - texts.mean(axis=0)),
        own.mean(),
        own.std(),
        others.mean(),
        others.std(),
        (scores.argmax(axis=1) == rows).mean(),
        (scores.argmax(axis=0) == rows).mean(),
    )
    return Shape(*(round(float(figure), 4) for figure in figures))


def _shrunk_covariance(centred: Matrix) -> Matrix:
    """Ledoit and Wolf (2004): the sample covariance of ``[n, D]``, mixed with a sphere, for the least error."""
    count, dim = centred.shape
    sample = centred.T @ centred / (count - 1)
    sphere = np.eye(dim) * np.trace(sample) / dim
    distance = float(((sample - sphere) ** 2).sum())
    noise = float(((centred**2).sum(axis=1) ** 2).mean() - (sample**2).sum()) / count
    share = min(1.0, noise / distance)
    return np.asarray((1 - share) * sample + share * sphere)


def _root(covariance: Matrix) -> Matrix:
    """The symmetric root; what rounding made negative counts as 0."""
    values, directions = np.linalg.eigh(covariance)
    return np.asarray((directions * np.sqrt(np.clip(values, 0, None))) @ directions.T)


def _unit(vectors: npt.NDArray[np.floating]) -> Matrix:
    wide = vectors.astype(np.float64)
    return np.asarray(wide / np.linalg.norm(wide, axis=1, keepdims=True))
