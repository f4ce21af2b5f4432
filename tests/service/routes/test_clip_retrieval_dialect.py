"""clip-retrieval's routes, asked as its client asks."""

from __future__ import annotations

import base64

import pytest

from service.openapi.schemas import KnnResult
from tests.fakes import FakeEncoder, picture_bytes
from tests.service.conftest import Service

GREEN_BASE64 = base64.b64encode(picture_bytes("green")).decode()
CLIENT_DEFAULTS = {
    "deduplicate": True, "use_safety_model": True, "use_violence_detector": True, "indice_name": "photos",
    "use_mclip": False, "num_images": 2, "modality": "image", "aesthetic_score": 9, "aesthetic_weight": 0.5,
    "image": None, "image_url": None, "embedding_input": None, "text": None,
}  # fmt: skip


@pytest.mark.parametrize(
    "question",
    [
        {"text": "green"},
        {"image": GREEN_BASE64},
        {"embedding_input": [float(x) * 3 for x in FakeEncoder().encode_texts(["green"])[0]]},
        {"embedding_input": [float(x) * 1e308 for x in FakeEncoder().encode_texts(["green"])[0]]},
    ],
)
@pytest.mark.parametrize("modality", ["image", "text"])
def test_a_bare_list_best_first(service: Service, question: dict[str, object], modality: str) -> None:
    response = service.post("/knn-service", json=CLIENT_DEFAULTS | question | {"modality": modality})
    results = [KnnResult.model_validate(one) for one in response.json()]
    assert len(results) == 2
    best = results[0]
    assert (best.id, best.item_id, best.url, best.caption) == (1, "001-green", "green/001.png", "a green picture")
    assert best.model_extra == {"colour": "green", "number": 1}
    assert best.similarity == pytest.approx(1.0, abs=1e-3)


def test_options_without_effect_are_named(service: Service) -> None:
    asked = service.post("/knn-service", json=CLIENT_DEFAULTS | {"text": "green"})
    assert asked.headers["sightline-ignored"].split(", ") == [
        "deduplicate", "use_safety_model", "use_violence_detector", "aesthetic_score", "aesthetic_weight",
    ]  # fmt: skip
    plain = service.post("/knn-service", json={"text": "green"})
    assert "sightline-ignored" not in plain.headers


@pytest.mark.parametrize(
    ("question", "status"),
    [
        ({}, 422),
        ({"text": "green", "image": GREEN_BASE64}, 422),
        ({"image_url": "https://example.org/x.jpg"}, 422),
        ({"text": "green", "indice_name": "laion5B"}, 404),
        ({"embedding_input": [1.0, 2.0]}, 422),
        ({"embedding_input": [0.0] * 8}, 422),
        ({"embedding_input": []}, 422),
        ({"text": "green", "modality": "sound"}, 422),
    ],
)
def test_questions_that_are_refused(service: Service, question: dict[str, object], status: int) -> None:
    assert service.post("/knn-service", json=question).status_code == status


def test_the_indices(service: Service) -> None:
    assert service.get("/indices-list").json() == ["photos"]
