from __future__ import annotations

import numpy as np
import pytest

from tests.training.evaluation.vectors import captioned, unit
from training.evaluation import places
from training.evaluation.neighbours import nearest, neighbour_overlap


def test_overlap_equals_brute_force(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(places, "CHUNK_BYTES", 2000)
    rng = np.random.default_rng(0)
    images, texts, _ = captioned(rng, 40, 3)
    base_images, base_texts = images + 0.4 * unit(rng, 40), texts + 0.4 * unit(rng, len(texts))
    found = neighbour_overlap(images, texts, base_images, base_texts)

    def lists(queries: np.ndarray, candidates: np.ndarray, itself: bool) -> list[set[int]]:
        orders = [np.argsort(-(candidates @ query)) for query in queries]
        return [set([n for n in order if not (itself and n == q)][:10]) for q, order in enumerate(orders)]

    pairs = list(zip(lists(images, images, True), lists(base_images, base_images, True), strict=True))
    assert found.images == pytest.approx(np.mean([len(a & b) / 10 for a, b in pairs]))
    assert found.images_jaccard == pytest.approx(np.mean([len(a & b) / len(a | b) for a, b in pairs]))
    crossed = list(zip(lists(texts, images, False), lists(base_texts, base_images, False), strict=True))
    assert found.texts == pytest.approx(np.mean([len(a & b) / 10 for a, b in crossed]))


def test_the_same_space_overlaps_wholly_and_an_unrelated_one_by_chance() -> None:
    rng = np.random.default_rng(1)
    images, texts, _ = captioned(rng, 300, 2)
    turn = np.linalg.qr(rng.standard_normal((8, 8)))[0].astype(np.float32)
    same = neighbour_overlap(images, texts, images @ turn, texts @ turn)
    assert same.images > 0.99 and same.texts > 0.99  # a rotation changes nothing but rounding
    other = neighbour_overlap(images, texts, unit(rng, 300, 5), unit(rng, len(texts), 5))
    assert other.images == pytest.approx(other.chance, abs=0.02)


def test_few_pictures_shorten_the_lists() -> None:
    rng = np.random.default_rng(2)
    images = unit(rng, 4)
    assert neighbour_overlap(images, images, images, images).images == 1
    assert np.isnan(neighbour_overlap(images[:1], images[:1], images[:1], images[:1]).images)


def test_a_picture_is_not_its_own_neighbour() -> None:
    images = unit(np.random.default_rng(3), 30)
    assert not (nearest(images, images, 10, itself=True) == np.arange(30)[:, None]).any()
