"""Measures of retrieval: recall at k, median rank, average precision and nDCG, any number of answers for a query.

Each is an expectation over all orders of equal scores (see ``places``): recall, average precision and nDCG exactly so,
because they are sums over answers; the median rank is the median of the expected places of the first answer.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from training.evaluation.bootstrap import Bootstrap, mean_intervals, median_interval
from training.evaluation.places import Answers, Floats, Places, Rows, Vectors, places_of

RECALL_AT = (1, 5, 10)
NDCG_AT = 10

Interval = tuple[float, float]


@dataclass(frozen=True, slots=True)
class PerQuery:
    """What each query scores: ``hits`` float64 [Q, 3] the chance of an answer within the first k of ``RECALL_AT``, the
    expected place of the first answer, average precision, nDCG over all places and over the first ten; [Q] each."""

    hits: Floats
    ranks: Floats
    average_precision: Floats
    ndcg: Floats
    ndcg_at_10: Floats

    def take(self, rows: Rows) -> PerQuery:
        """Some of the queries."""
        return PerQuery(
            self.hits[rows], self.ranks[rows], self.average_precision[rows], self.ndcg[rows], self.ndcg_at_10[rows]
        )


@dataclass(frozen=True, slots=True)
class Retrieval:
    """One direction of retrieval.

    ``recall[k]`` in [0, 1] for k of ``RECALL_AT``; ``median_rank`` counts from 1; ``mean_average_precision``, ``ndcg``
    (all places) and ``ndcg_at_10`` in [0, 1]. ``intervals`` holds a bootstrap interval for each of ``figures()``, or
    nothing where none was asked for.
    """

    num_queries: int
    num_candidates: int
    recall: dict[int, float]
    median_rank: float
    mean_average_precision: float
    ndcg: float
    ndcg_at_10: float
    intervals: dict[str, Interval] = field(default_factory=dict)

    def figures(self) -> dict[str, float]:
        """The measures by name."""
        return {
            **{f"recall_at_{k}": value for k, value in self.recall.items()},
            "median_rank": self.median_rank,
            "map": self.mean_average_precision,
            "ndcg": self.ndcg,
            "ndcg_at_10": self.ndcg_at_10,
        }


def text_to_image(texts: Vectors, images: Vectors, image_rows: Rows) -> Retrieval:
    """How well each text finds its picture.

    ``texts`` float32 [T, D] and ``images`` float32 [N, D] have rows of length 1; ``image_rows`` int64 [T] names the
    picture of each text.
    """
    return summarise(per_query(places_of(texts, images, Answers.one_each(image_rows))), len(images))


def image_to_text(images: Vectors, texts: Vectors, image_rows: Rows, weights: Floats | None = None) -> Retrieval:
    """How well each picture finds its texts; the arguments are those of ``text_to_image``.

    Recall and rank go by the best of the picture's own texts, average precision and nDCG by all of them; ``weights``
    float64 [T] grade them for nDCG. Every picture needs at least one text.
    """
    answers = Answers.of_pairs(image_rows, np.arange(len(texts)), len(images), weights)
    return summarise(per_query(places_of(images, texts, answers)), len(texts))


def summarise(
    scored: PerQuery, num_candidates: int, groups: Rows | None = None, bootstrap: Bootstrap | None = None
) -> Retrieval:
    """The means over queries. ``groups`` int64 [Q] are the queries' pictures, the units that ``bootstrap`` draws."""
    columns = np.column_stack([scored.hits, scored.average_precision, scored.ndcg, scored.ndcg_at_10])  # [Q, 6]
    means = columns.mean(axis=0)
    intervals: dict[str, Interval] = {}
    if bootstrap is not None:
        units, groups = np.unique(np.arange(len(columns)) if groups is None else groups, return_inverse=True)
        ends = mean_intervals(columns, groups, len(units), bootstrap)
        names = [*(f"recall_at_{k}" for k in RECALL_AT), "map", "ndcg", "ndcg_at_10"]
        intervals = {name: (float(low), float(high)) for name, (low, high) in zip(names, ends, strict=True)}
        low, high = median_interval(scored.ranks, groups, len(units), bootstrap)
        intervals["median_rank"] = (float(low), float(high))
    return Retrieval(
        num_queries=len(columns),
        num_candidates=num_candidates,
        recall={k: float(value) for k, value in zip(RECALL_AT, means, strict=False)},
        median_rank=float(np.median(scored.ranks)),
        mean_average_precision=float(means[-3]),
        ndcg=float(means[-2]),
        ndcg_at_10=float(means[-1]),
        intervals=intervals,
    )


def per_query(places: Places) -> PerQuery:
    """Score every query by the places of its answers."""
    first = places.answers.first[:-1]
    best = _best_of_each(places)
    above, own = places.above[best], places.own_level[best]
    level = places.level[best] - own
    return PerQuery(
        hits=np.column_stack([chance_of_hit(above, level, own, k) for k in RECALL_AT]),
        ranks=above + level / (own + 1) + 1,  # the expected place of the first own answer
        average_precision=np.add.reduceat(_precision_at_answers(places), first) / np.diff(places.answers.first),
        ndcg=_ndcg(places, places.num_candidates),
        ndcg_at_10=_ndcg(places, NDCG_AT),
    )


def chance_of_hit(above: Rows, level: Rows, own: Rows, k: int) -> Floats:
    """The probability that one of ``own`` equal answers is within the first ``k`` places, float64 [Q].

    ``above`` rivals are strictly better, ``level`` rivals are equal and in random order with the own answers, so the
    own ones miss the ``free = k - above`` places left with probability C(level, free) / C(level + own, free).
    """
    free = np.clip(k - above, 0, None)
    miss = np.ones(len(above), np.float64)
    for place in range(int(free.max(initial=0))):
        left = np.clip(level - place, 0, None) / np.maximum(level + own - place, 1)
        miss = np.where(place < free, miss * left, miss)
    return 1.0 - miss


def _best_of_each(places: Places) -> Rows:
    """The pair of each query's best answer, int64 [Q]."""
    first = places.answers.first
    least = np.minimum.reduceat(places.above, first[:-1])  # [Q]
    best = np.flatnonzero(places.above == np.repeat(least, np.diff(first)))
    return best[np.searchsorted(best, first[:-1])]


def _precision_at_answers(places: Places) -> Floats:
    """The expected precision at the place of each answer, float64 [P].

    In a tie of n places after a, an answer stands at the j-th with probability 1/n; before it stand the R own answers
    above the tie and (j - 1)(r - 1)/(n - 1) of the tie's r own ones. The sum over j of (R + 1 + (j - 1) c) / (a + j)
    has a closed form in harmonic numbers.
    """
    harmonic = np.concatenate([[0.0], np.cumsum(1 / np.arange(1, places.num_candidates + 1))])
    above, level = places.above, places.level
    sums = harmonic[above + level] - harmonic[above]
    slope = (places.own_level - 1) / np.maximum(level - 1, 1)
    found: Floats = ((places.own_above + 1) * sums + slope * (level - (above + 1) * sums)) / level
    return found


def _ndcg(places: Places, depth: int) -> Floats:
    """Normalised discounted cumulative gain over the first ``depth`` places, float64 [Q]; the gain is the weight
    (Järvelin and Kekäläinen 2002)."""
    answers = places.answers
    discounts = 1 / np.log2(np.arange(2, places.num_candidates + 2))
    discounts[depth:] = 0
    upto = np.concatenate([[0.0], np.cumsum(discounts)])
    weights = np.ones(len(places.above)) if answers.weights is None else answers.weights
    gains = weights * (upto[places.above + places.level] - upto[places.above]) / places.level
    best_first = np.lexsort([-weights, answers.query_of_pair()])
    place = np.arange(len(weights)) - np.repeat(answers.first[:-1], np.diff(answers.first))  # within the query
    ideal = np.add.reduceat(weights[best_first] * discounts[place], answers.first[:-1])
    found: Floats = np.add.reduceat(gains, answers.first[:-1]) / ideal
    return found
