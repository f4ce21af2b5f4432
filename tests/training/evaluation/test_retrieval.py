from __future__ import annotations

import itertools
import math
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.training.evaluation.vectors import captioned, scoring, unit
from training.evaluation import places
from training.evaluation.bootstrap import Bootstrap
from training.evaluation.measure import measure_vectors
from training.evaluation.places import Answers, Floats, Rows, Vectors, places_of
from training.evaluation.retrieval import chance_of_hit, image_to_text, per_query, summarise, text_to_image


def naive(scores: Vectors, relevance: Floats) -> dict[str, float]:
    """Measures of one query by sorting, without ties: scores [N], relevance [N] in [0, 1]."""
    order = np.argsort(-scores)
    hits = relevance[order] > 0
    discounts = 1 / np.log2(np.arange(2, len(order) + 2))
    best = np.sort(relevance)[::-1]
    precision = np.cumsum(hits) / np.arange(1, len(order) + 1)
    return {
        **{f"recall_at_{k}": float(hits[:k].any()) for k in (1, 5, 10)},
        "median_rank": float(np.flatnonzero(hits)[0] + 1),
        "map": float(precision[hits].mean()),
        "ndcg": float(relevance[order] @ discounts / (best @ discounts)),
        "ndcg_at_10": float(relevance[order][:10] @ discounts[:10] / (best[:10] @ discounts[:10])),
    }


def mean_of(queries: list[dict[str, float]]) -> dict[str, float]:
    mean = {name: float(np.mean([one[name] for one in queries])) for name in queries[0]}
    return mean | {"median_rank": float(np.median([one["median_rank"] for one in queries]))}


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("chunk_bytes", [1, 4000, 2**24])
def test_all_measures_equal_brute_force_with_any_number_of_captions(
    seed: int, chunk_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(places, "CHUNK_BYTES", chunk_bytes)
    rng = np.random.default_rng(seed)
    images, texts, rows = captioned(rng, 40, 6, noise=1.0)
    weights = rng.choice([0.25, 0.5, 1.0], len(rows))
    own = (rows[:, None] == np.arange(40)).astype(np.float64)  # [T, N]
    assert text_to_image(texts, images, rows).figures() == pytest.approx(
        mean_of([naive(texts[t] @ images.T, own[t]) for t in range(len(texts))])
    )
    assert image_to_text(images, texts, rows).figures() == pytest.approx(
        mean_of([naive(images[n] @ texts.T, own[:, n]) for n in range(40)])
    )
    assert image_to_text(images, texts, rows, weights).figures() == pytest.approx(
        mean_of([naive(images[n] @ texts.T, own[:, n] * weights) for n in range(40)])
    )


def test_recall_equals_clip_benchmarks_any_hit() -> None:
    """CLIP_benchmark: of the k best, how many are among the query's positives; a query counts when that is above 0."""
    images, texts, rows = captioned(np.random.default_rng(7), 60, 5, noise=1.2)
    scores = torch.from_numpy(texts @ images.T)  # [T, N]
    positives = torch.from_numpy(rows[:, None] == np.arange(60))
    for ours, table, right in (
        (text_to_image(texts, images, rows), scores, positives),
        (image_to_text(images, texts, rows), scores.T, positives.T),
    ):
        for k in (1, 5, 10):
            found = table.topk(k, dim=1).indices
            share = right.gather(1, found).sum(dim=1) / right.sum(dim=1)
            assert ours.recall[k] == pytest.approx((share > 0).double().mean().item())


def test_the_diagonal_measure_of_open_clip_is_wrong_for_several_captions() -> None:
    """open_clip 3.3 pairs row i with row i: with several captions it marks a picture's other captions as wrong."""
    from open_clip_train.train import get_clip_metrics  # type: ignore[import-untyped]

    rng = np.random.default_rng(3)
    images, texts, rows = captioned(rng, 50, 1, noise=1.0)
    theirs = get_clip_metrics(torch.from_numpy(images), torch.from_numpy(texts), torch.tensor(1.0))
    ours = image_to_text(images, texts, rows)
    assert theirs["image_to_text_R@1"] == pytest.approx(ours.recall[1])  # one caption each: the same measure
    rows = np.repeat(np.arange(50), 5)
    texts = images[rows] + 1.0 * unit(rng, 250)
    texts /= np.linalg.norm(texts, axis=1, keepdims=True)
    repeated = get_clip_metrics(torch.from_numpy(images[rows]), torch.from_numpy(texts), torch.tensor(1.0))
    brute = np.mean([rows[np.argmax(texts @ images[n])] == n for n in range(50)])
    assert image_to_text(images, texts, rows).recall[1] == pytest.approx(brute)
    assert repeated["image_to_text_R@1"] < brute - 0.3


def expected(scores: list[float], relevance: list[float]) -> dict[str, float]:
    """The mean over every order of the candidates as tie-breaker, scores rounded so that ties are ties."""
    rounded = np.round(scores, 4)
    found = []
    for order in itertools.permutations(range(len(scores))):
        places = np.lexsort((np.array(order), -rounded)).argsort()  # of each candidate in this order
        found.append(naive(-places.astype(np.float32), np.array(relevance)))
    return {name: float(np.mean([one[name] for one in found])) for name in found[0]}


@pytest.mark.parametrize(
    ("scores", "relevance"),
    [
        ([0.5, 0.5, 0.5, 0.2], [1, 0, 0, 0]),
        ([0.5, 0.5, 0.5, 0.5, 0.5, 0.5], [1, 1, 0, 0, 0, 0]),
        ([0.9, 0.5, 0.5, 0.5, 0.5, 0.1], [0, 1, 1, 0, 0, 1]),
        ([0.9, 0.9, 0.5, 0.5, 0.1, 0.1], [0, 1, 0.5, 0, 0.25, 0]),
        ([0.3, 0.3, 0.3, 0.3, 0.3], [0.2, 0.4, 0.6, 0.8, 1.0]),
        ([0.1, 0.7, 0.7, 0.1, 0.1, 0.1], [1, 0, 0, 0.5, 0, 0]),
    ],
)
def test_ties_are_the_mean_over_all_orders(scores: list[float], relevance: list[float]) -> None:
    query, candidates = scoring(scores)
    own = np.flatnonzero(relevance)
    answers = Answers.of_pairs(np.zeros(len(own), np.int64), own, 1, np.array(relevance, np.float64)[own])
    found = summarise(per_query(places_of(query, candidates, answers)), len(scores)).figures()
    assert found == pytest.approx(expected(scores, relevance))


@pytest.mark.parametrize(("above", "level", "own", "k"), [(0, 3, 1, 1), (0, 3, 2, 2), (2, 2, 2, 3), (5, 1, 1, 5)])
def test_the_chance_of_a_hit_is_the_share_of_orders(above: int, level: int, own: int, k: int) -> None:
    orders = set(itertools.permutations([0] * level + [1] * own))
    share = np.mean([sum(order[: max(k - above, 0)]) > 0 for order in orders])
    found = chance_of_hit(np.array([above]), np.array([level]), np.array([own]), k)
    assert found[0] == pytest.approx(share)


def test_a_collapsed_encoder_scores_one_in_n() -> None:
    images = np.tile(unit(np.random.default_rng(1), 1), (50, 1))
    texts = np.tile(images[:1], (150, 1))
    rows = np.repeat(np.arange(50), 3)
    by_text, by_image = text_to_image(texts, images, rows), image_to_text(images, texts, rows)
    assert by_text.recall == pytest.approx({1: 1 / 50, 5: 5 / 50, 10: 10 / 50})
    assert by_image.recall[1] == pytest.approx(1 / 50)
    assert by_image.recall[10] == pytest.approx(1 - math.comb(147, 10) / math.comb(150, 10))
    assert by_text.median_rank == pytest.approx(25.5)
    assert by_text.mean_average_precision == pytest.approx(sum(1 / n for n in range(1, 51)) / 50)


def test_a_perfect_encoder_scores_one() -> None:
    images = np.eye(12, dtype=np.float32)
    rows = np.repeat(np.arange(12), 2)
    for found in (text_to_image(images[rows], images, rows), image_to_text(images, images[rows], rows)):
        assert found.figures() == pytest.approx(dict.fromkeys(found.figures(), 1.0))


def test_no_table_of_all_scores_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(places, "CHUNK_BYTES", 2**16)
    images, texts, rows = captioned(np.random.default_rng(2), 400, 15)
    whole = 4 * len(images) * len(texts)
    answers = Answers.of_pairs(rows, np.arange(len(texts)), 400)
    tracemalloc.start()
    places_of(images, texts, answers, lambda scores: None)
    places_of(texts, images, Answers.one_each(rows))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < whole / 4


def test_a_query_without_an_answer_is_refused() -> None:
    with pytest.raises(ValueError, match="Query 1 has no answer"):
        Answers.of_pairs(np.array([0, 2]), np.array([0, 1]), 3)
    with pytest.raises(ValueError, match="Query 0 has no answer"):
        Answers.of_pairs(np.array([0, 1]), np.array([0, 1]), 2, np.array([0.0, 1.0]))


def test_all_measures_at_once_equal_each_alone() -> None:
    images, texts, rows = captioned(np.random.default_rng(5), 30, 4)
    together = measure_vectors(images, texts, rows)
    assert together.text_to_image == text_to_image(texts, images, rows)
    assert together.image_to_text == image_to_text(images, texts, rows)
    first: Rows = np.unique(rows, return_index=True)[1]
    assert together.first_text_to_image == text_to_image(texts[first], images, np.arange(30))


def test_intervals_hold_the_figure_and_are_the_same_each_time() -> None:
    images, texts, rows = captioned(np.random.default_rng(5), 60, 4, noise=1.0)
    found = measure_vectors(images, texts, rows, bootstrap=Bootstrap(num_resamples=200))
    for retrieval in (found.text_to_image, found.image_to_text, found.first_text_to_image):
        figures = retrieval.figures()
        assert retrieval.intervals.keys() == figures.keys()
        for name, (low, high) in retrieval.intervals.items():
            assert low <= figures[name] <= high
        low, high = retrieval.intervals["recall_at_1"]
        assert low < high
    assert measure_vectors(images, texts, rows, bootstrap=Bootstrap(num_resamples=200)) == found


@pytest.mark.realdata
def test_the_published_recall_of_openai_clip_on_coco_pairs(real_data: Path) -> None:
    images, texts = (np.load(real_data / "clip_pairs" / f"{name}.npy") for name in ("images", "texts"))
    images, texts = (one / np.linalg.norm(one, axis=1, keepdims=True) for one in (images, texts))
    found = measure_vectors(images, texts, np.arange(500))
    assert found.image_to_text.recall[1] == pytest.approx(0.552)
    assert found.text_to_image.recall[1] == pytest.approx(0.506)
    assert found.geometry.modality_gap == pytest.approx(0.82, abs=0.04)  # Liang et al. 2022 on more of COCO: 0.8221
    assert 0.2 < found.similarities.matched_mean < 0.35
