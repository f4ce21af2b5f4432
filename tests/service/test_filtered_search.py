"""Filters against an adversary, through the routes: what is not allowed is never found, however near it is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.fakes import COLOURS, FakeEncoder, build_fake_collection, picture_bytes
from tests.service.conftest import MakeService, Service

FARTHEST = "cyan"  # from red
ROUTES = ["/v1/text-to-image", "/v1/image-to-image", "/v1/image-to-text"]


def search(service: Service, route: str, where: object, **parameters: Any) -> list[dict[str, Any]]:
    """The results of looking for red."""
    if route == "/v1/text-to-image":
        response = service.post(route, json={"text": "red", "filter": where, **parameters})
    else:
        body = picture_bytes("red")
        response = service.post(route, files={"image": body}, data={"filter": json.dumps(where), **parameters})
    assert response.status_code == 200, response.text
    results: list[dict[str, Any]] = response.json()["results"]
    return results


def match(key: str, value: object) -> dict[str, object]:
    return {"must": [{"key": key, "match": value}]}


def test_cyan_is_indeed_the_farthest() -> None:
    red, *others = FakeEncoder().encode_texts(["red", *COLOURS])
    assert list(COLOURS)[int(np.argmin(np.stack(others) @ red))] == FARTHEST


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("k", [1, 2, 1000])
def test_only_the_farthest_is_allowed(service: Service, route: str, k: int) -> None:
    """B16: k beyond what is allowed gives what is allowed."""
    found = search(service, route, match("colour", FARTHEST), k=k)
    assert [one["metadata"]["colour"] for one in found] == [FARTHEST]


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize(
    "where", [match("colour", "no such colour"), match("no such key", 1), match("number", "1"), match("number", True)]
)
def test_none_is_allowed(service: Service, route: str, where: object) -> None:
    assert search(service, route, where, k=10) == []


@pytest.mark.parametrize("route", ROUTES)
def test_the_score_counts_among_what_is_allowed(service: Service, route: str) -> None:
    assert search(service, route, match("colour", FARTHEST), k=10, min_score=0.0) == []
    both = {"should": [{"key": "colour", "any": [FARTHEST, "red"]}]}
    assert [one["metadata"]["colour"] for one in search(service, route, both, k=10, min_score=0.0)] == ["red"]
    assert len(search(service, route, both, k=10, min_score=-1.0)) == 2


def test_all_but_the_nearest(service: Service) -> None:
    where = {"must_not": [{"key": "colour", "match": "red"}]}
    found = [one["metadata"]["colour"] for one in search(service, "/v1/text-to-image", where, k=1000)]
    assert sorted(found) == sorted(set(COLOURS) - {"red"})


def test_captions_follow_their_pictures(make_service: MakeService, tmp_path: Path) -> None:
    collection = build_fake_collection(tmp_path / "photos", ["red", "cyan", "red"], captions_per_item=3)
    service = make_service(collection=collection)
    found = search(service, "/v1/image-to-text", match("number", 1), k=1000)
    assert {one["id"] for one in found} == {"001-cyan"}
    assert len(found) == 3
