"""clip-retrieval's routes, asked as its client asks."""

from __future__ import annotations

import base64
import json

import pytest

from service.openapi.dialects import KnnResult
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


def test_the_python_clients_very_bytes(service: Service) -> None:
    """What clip_retrieval.clip_client.ClipClient 2.45 posts: JSON text without a content type, keys in this order."""
    vector = [float(x) for x in FakeEncoder().encode_texts(["green"])[0]]
    for text, image, embedding in (("green", None, None), (None, GREEN_BASE64, None), (None, None, vector)):
        body = json.dumps(
            {
                "text": text, "image": image, "image_url": None, "embedding_input": embedding, "deduplicate": True,
                "use_safety_model": True, "use_violence_detector": True, "indice_name": "photos", "use_mclip": False,
                "aesthetic_score": 9, "aesthetic_weight": 0.5, "modality": "image", "num_images": 3,
                "num_result_ids": 3,
            }
        )  # fmt: skip
        response = service.post("/knn-service", content=body)
        assert "content-type" not in response.request.headers
        results = response.json()
        assert len(results) == 3
        assert {"id", "similarity", "url", "caption"} <= set(results[0])
        assert results[0]["caption"] == "a green picture"
        assert "num_result_ids" not in response.headers["sightline-ignored"]


@pytest.mark.parametrize("num_images", [0, -1, 10**9, "a", 1.5, None, True])
def test_counts_that_are_no_counts(service: Service, num_images: object) -> None:
    """B16: refused with the limit; never an id of -1."""
    response = service.post("/knn-service", json={"text": "green", "num_images": num_images})
    assert (response.status_code, response.json()["code"]) == (422, "invalid_request")


def test_more_than_there_are_gives_what_there_is(service: Service) -> None:
    """B16"""
    results = service.post("/knn-service", json={"text": "green", "num_images": 1000}).json()
    assert sorted(one["id"] for one in results) == list(range(8))


@pytest.mark.parametrize(
    ("numbers", "status"),
    [
        ("[NaN, 0, 0, 0, 0, 0, 0, 0]", 400),
        ("[Infinity, 0, 0, 0, 0, 0, 0, 0]", 400),
        ("[1e999, 0, 0, 0, 0, 0, 0, 0]", 422),
        ("[0, 0, 0, 0, 0, 0, 0, 0]", 422),
        ("[-0.0, 0, 0, 0, 0, 0, 0, 0]", 422),
        ("[1, 0, 0, 0, 0, 0, 0]", 422),
        ("[1, 0, 0, 0, 0, 0, 0, 0, 0]", 422),
        ("[[1, 0, 0, 0, 0, 0, 0, 0]]", 422),
        ('["1", 0, 0, 0, 0, 0, 0, 0]', 422),
        ("[1e-320, 0, 0, 0, 0, 0, 0, 0]", 200),
        ("[1e308, 1e308, 1e308, 1e308, 1e308, 1e308, 1e308, 1e308]", 200),
    ],
)
def test_vectors_that_are_no_vectors(service: Service, numbers: str, status: int) -> None:
    """B17: NaN, infinities, wrong lengths and zeros never reach the index."""
    response = service.post("/knn-service", content=f'{{"embedding_input": {numbers}}}')
    assert response.status_code == status
    if status == 200:
        assert all(-1.0 <= one["similarity"] <= 1.0 for one in response.json())


def test_metadata_of_rows_in_the_order_asked_for(service: Service) -> None:
    found = service.post("/metadata", json={"ids": [1, 0, 1], "indice_name": "photos"}).json()
    assert [one["id"] for one in found] == [1, 0, 1]
    assert found[0]["metadata"] == {
        "colour": "green", "number": 1, "url": "green/001.png", "caption": "a green picture", "item_id": "001-green",
    }  # fmt: skip
    assert service.post("/metadata", json={"ids": []}).json() == []
    for ids, status in (([8], 404), ([-1], 404), (["1"], 422), ([0] * 1001, 422), ([10**30], 404)):
        assert service.post("/metadata", json={"ids": ids}).status_code == status, ids
    assert service.post("/metadata", json={"ids": [0], "indice_name": "laion5B"}).status_code == 404


def test_the_indices(service: Service) -> None:
    assert service.get("/indices-list").json() == ["photos"]
