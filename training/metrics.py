"""Retrieval measures over unit vectors: recall at k both ways, several captions for each picture, honest
ties.

Ties are counted as if broken at random: the figures are the expectation over all orders of equal scores. A
collapsed encoder, which gives every text and picture the same vector, therefore scores 1/N, where counting
only the strictly better rivals would call it perfect. Scores closer than ``TIE`` are equal: a matrix product
may round two equal inner products differently.

Scores are made a chunk of queries at a time, at most ``CHUNK_BYTES`` of them at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Vectors = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

TIE = 1e-6
CHUNK_BYTES = 16 * 2**20
"""Of float32 scores; the comparisons made from them take about as much again."""

RECALL_AT = (1, 5, 10)


@dataclass(frozen=True, slots=True)
class Retrieval:
    """One direction of retrieval. ``recall[k]`` in [0, 1] for k of ``RECALL_AT``; ``median_rank`` counts
    from 1."""

    num_queries: int
    num_candidates: int
    recall: dict[int, float]
    median_rank: float


def text_to_image(texts: Vectors, images: Vectors, image_rows: Rows) -> Retrieval:
    """How well each text finds its picture.

    ``texts`` float32 [T, D] and ``images`` float32 [N, D] have rows of length 1; ``image_rows`` int64 [T]
    names the picture of each text.
    """
    above: list[npt.NDArray[np.int64]] = []
    level: list[npt.NDArray[np.int64]] = []
    for start, stop in _chunks(len(texts), len(images)):
        scores = texts[start:stop] @ images.T  # [C, N]
        own = scores[np.arange(stop - start), image_rows[start:stop]][:, None]  # [C, 1]
        above.append((scores > own + TIE).sum(axis=1))
        level.append((np.abs(scores - own) <= TIE).sum(axis=1) - 1)
    return _retrieval(np.concatenate(above), np.concatenate(level), np.ones(len(texts), np.int64), len(images))


def image_to_text(images: Vectors, texts: Vectors, image_rows: Rows) -> Retrieval:
    """How well each picture finds any of its texts; the arguments are those of ``text_to_image``.

    The rank is that of the best of the picture's own texts. Every picture needs at least one text.
    """
    above: list[npt.NDArray[np.int64]] = []
    level: list[npt.NDArray[np.int64]] = []
    twins: list[npt.NDArray[np.int64]] = []
    for start, stop in _chunks(len(images), len(texts)):
        scores = images[start:stop] @ texts.T  # [C, T]
        mine = image_rows[None, :] == np.arange(start, stop)[:, None]  # [C, T]
        best = np.where(mine, scores, -np.inf).max(axis=1, keepdims=True)  # [C, 1]
        equal = np.abs(scores - best) <= TIE
        own_equal = (equal & mine).sum(axis=1)
        above.append((scores > best + TIE).sum(axis=1))
        level.append(equal.sum(axis=1) - own_equal)
        twins.append(own_equal)
    return _retrieval(np.concatenate(above), np.concatenate(level), np.concatenate(twins), len(texts))


def chance_of_hit(above: Rows, level: Rows, own: Rows, k: int) -> Floats:
    """The probability that one of ``own`` equal answers is within the first ``k`` places, float64 [Q].

    ``above`` rivals are strictly better, ``level`` rivals are equal and in random order with the own
    answers, so the own ones miss the ``free = k - above`` places left with probability C(level, free) /
    C(level + own, free).
    """
    free = np.clip(k - above, 0, None)
    miss = np.ones(len(above), np.float64)
    for place in range(int(free.max(initial=0))):
        left = np.clip(level - place, 0, None) / np.maximum(level + own - place, 1)
        miss = np.where(place < free, miss * left, miss)
    return 1.0 - miss


def _retrieval(above: Rows, level: Rows, own: Rows, num_candidates: int) -> Retrieval:
    ranks = above + level / (own + 1) + 1  # the expected place of the first own answer
    return Retrieval(
        num_queries=len(above),
        num_candidates=num_candidates,
        recall={k: float(chance_of_hit(above, level, own, k).mean()) for k in RECALL_AT},
        median_rank=float(np.median(ranks)),
    )


def classify(images: Vectors, classes: Vectors, labels: Rows) -> float:
    """Zero-shot accuracy in [0, 1]: ``images`` [N, D], ``classes`` [C, D], ``labels`` int64 [N] in [0, C)."""
    return text_to_image(images, classes, labels).recall[1]


def pairs_ranked_rightly(images: Vectors, true: Vectors, false: Vectors) -> float:
    """The share of pictures nearer to their true text than to the false one, all [N, D]; a tie counts one
    half."""
    lead = np.einsum("nd,nd->n", images, true) - np.einsum("nd,nd->n", images, false)  # [N]
    return float(np.where(np.abs(lead) <= TIE, 0.5, lead > 0).mean())


def class_vectors(prompts: Sequence[Vectors]) -> Vectors:
    """One unit vector [C, D] for each class from the unit vectors [P, D] of its prompts (CLIP's prompt
    ensemble)."""
    means = np.stack([vectors.mean(axis=0) for vectors in prompts])  # [C, D]
    unit: Vectors = (means / np.linalg.norm(means, axis=1, keepdims=True)).astype(np.float32)
    return unit


def _chunks(num_queries: int, num_candidates: int) -> Iterator[tuple[int, int]]:
    size = max(1, CHUNK_BYTES // (4 * max(num_candidates, 1)))
    for start in range(0, num_queries, size):
        yield start, min(start + size, num_queries)
