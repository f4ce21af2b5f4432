"""The queries that went worst, with what was found instead: an average says how often, only examples say why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from training.evaluation.places import Floats, Rows, Vectors

NUM_EXAMPLES = 12
NUM_FOUND = 3


@dataclass(frozen=True, slots=True)
class MissedPicture:
    """A caption that did not find its picture first. ``found`` are the rows of the pictures that it found."""

    caption: str
    row: int
    rank: float
    score: float
    found: tuple[int, ...]
    found_scores: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class MissedCaption:
    """A picture that found another picture's caption first; ``caption`` is the best of its own."""

    row: int
    caption: str
    rank: float
    score: float
    found: tuple[str, ...]
    found_scores: tuple[float, ...]


def missed_pictures(
    ranks: Floats, texts: Vectors, images: Vectors, image_rows: Rows, captions: Sequence[str]
) -> tuple[MissedPicture, ...]:
    """The captions with the worst expected ``ranks`` float64 [T], one for each picture at most."""
    examples: list[MissedPicture] = []
    seen: set[int] = set()
    for text in _worst_first(ranks):
        row = int(image_rows[text])
        if row in seen:
            continue
        seen.add(row)
        scores = images @ texts[text]  # [N]
        best = np.argsort(-scores, kind="stable")[:NUM_FOUND]
        examples.append(
            MissedPicture(
                caption=captions[text],
                row=row,
                rank=float(ranks[text]),
                score=float(scores[row]),
                found=tuple(int(one) for one in best),
                found_scores=tuple(float(scores[one]) for one in best),
            )
        )
        if len(examples) == NUM_EXAMPLES:
            break
    return tuple(examples)


def missed_captions(
    ranks: Floats, images: Vectors, texts: Vectors, image_rows: Rows, captions: Sequence[str]
) -> tuple[MissedCaption, ...]:
    """The pictures with the worst expected ``ranks`` float64 [N]."""
    examples: list[MissedCaption] = []
    for row in _worst_first(ranks)[:NUM_EXAMPLES]:
        scores = texts @ images[row]  # [T]
        best = np.argsort(-scores, kind="stable")[:NUM_FOUND]
        own = np.flatnonzero(image_rows == row)
        mine = int(own[np.argmax(scores[own])])
        examples.append(
            MissedCaption(
                row=int(row),
                caption=captions[mine],
                rank=float(ranks[row]),
                score=float(scores[mine]),
                found=tuple(captions[one] for one in best),
                found_scores=tuple(float(scores[one]) for one in best),
            )
        )
    return tuple(examples)


def _worst_first(ranks: Floats) -> list[int]:
    """Queries that were not answered first, the worst first."""
    return [int(query) for query in np.argsort(-ranks, kind="stable") if ranks[query] > 1]
