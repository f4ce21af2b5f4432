"""How alike matched and unmatched pairs are, and how far the two clouds of vectors lie from each other.

None of this is a measure of quality. Cosines of matched pairs near 0.3 are normal for CLIP and near 0.1 for SigLIP: the
loss only asks that they be above the others. The gap between pictures and texts (Liang et al. 2022) grows as the
temperature falls and closing it hardly moves retrieval (arXiv 2601.18525). Read these figures beside those of the same
architecture before training; never set a threshold on them.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from training.evaluation.places import Floats, Rows, Vectors

NUM_BINS = 2000
"""Of cosines in [-1, 1], 0.001 wide. The area under the curve is exact up to pairs that share a bin."""

MAX_SAMPLE = 2000
"""Vectors of a modality for measures that go over pairs of them; drawn with a fixed seed."""


class Histogram:
    """Counts cosines as they pass by, a chunk at a time."""

    def __init__(self) -> None:
        self.counts = np.zeros(NUM_BINS, np.int64)
        self._edges = bin_edges().astype(np.float32)

    def add_sorted(self, scores: Vectors) -> None:
        """Add scores [C, N] whose rows ascend: by bisection, faster than looking at each score."""
        inner = self._edges[1:-1]
        for row in scores:
            upto = row.searchsorted(inner)
            self.counts += np.diff(upto, prepend=0, append=len(row))

    def without(self, scores: Vectors) -> Histogram:
        """The same counts less those of ``scores`` [P], which have been added before."""
        rest, taken = Histogram(), Histogram()
        taken.add_sorted(np.sort(scores)[None])
        rest.counts = self.counts - taken.counts
        return rest


def bin_edges() -> Floats:
    """The ends of the bins, float64 [NUM_BINS + 1]."""
    return np.linspace(-1, 1, NUM_BINS + 1)


def bin_middles() -> Floats:
    """float64 [NUM_BINS]."""
    edges = bin_edges()
    middles: Floats = (edges[1:] + edges[:-1]) / 2
    return middles


@dataclass(frozen=True, slots=True)
class Similarities:
    """Cosines of matched pairs and of all other pairs of a picture and a text.

    ``auc`` is the chance that a matched pair is more alike than an unmatched one, ties counting one half; ``overlap``
    the area that the two distributions share, 1 where they are equal (Inman and Bradley 1989). ``matched_counts`` and
    ``unmatched_counts`` int64 [NUM_BINS] are the distributions themselves. Without an unmatched pair, NaN.
    """

    matched_mean: float
    matched_std: float
    unmatched_mean: float
    unmatched_std: float
    auc: float
    overlap: float
    matched_counts: Rows = field(compare=False, repr=False)
    unmatched_counts: Rows = field(compare=False, repr=False)

    def figures(self) -> dict[str, float]:
        """The measures by name."""
        return {
            "matched_cosine": self.matched_mean,
            "matched_cosine_std": self.matched_std,
            "unmatched_cosine": self.unmatched_mean,
            "unmatched_cosine_std": self.unmatched_std,
            "similarity_auc": self.auc,
            "similarity_overlap": self.overlap,
        }


def similarities(everything: Histogram, matched: Vectors) -> Similarities:
    """From the cosines of all pairs and those of the matched ones, float32 [P]."""
    unmatched = everything.without(matched).counts
    own = everything.counts - unmatched
    middles = bin_middles()
    total = max(int(unmatched.sum()), 0)
    mean = float(unmatched @ middles / total) if total else float("nan")
    below = np.cumsum(unmatched) - unmatched / 2
    return Similarities(
        matched_mean=float(matched.mean(dtype=np.float64)),
        matched_std=float(matched.std(dtype=np.float64)),
        unmatched_mean=mean,
        unmatched_std=float(np.sqrt(unmatched @ (middles - mean) ** 2 / total)) if total else float("nan"),
        auc=float(own @ below / (len(matched) * total)) if total else float("nan"),
        overlap=_overlap(own, unmatched) if total else float("nan"),
        matched_counts=own,
        unmatched_counts=unmatched,
    )


def _overlap(first: Rows, second: Rows) -> float:
    """The shared area of two histograms, over bins coarse enough that chance does not carve them apart: the square root
    of the smaller count of pairs, at most 64, across the range that is in use."""
    used = np.flatnonzero(first + second)
    width = len(range(int(used[0]), int(used[-1]) + 1))
    num_bins = int(np.clip(np.sqrt(min(first.sum(), second.sum())), 4, 64))
    size = -(-width // num_bins)
    shares = []
    for counts in (first, second):
        inside = counts[used[0] : used[-1] + 1]
        padded = np.pad(inside, (0, -len(inside) % size))
        shares.append(padded.reshape(-1, size).sum(axis=1) / counts.sum())
    return float(np.minimum(*shares).sum())


@dataclass(frozen=True, slots=True)
class Geometry:
    """Where pictures and texts lie on the sphere.

    ``modality_gap`` is the distance between the mean picture and the mean text (Liang et al. 2022), in [0, 2].
    ``distribution_gap`` is what remains when both clouds are moved to the same mean, in [0, 1]: how unlike their
    covariances are, see ``covariance_gap``. Subtracting means at search time cannot remove it, and it says more of what
    tasks across modalities will do than the distance of the means (arXiv 2604.00279 finds so for a measure of its own).
    ``alignment`` is the mean squared distance of matched pairs, ``image_uniformity`` and ``text_uniformity`` the
    logarithm of the mean of exp(-2 d²) over pairs of one modality (Wang and Isola 2020); lower is better for all three,
    and 0 is complete collapse for the last two.
    """

    modality_gap: float
    distribution_gap: float
    alignment: float
    image_uniformity: float
    text_uniformity: float

    def figures(self) -> dict[str, float]:
        """The measures by name."""
        return {
            "modality_gap": self.modality_gap,
            "distribution_gap": self.distribution_gap,
            "alignment": self.alignment,
            "image_uniformity": self.image_uniformity,
            "text_uniformity": self.text_uniformity,
        }


def geometry(images: Vectors, texts: Vectors, image_rows: Rows, matched: Vectors, seed: int = 0) -> Geometry:
    """Measure unit vectors ``images`` [N, D] and ``texts`` [T, D]; ``image_rows`` int64 [T] names the picture of each
    text, and the matched pairs have the cosines ``matched`` [P]. Uniformity goes over ``MAX_SAMPLE`` vectors."""
    rng = np.random.default_rng(seed)
    image_mean, text_mean = images.mean(axis=0, dtype=np.float64), texts.mean(axis=0, dtype=np.float64)
    some_images, some_texts = _sample(images, rng), _sample(texts, rng)
    return Geometry(
        modality_gap=float(np.linalg.norm(image_mean - text_mean)),
        distribution_gap=covariance_gap(
            images - image_mean.astype(np.float32), texts - text_mean.astype(np.float32), image_rows
        ),
        alignment=float(2 - 2 * matched.mean(dtype=np.float64)),
        image_uniformity=uniformity(some_images),
        text_uniformity=uniformity(some_texts),
    )


def covariance_gap(images: Vectors, texts: Vectors, image_rows: Rows) -> float:
    """√(1 - 2⟨A, B⟩ / (⟨A, A⟩ + ⟨B, B⟩)) for the covariances A and B of centred vectors [N, D] and [T, D].

    0 where they are equal, 1 where pictures and texts vary in directions that have nothing to do with each other. It is
    the maximum mean discrepancy (Gretton et al. 2012) of the kernel (x·y)², scaled; distances would not do, since in
    many dimensions all of them are nearly equal. Each inner product is the mean of (x·y)² over pairs of different items
    (a picture and its own text are no evidence about distributions), so small samples do not look like a gap; below 0
    counts as 0. NaN where a modality has a single vector or all of one modality are equal.
    """
    if len(images) < 2 or len(texts) < 2:
        return float("nan")
    inner: list[float] = []
    first, second = images.T @ images, texts.T @ texts  # [D, D]
    for one, gram in ((images, first), (texts, second)):
        itself = ((one**2).sum(axis=1) ** 2).sum(dtype=np.float64)
        inner.append((np.vdot(gram, gram) - itself) / (len(one) * (len(one) - 1)))
    matched = (np.einsum("td,td->t", images[image_rows], texts) ** 2).sum(dtype=np.float64)
    across = (np.vdot(first, second) - matched) / (len(images) * len(texts) - len(texts))
    scale = sum(inner)
    return float(np.sqrt(max(1 - 2 * across / scale, 0.0))) if scale > 1e-9 else float("nan")


def uniformity(vectors: Floats) -> float:
    """log E exp(-2 |x - x'|²) over different vectors of a sample [A, D]; NaN for a single vector."""
    if len(vectors) < 2:
        return float("nan")
    closeness = np.exp(-2 * _distances(vectors, vectors) ** 2)
    return float(np.log((closeness.sum() - len(vectors)) / (len(vectors) * (len(vectors) - 1))))


def _sample(vectors: Vectors, rng: np.random.Generator) -> Floats:
    """All of the vectors, or ``MAX_SAMPLE`` at random."""
    if len(vectors) > MAX_SAMPLE:
        vectors = vectors[np.sort(rng.choice(len(vectors), MAX_SAMPLE, replace=False))]
    return vectors.astype(np.float64)


def _distances(first: Floats, second: Floats) -> Floats:
    """Euclidean distances float64 [A, B]; exactly 0 from a sample's vectors to themselves."""
    squares = (first**2).sum(axis=1)[:, None] + (second**2).sum(axis=1)[None] - 2 * first @ second.T
    if first is second:
        np.fill_diagonal(squares, 0)
    found: Floats = np.sqrt(np.maximum(squares, 0))
    return found
