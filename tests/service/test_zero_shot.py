"""Naming what a picture shows: prompts, matrices, probabilities, and the route."""

from __future__ import annotations

import base64

import numpy as np
import pytest

from service import zero_shot
from service.label_sets import MatrixCache
from service.openapi import schemas
from sightline.bundle import ScoreScale
from sightline.errors import QueryError, TextError
from sightline.texts import TextLimits
from tests.fakes import FakeEncoder, picture_bytes
from tests.service.conftest import MakeService, Service

GREEN = picture_bytes("green")
LIMITS = TextLimits()


def test_prompts_come_label_by_label() -> None:
    assert zero_shot.make_prompts(["cat", " dog "], ["{}", "a {} and a {}"], LIMITS) == [
        "cat", "a cat and a cat", "dog", "a dog and a dog",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("labels", "templates", "said"),
    [
        ([], ["{}"], "no labels"),
        (["a"] * 1001, ["{}"], "1,001 labels"),
        (["a", " a"], ["{}"], "twice"),
        (["a", " "], ["{}"], "empty"),
        (["a" * 257], ["{}"], "257 characters"),
        (["a"], ["a photo"], "no {}"),
        (["a"], [], "between 1 and 100"),
        (["a"], ["{}"] * 101, "between 1 and 100"),
        ([f"label {n}" for n in range(1000)], ["{}"] * 11, "10,000 prompts"),
    ],
)
def test_labels_and_templates_that_are_refused(labels: list[str], templates: list[str], said: str) -> None:
    with pytest.raises(QueryError, match=said):
        zero_shot.make_prompts(labels, templates, LIMITS)


def test_a_prompt_is_a_text_like_any_other() -> None:
    with pytest.raises(TextError):
        zero_shot.make_prompts(["a"], ["{} " + "word " * 300], LIMITS)


def test_a_label_is_the_normalised_mean_of_its_prompts() -> None:
    prompts = np.array([[1, 0], [0, 1], [1, 0], [1, 0]], dtype=np.float32)
    matrix = zero_shot.label_matrix(prompts, 2)
    np.testing.assert_allclose(matrix, [[0.5**0.5, 0.5**0.5], [1, 0]], atol=1e-6)
    assert matrix.dtype == np.float32


def test_softmax_uses_the_checkpoints_scale() -> None:
    scores = np.array([0.3, 0.1], dtype=np.float32)
    chances = zero_shot.probabilities(scores, ScoreScale(kind="softmax", scale=10.0, bias=0.0))
    np.testing.assert_allclose(chances, np.array([np.e**2, 1]) / (np.e**2 + 1), rtol=1e-6)


def test_sigmoid_uses_scale_and_bias_and_labels_stand_alone() -> None:
    scores = np.array([0.3, 0.1], dtype=np.float32)
    chances = zero_shot.probabilities(scores, ScoreScale(kind="sigmoid", scale=100.0, bias=-20.0))
    np.testing.assert_allclose(chances, 1 / (1 + np.exp([-10.0, 10.0])), rtol=1e-5)


@pytest.mark.parametrize("kind", ["softmax", "sigmoid"])
def test_extreme_scales_stay_numbers(kind: str) -> None:
    scores = np.array([1.0, -1.0], dtype=np.float32)
    chances = zero_shot.probabilities(scores, ScoreScale(kind=kind, scale=1e6, bias=0.0))  # type: ignore[arg-type]
    np.testing.assert_allclose(chances, [1.0, 0.0], atol=1e-12)


@pytest.mark.parametrize(
    "options",
    [
        {"json": {"image": base64.b64encode(GREEN).decode(), "labels": ["red", "green", "blue"]}},
        {"files": {"image": GREEN}, "data": {"labels": ["red", "green", "blue"]}},
        {"files": {"image": GREEN}, "data": {"labels": '["red", "green", "blue"]'}},
        {"content": GREEN, "params": {"labels": ["red", "green", "blue"], "templates": ["all {}", "{}"]}},
    ],
    ids=["json", "form", "form-json", "raw"],
)
def test_the_right_label_comes_first(service: Service, options: dict[str, object]) -> None:
    response = service.post("/v1/zero-shot", **options)
    answer = schemas.ZeroShotAnswer.model_validate_json(response.content)
    assert answer.results[0].label == "green"
    assert sum(result.probability for result in answer.results) == pytest.approx(1.0)
    assert answer.kind == "softmax"
    assert answer.results[0].score == pytest.approx(1.0, abs=1e-3)


def test_a_sigmoid_checkpoint_gives_sigmoids(make_service: MakeService) -> None:
    service = make_service(encoder=FakeEncoder(kind="sigmoid", scale=20.0, bias=-10.0))
    answer = service.post("/v1/zero-shot", content=GREEN, params={"labels": ["green", "a green thing", "red"]}).json()
    assert answer["kind"] == "sigmoid"
    chances = {result["label"]: result["probability"] for result in answer["results"]}
    assert chances["green"] == pytest.approx(1 / (1 + np.exp(-10)), rel=1e-3)
    assert chances["a green thing"] > 0.99
    assert chances["red"] < 0.01


def test_the_same_labels_are_encoded_once(make_service: MakeService) -> None:
    texts: list[str] = []

    def note(modality: str, batch: list[str]) -> None:
        if modality == "text":
            texts.extend(batch)

    service = make_service(encoder=FakeEncoder(before_encode=note))
    texts.clear()
    for labels in (["red", "green"], ["red", "green"], ["green", "red"]):
        service.post("/v1/zero-shot", content=GREEN, params={"labels": labels, "templates": "{}"})
    assert texts == ["red", "green", "green", "red"]
    assert service.metric("sightline_label_cache_lookups_total", outcome="hit") == 1


def test_many_labels_pass_a_small_queue_in_parts(make_service: MakeService) -> None:
    service = make_service(max_queue_units=64)
    labels = [f"thing {n}" for n in range(400)] + ["green"]
    answer = service.post("/v1/zero-shot", json={"image": base64.b64encode(GREEN).decode(), "labels": labels}).json()
    assert answer["results"][0]["label"] == "green"
    assert len(answer["results"]) == 401


def test_the_cache_forgets_the_least_recently_used_first() -> None:
    cache = MatrixCache(max_floats=8)
    one, two, three = (np.full((2, 2), n, dtype=np.float32) for n in range(3))
    cache.put(b"1", one)
    cache.put(b"2", two)
    assert cache.get(b"1") is one
    cache.put(b"3", three)
    assert cache.get(b"2") is None
    assert cache.get(b"1") is one
    cache.put(b"huge", np.zeros((9, 1), dtype=np.float32))
    assert cache.get(b"huge") is None


def test_different_prompts_never_share_a_key() -> None:
    lists = [["ab", "c"], ["a", "bc"], ["abc"], ["ab", "c", ""]]
    assert len({MatrixCache.key(prompts, 1) for prompts in lists} | {MatrixCache.key(["ab", "c"], 2)}) == 5
