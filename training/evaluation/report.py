"""Everything measured, as flat figures for machines and in full for the page."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from training.evaluation.missed import MissedCaption, MissedPicture
from training.evaluation.neighbours import NeighbourOverlap
from training.evaluation.places import Floats
from training.evaluation.retrieval import Interval, Retrieval
from training.evaluation.similarity import Geometry, Similarities
from training.evaluation.text_pairs import PairScore
from training.evaluation.typographic import TypographicAttack
from training.evaluation.zero_shot import ZeroShot

DIGITS = 4


@dataclass(frozen=True, slots=True)
class Measured:
    """What vectors tell. ``first_text_to_image`` takes only the first caption of each picture as query,
    ``text_to_image`` all of them. ``text_ranks`` float64 [T] and ``image_ranks`` [N] are each query's expected place of
    its first answer."""

    first_text_to_image: Retrieval
    text_to_image: Retrieval
    image_to_text: Retrieval
    similarities: Similarities
    geometry: Geometry
    text_ranks: Floats = field(compare=False, repr=False)
    image_ranks: Floats = field(compare=False, repr=False)

    def directions(self) -> dict[str, Retrieval]:
        """The three retrievals by the prefix of their figures."""
        return {
            "text_to_image": self.first_text_to_image,
            "any_text_to_image": self.text_to_image,
            "image_to_text": self.image_to_text,
        }


@dataclass(frozen=True, slots=True)
class Report:
    """Everything measured. Shares are in [0, 1]; what the data do not allow is None or empty.

    ``named`` holds the colours and shapes of the drawn world and the classes of a classes file; ``swaps`` the drawn
    world's exchanged captions, ``suites`` other text pairs.
    """

    num_images: int
    num_captions: int
    measured: Measured
    named: tuple[ZeroShot, ...] = ()
    swaps: PairScore | None = None
    suites: tuple[PairScore, ...] = ()
    typographic: TypographicAttack | None = None
    neighbours: NeighbourOverlap | None = None
    missed_pictures: tuple[MissedPicture, ...] = ()
    missed_captions: tuple[MissedCaption, ...] = ()

    def values(self) -> dict[str, float | int]:
        """The figures by flat names, for JSON and tables; shares and cosines rounded to four digits."""
        found: dict[str, float | int] = {"num_images": self.num_images, "num_captions": self.num_captions}
        for prefix, retrieval in self.measured.directions().items():
            found |= {f"{prefix}_{name}": value for name, value in retrieval.figures().items()}
        for one in self.named:
            found |= _naming_figures(one)
        if self.swaps is not None and self.swaps.ranked_rightly is not None:
            found |= {"swaps_ranked_rightly": self.swaps.ranked_rightly, "num_swaps": self.swaps.num_pairs}
        for suite in self.suites:
            if suite.ranked_rightly is not None:
                found[f"pairs_{suite.name}"] = suite.ranked_rightly
            found[f"pairs_{suite.name}_text_cosine"] = suite.text_cosine
            found[f"num_pairs_{suite.name}"] = suite.num_pairs
        found |= self.measured.similarities.figures() | self.measured.geometry.figures()
        if self.typographic is not None:
            found |= self.typographic.figures() | {"num_typographic": self.typographic.num_pictures}
        if self.neighbours is not None:
            found |= self.neighbours.figures()
        return {
            name: round(value, DIGITS) if isinstance(value, float) else value
            for name, value in found.items()
            if math.isfinite(value)
        }

    def intervals(self) -> dict[str, Interval]:
        """Bootstrap intervals by the names of ``values()``; empty where none were asked for."""
        found: dict[str, Interval | None] = {}
        for prefix, retrieval in self.measured.directions().items():
            found |= {f"{prefix}_{name}": ends for name, ends in retrieval.intervals.items()}
        for one in self.named:
            found["zero_shot_accuracy" if one.name == "class" else f"zero_shot_{one.name}"] = one.interval
        if self.swaps is not None:
            found["swaps_ranked_rightly"] = self.swaps.interval
        found |= {f"pairs_{suite.name}": suite.interval for suite in self.suites}
        return {
            name: (round(ends[0], DIGITS), round(ends[1], DIGITS)) for name, ends in found.items() if ends is not None
        }

    def per_class(self) -> dict[str, dict[str, float]]:
        """The accuracy within each class that has pictures, by naming task and class."""
        return {
            one.name: {
                label: round(float(share), DIGITS)
                for label, share in zip(one.classes, one.per_class, strict=True)
                if math.isfinite(share)
            }
            for one in self.named
        }

    def details(self) -> dict[str, Any]:
        """What does not fit into flat figures, as plain JSON data."""
        return {
            "intervals": {name: list(ends) for name, ends in self.intervals().items()},
            "per_class": self.per_class(),
            "mistakes": {
                one.name: [
                    {"true": true, "named": named, "times": times, "pictures": pictures}
                    for true, named, times, pictures in one.mistakes(20)
                ]
                for one in self.named
            },
        }


def _naming_figures(one: ZeroShot) -> dict[str, float | int]:
    if one.name != "class":
        return {f"zero_shot_{one.name}": one.accuracy, "num_single": one.num_pictures}
    return {
        "zero_shot_accuracy": one.accuracy,
        "zero_shot_top_5": one.top_5,
        "zero_shot_mean_per_class": one.mean_per_class,
        "num_labelled": one.num_pictures,
    }
