"""How much of a space an encoder kept: neighbours under it against neighbours under the encoder it was tuned from.

Retrieval on one's own captions says nothing about what was forgotten (open_clip #826). Two encoders that agree on which
pictures are alike give the same neighbour lists; after fine-tuning the overlap says how far the space has moved.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from training.evaluation.places import Rows, Vectors, chunks

NEIGHBOURS = 10


@dataclass(frozen=True, slots=True)
class NeighbourOverlap:
    """Agreement of two encoders about nearest neighbours, means over queries in [0, 1].

    ``images``: the shared part of a picture's ``k`` nearest pictures; ``images_jaccard`` the same as intersection over
    union; ``texts``: the shared part of a caption's ``k`` nearest pictures. ``chance`` is what two unrelated spaces
    share on average.
    """

    k: int
    images: float
    images_jaccard: float
    texts: float
    chance: float

    def figures(self) -> dict[str, float]:
        """The measures by name."""
        return {
            f"neighbour_overlap_at_{NEIGHBOURS}": self.images,
            f"neighbour_jaccard_at_{NEIGHBOURS}": self.images_jaccard,
            f"text_neighbour_overlap_at_{NEIGHBOURS}": self.texts,
            "neighbour_overlap_by_chance": self.chance,
        }


def neighbour_overlap(images: Vectors, texts: Vectors, base_images: Vectors, base_texts: Vectors) -> NeighbourOverlap:
    """Compare two spaces over the same pictures [N, ·] and texts [T, ·]; their dimensions may differ.

    Fewer than ``NEIGHBOURS`` + 1 pictures shorten the lists.
    """
    k = min(NEIGHBOURS, len(images) - 1)
    if k < 1:
        return NeighbourOverlap(0, float("nan"), float("nan"), float("nan"), float("nan"))
    shared = _shared(nearest(images, images, k, itself=True), nearest(base_images, base_images, k, itself=True))
    crossed = _shared(nearest(texts, images, k), nearest(base_texts, base_images, k))
    return NeighbourOverlap(
        k=k,
        images=float((shared / k).mean()),
        images_jaccard=float((shared / (2 * k - shared)).mean()),
        texts=float((crossed / k).mean()),
        chance=k / (len(images) - 1),
    )


def nearest(queries: Vectors, candidates: Vectors, k: int, *, itself: bool = False) -> Rows:
    """The ``k`` nearest candidates of each query, int64 [Q, k] in no order; with ``itself`` query i is candidate i and
    left out. Among equal scores at the edge any are taken, the same ones each time."""
    found = np.empty((len(queries), k), np.int64)
    for start, stop in chunks(len(queries), len(candidates)):
        scores = queries[start:stop] @ candidates.T  # [C, N]
        if itself:
            scores[np.arange(stop - start), np.arange(start, stop)] = -np.inf
        found[start:stop] = np.argpartition(scores, -k, axis=1)[:, -k:]
    return found


def _shared(first: Rows, second: Rows) -> Rows:
    """How many entries two lists [Q, k] of different rows have in common, int64 [Q]."""
    both = np.sort(np.concatenate([first, second], axis=1), axis=1)
    shared: Rows = np.count_nonzero(both[:, 1:] == both[:, :-1], axis=1)
    return shared
