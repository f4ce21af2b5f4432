"""The document describes every route whole, and its examples are true."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel

from service.label_sets import LabelSetSpec
from service.openapi import dialects, examples, schemas
from tests.service.conftest import Service

METHODS = {"get", "post", "put", "delete", "patch"}


@pytest.fixture(scope="module")
def document(service: Service) -> dict[str, Any]:
    found: dict[str, Any] = service.get("/openapi.json").json()
    return found


def operations(document: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    return [
        (f"{method} {path}", operation)
        for path, entry in document["paths"].items()
        for method, operation in entry.items()
        if method in METHODS
    ]


def test_every_route_is_described_whole(document: dict[str, Any]) -> None:
    tags = {tag["name"] for tag in document["tags"]}
    for name, operation in operations(document):
        assert operation["summary"], name
        assert len(operation["description"]) > 20, name
        assert set(operation["tags"]) <= tags, name
        assert operation["operationId"].isidentifier(), name
        assert "200" in operation["responses"], name
        assert "HTTPValidationError" not in str(operation), name


def test_operation_ids_are_stable(document: dict[str, Any]) -> None:
    assert {name: operation["operationId"] for name, operation in operations(document)} == {
        "post /v1/text-to-image": "textToImage",
        "post /v1/image-to-text": "imageToText",
        "post /v1/image-to-image": "imageToImage",
        "post /v1/zero-shot": "zeroShot",
        "get /v1/label-sets": "listLabelSets",
        "get /v1/label-sets/{name}": "getLabelSet",
        "put /v1/admin/label-sets/{name}": "putLabelSet",
        "delete /v1/admin/label-sets/{name}": "deleteLabelSet",
        "post /v1/embeddings": "createEmbeddings",
        "get /v1/models": "listModels",
        "get /v1/items/{item_id}/thumbnail": "getThumbnail",
        "get /v1/items/{item_id}": "getItem",
        "put /v1/items/{item_id}": "putItem",
        "delete /v1/items/{item_id}": "deleteItem",
        "get /v1/collections": "listCollections",
        "get /v1/limits": "getLimits",
        "post /knn-service": "knnService",
        "post /metadata": "knnMetadata",
        "get /indices-list": "listIndices",
        "post /v1/admin/reload": "reloadGeneration",
        "post /v1/admin/rollback": "rollbackGeneration",
        "post /v1/admin/compact": "compactChanges",
        "get /livez": "live",
        "get /readyz": "ready",
        "get /metrics": "metrics",
    }


def test_picture_routes_document_their_three_forms(document: dict[str, Any]) -> None:
    for path in ("/v1/image-to-text", "/v1/image-to-image", "/v1/zero-shot"):
        operation = document["paths"][path]["post"]
        forms = operation["requestBody"]["content"]
        assert set(forms) == {"image/*", "application/octet-stream", "multipart/form-data", "application/json"}
        assert "image" in forms["multipart/form-data"]["schema"]["required"]
        in_query = {parameter["name"] for parameter in operation["parameters"]}
        assert in_query == set(forms["multipart/form-data"]["schema"]["properties"]) - {"image"}


def test_every_reference_leads_somewhere(document: dict[str, Any]) -> None:
    found: list[str] = []

    def walk(value: Any) -> None:
        if isinstance(value, dict):
            if isinstance(value.get("$ref"), str):
                found.append(value["$ref"])
            for one in value.values():
                walk(one)
        elif isinstance(value, list):
            for one in value:
                walk(one)

    walk(document)
    assert found
    for reference in set(found):
        place: Any = document
        for part in reference.removeprefix("#/").split("/"):
            place = place[part]


BODIES: dict[str, type[BaseModel]] = {
    "TextToImageBody": schemas.TextToImageBody,
    "ImageSearchBody": schemas.ImageSearchBody,
    "ZeroShotBody": schemas.ZeroShotBody,
    "EmbeddingsBody": dialects.EmbeddingsBody,
    "KnnServiceBody": dialects.KnnServiceBody,
    "ReloadBody": schemas.ReloadBody,
    "MetadataBody": dialects.MetadataBody,
    "LabelSetSpec": LabelSetSpec,
    "ItemBody": schemas.ItemBody,
}


def test_every_body_example_is_a_valid_body(document: dict[str, Any]) -> None:
    seen = 0
    for _, operation in operations(document):
        content = operation.get("requestBody", {}).get("content", {}).get("application/json")
        if content is not None:
            model = BODIES[content["schema"]["$ref"].rpartition("/")[2]]
            for example in content["examples"].values():
                model.model_validate(example["value"], strict=True)
                seen += 1
    assert seen >= 10


def test_every_example_is_answered(service: Service) -> None:
    for body in examples.TEXT_TO_IMAGE.values():
        assert service.post("/v1/text-to-image", json=body).status_code == 200
    for body in examples.IMAGE_SEARCH.values():
        assert service.post("/v1/image-to-image", json=body).status_code == 200
    for body in examples.ZERO_SHOT.values():
        assert service.post("/v1/zero-shot", json=body).status_code == 200
    for body in examples.EMBEDDINGS.values():
        assert service.post("/v1/embeddings", json=body).status_code == 200
    for body in examples.KNN_SERVICE.values():
        assert service.post("/knn-service", json=body).status_code == 200
    for body in examples.METADATA.values():
        assert service.post("/metadata", json=body).status_code == 200


def test_every_answer_example_validates_against_its_schema(document: dict[str, Any]) -> None:
    answers: dict[str, type[BaseModel]] = {
        "SearchAnswer": schemas.SearchAnswer, "TextToImageAnswer": schemas.TextToImageAnswer,
        "LabelSetsAnswer": schemas.LabelSetsAnswer, "LabelSetAnswer": schemas.LabelSetAnswer,
        "ZeroShotAnswer": schemas.ZeroShotAnswer, "EmbeddingsAnswer": dialects.EmbeddingsAnswer,
        "ModelsAnswer": dialects.ModelsAnswer, "ItemAnswer": schemas.ItemAnswer,
        "CollectionsAnswer": schemas.CollectionsAnswer, "LimitsAnswer": schemas.LimitsAnswer, "Status": schemas.Status,
        "ChangeAnswer": schemas.ChangeAnswer, "WrittenAnswer": schemas.WrittenAnswer,
        "CompactAnswer": schemas.CompactAnswer,
    }  # fmt: skip
    seen = set()
    for name, operation in operations(document):
        content = operation["responses"]["200"].get("content", {}).get("application/json", {})
        model = answers.get(content.get("schema", {}).get("$ref", "").rpartition("/")[2])
        if model is not None:
            model.model_validate(content["example"])
            seen.add(model.__name__)
        else:
            assert name.partition(" ")[2] in (
                "/v1/items/{item_id}/thumbnail",
                "/metrics",
                "/knn-service",
                "/metadata",
                "/indices-list",
            )
    assert seen == set(answers)


def test_every_problem_example_is_one_that_is_sent(document: dict[str, Any]) -> None:
    seen = 0
    for name, operation in operations(document):
        for status, response in operation["responses"].items():
            for kind, content in response.get("content", {}).items():
                for code, example in content.get("examples", {}).items():
                    value = example["value"]
                    if kind == "application/problem+json":
                        assert (value["status"], value["code"]) == (int(status), code), name
                        assert not value["detail"].startswith("One sentence"), code
                    else:
                        assert dialects.OpenAIError.model_validate(value).error.code == code, name
                    seen += 1
    assert seen > 50
