"""Labels registered by name: through the API, from a file, and the answer 'none of these'."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from service.label_sets import MAX_LABEL_SETS, read_label_sets
from service.openapi import schemas
from sightline.errors import SettingError
from tests.fakes import FakeEncoder, picture_bytes
from tests.service.conftest import MakeService, Service

GREEN = picture_bytes("green")
COLOURS = {"labels": ["red", "green", "blue"], "templates": ["{}", "all {}"]}
FILE = """\
[colours]
labels = ["red", "green"]
none_threshold = 0.9

["v1.2-other"]
labels = ["yellow"]
templates = ["{}"]
"""


def put(service: Service, name: str, spec: object) -> Any:
    return service.request("PUT", f"/v1/admin/label-sets/{name}", json=spec)


def classify(service: Service, **parameters: object) -> Any:
    return service.post("/v1/zero-shot", json={"image": base64.b64encode(GREEN).decode(), **parameters})


def counting(texts: list[str]) -> FakeEncoder:
    return FakeEncoder(before_encode=lambda modality, batch: texts.extend(batch) if modality == "text" else None)


def test_a_set_is_encoded_once_and_asked_for_by_name(make_service: MakeService) -> None:
    texts: list[str] = []
    service = make_service(encoder=counting(texts))
    texts.clear()
    made = schemas.LabelSetAnswer.model_validate(put(service, "colours", COLOURS).json())
    assert (made.label_set.labels, made.label_set.origin) == (COLOURS["labels"], "api")
    assert sorted(texts) == sorted(["red", "all red", "green", "all green", "blue", "all blue"])
    texts.clear()
    by_name = [
        classify(service, label_set="colours"),
        service.post("/v1/zero-shot", files={"image": GREEN}, data={"label_set": "colours"}),
        service.post("/v1/zero-shot", content=GREEN, params={"label_set": "colours"}),
    ]
    assert texts == []
    given = classify(service, **COLOURS).json()
    for answer in by_name:
        assert answer.json() == given
    assert given["none"] is None
    assert service.metric("sightline_label_sets") == 1


def test_sets_are_listed_shown_replaced_and_deleted(make_service: MakeService) -> None:
    service = make_service()
    put(service, "b", COLOURS)
    put(service, "a", {"labels": ["red"], "none_threshold": 0.5})
    listed = schemas.LabelSetsAnswer.model_validate(service.get("/v1/label-sets").json()).label_sets
    assert [(one.name, one.num_labels, one.num_templates, one.none_threshold) for one in listed] == [
        ("a", 1, 2, 0.5), ("b", 3, 2, None),
    ]  # fmt: skip
    put(service, "a", {"labels": ["blue"]})
    assert service.get("/v1/label-sets/a").json()["label_set"]["labels"] == ["blue"]
    assert service.request("DELETE", "/v1/admin/label-sets/a").json()["label_set"]["labels"] == ["blue"]
    for response in (
        service.get("/v1/label-sets/a"),
        service.request("DELETE", "/v1/admin/label-sets/a"),
        classify(service, label_set="a"),
    ):
        assert (response.status_code, response.json()["code"]) == (404, "not_found")


@pytest.mark.parametrize(
    ("name", "spec", "code"),
    [
        ("a b", COLOURS, "invalid_query"),
        ("x" * 65, COLOURS, "invalid_query"),
        ("-a", COLOURS, "invalid_query"),
        ("a", {"labels": []}, "invalid_request"),
        ("a", {"labels": ["x", "x"]}, "invalid_query"),
        ("a", {"labels": ["x" * 257]}, "invalid_query"),
        ("a", {"labels": ["x"], "templates": ["no place"]}, "invalid_query"),
        ("a", {"labels": [f"l{n}" for n in range(1001)]}, "invalid_request"),
        ("a", {"labels": ["x"], "none_threshold": 1.5}, "invalid_request"),
        ("a", {"labels": ["x"], "colour": 1}, "invalid_request"),
        ("a", {"labels": ["w" * 101]}, "invalid_text"),
    ],
)
def test_sets_that_are_refused(service: Service, name: str, spec: object, code: str) -> None:
    """B15: every limit is named, and nothing is registered."""
    response = put(service, name, spec)
    assert (response.status_code, response.json()["code"]) == (422, code)
    assert service.get("/v1/label-sets").json() == {"label_sets": []}


@pytest.mark.parametrize(
    "parameters",
    [
        {},
        {"labels": ["red"], "label_set": "colours"},
        {"label_set": "colours", "templates": ["{}"]},
        {"labels": ["red"], "none_threshold": 2},
    ],
)
def test_questions_that_contradict_themselves(make_service: MakeService, parameters: dict[str, object]) -> None:
    service = make_service()
    put(service, "colours", COLOURS)
    assert classify(service, **parameters).status_code == 422


def test_the_number_of_sets_is_bounded(make_service: MakeService) -> None:
    service = make_service()
    for number in range(MAX_LABEL_SETS):
        assert put(service, f"set-{number}", {"labels": ["red"]}).status_code == 200
    refused = put(service, "one-more", {"labels": ["red"]})
    assert (refused.status_code, refused.json()["limit_label_sets"]) == (422, MAX_LABEL_SETS)
    assert put(service, "set-0", {"labels": ["blue"]}).status_code == 200
    assert service.get("/v1/limits").json()["max_label_sets"] == MAX_LABEL_SETS


def test_the_file_is_encoded_before_the_service_is_ready(make_service: MakeService, tmp_path: Path) -> None:
    (tmp_path / "sets.toml").write_text(FILE)
    texts: list[str] = []
    service = make_service(encoder=counting(texts), label_sets_file=tmp_path / "sets.toml")
    assert "a photo of a green." in texts
    texts.clear()
    answer = classify(service, label_set="colours").json()
    assert (answer["results"][0]["label"], answer["none"]) == ("green", False)
    assert texts == []
    for response in (put(service, "colours", COLOURS), service.request("DELETE", "/v1/admin/label-sets/colours")):
        assert response.status_code == 422
        assert "label_sets_file" in response.json()["detail"]
    assert {one["origin"] for one in service.get("/v1/label-sets").json()["label_sets"]} == {"file"}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("labels", "not valid TOML"),
        ("[a]\nlabels = 3", "a.labels"),
        ("[a]\nlabels = ['x']\ncolour = 1", "a.colour"),
        ("['a b']\nlabels = ['x']", "letters"),
        ("a = 1", "a"),
    ],
)
def test_a_file_that_is_wrong_says_where(tmp_path: Path, content: str, said: str) -> None:
    (tmp_path / "sets.toml").write_text(content)
    with pytest.raises(SettingError, match=said):
        read_label_sets(tmp_path / "sets.toml")
    with pytest.raises(SettingError, match="cannot be read"):
        read_label_sets(tmp_path / "nowhere.toml")


def test_labels_of_the_file_are_checked_at_start(make_service: MakeService, tmp_path: Path) -> None:
    (tmp_path / "sets.toml").write_text("[a]\nlabels = ['x', 'x']")
    with pytest.raises(SettingError, match=r"label set a .*twice"):
        make_service(label_sets_file=tmp_path / "sets.toml")


@pytest.mark.parametrize(
    ("threshold", "labels", "none"),
    [
        (0.9, ["red", "green"], False),
        (0.9, ["red", "blue"], True),
        (-1.0, ["red", "blue"], False),
        (None, ["red"], None),
    ],
)
def test_none_of_these_is_about_the_score_with_softmax(
    service: Service, threshold: float | None, labels: list[str], none: bool | None
) -> None:
    """One wrong label alone has the probability 1, and its score still says no."""
    answer = classify(service, labels=labels, templates=["{}"], none_threshold=threshold).json()
    assert answer["none"] is none
    assert len(answer["results"]) == len(labels)


def test_none_of_these_is_about_the_probability_with_sigmoid(make_service: MakeService) -> None:
    service = make_service(encoder=FakeEncoder(kind="sigmoid", scale=20.0, bias=-10.0))
    assert classify(service, labels=["green"], none_threshold=0.5).json()["none"] is False
    assert classify(service, labels=["red"], none_threshold=0.5).json()["none"] is True
    assert classify(service, labels=["red"], none_threshold=-0.5).status_code == 422
    put(service, "reds", {"labels": ["red"], "none_threshold": 0.5})
    assert classify(service, label_set="reds").json()["none"] is True
    assert classify(service, label_set="reds", none_threshold=0.0).json()["none"] is False


def test_a_matrix_is_made_of_unit_vectors(make_service: MakeService) -> None:
    service = make_service()
    put(service, "colours", COLOURS)
    matrix = service.engine.classifier.sets.get("colours").matrix  # [L, D]
    np.testing.assert_allclose(np.linalg.norm(matrix, axis=1), 1.0, atol=1e-6)
