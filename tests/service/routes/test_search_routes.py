"""Searching with texts and pictures, over ASGI, against a real collection of flat pictures."""

from __future__ import annotations

import asyncio
import base64
import json
from pathlib import Path

import pytest

from service.openapi import schemas
from tests.fakes import COLOURS, FINGERPRINT, FakeEncoder, build_fake_collection, picture_bytes
from tests.service.conftest import MakeService, Service

GREEN = picture_bytes("green")
GREEN_BASE64 = base64.b64encode(GREEN).decode()


def ids(results: list[dict[str, object]]) -> list[object]:
    return [result["id"] for result in results]


def test_a_word_finds_the_picture_of_its_colour(service: Service) -> None:
    response = service.post("/v1/text-to-image", json={"text": "a red car", "k": 3})
    answer = schemas.SearchAnswer.model_validate_json(response.content)
    best = answer.results[0]
    assert (best.id, best.caption, best.uri) == ("000-red", "a red picture", "red/000.png")
    assert best.metadata == {"colour": "red", "number": 0}
    assert best.score == pytest.approx(1.0, abs=1e-3)
    assert [result.score for result in answer.results] == sorted((r.score for r in answer.results), reverse=True)
    assert len(answer.results) == 3


def test_every_answer_says_what_it_was_computed_from(service: Service) -> None:
    answer = service.post("/v1/text-to-image", json={"text": "red"}).json()
    assert (answer["collection"], answer["generation"], answer["encoder"]) == ("photos", "gen-000001", FINGERPRINT)


def test_several_texts_give_several_lists_in_their_order(service: Service) -> None:
    response = service.post("/v1/text-to-image", json={"text": ["blue", "red", "blue"], "k": 1})
    answer = schemas.TextToImageAnswer.model_validate_json(response.content)
    lists = [found for found in answer.results if isinstance(found, list)]
    assert [[result.id for result in found] for found in lists] == [["002-blue"], ["000-red"], ["002-blue"]]


def test_a_list_of_one_text_gives_a_list_of_lists(service: Service) -> None:
    answer = service.post("/v1/text-to-image", json={"text": ["blue"], "k": 1}).json()
    assert ids(answer["results"][0]) == ["002-blue"]


@pytest.mark.parametrize(
    "options",
    [
        {"content": GREEN, "headers": {"content-type": "image/png"}, "params": {"k": 2}},
        {"content": GREEN, "headers": {"content-type": "application/octet-stream"}, "params": {"k": "2"}},
        {"content": GREEN, "params": {"k": 2}},
        {"files": {"image": ("../../x.png", GREEN, "text/html")}, "data": {"k": "2"}},
        {"files": {"image": GREEN}, "params": {"k": 2}},
        {"json": {"image": GREEN_BASE64, "k": 2}},
        {"json": {"image": f"data:image/png;base64,{GREEN_BASE64}", "k": 2}},
        {"content": picture_bytes("green", (3000, 2000), "BMP"), "params": {"k": 2}},
        {"json": {"image": base64.b64encode(picture_bytes("green", (300, 200), "BMP")).decode(), "k": 2}},
    ],
    ids=["raw", "octets", "untyped", "multipart", "multipart+query", "base64", "data-uri", "large", "large-json"],
)
@pytest.mark.parametrize("route", ["/v1/image-to-image", "/v1/image-to-text"])
def test_a_picture_in_every_form(service: Service, route: str, options: dict[str, object]) -> None:
    response = service.post(route, **options)
    answer = schemas.SearchAnswer.model_validate_json(response.content)
    assert answer.results[0].id == "001-green"
    assert answer.results[0].caption == "a green picture"
    assert len(answer.results) == 2


def test_image_to_text_gives_the_captions_that_matched(make_service: MakeService, tmp_path: Path) -> None:
    collection = build_fake_collection(tmp_path / "photos", ["red", "green"], captions_per_item=3)
    answer = make_service(collection=collection).post("/v1/image-to-text?k=3", content=GREEN).json()
    found = {(result["id"], result["caption"]) for result in answer["results"]}
    captions = {"a green picture", "green all over", "nothing but green"}
    assert found == {("001-green", caption) for caption in captions}


def test_a_collection_without_captions_says_so(make_service: MakeService, tmp_path: Path) -> None:
    collection = build_fake_collection(tmp_path / "photos", ["red"], captions_per_item=0)
    service = make_service(collection=collection)
    response = service.post("/v1/image-to-text", content=GREEN)
    assert (response.status_code, response.json()["code"]) == (422, "invalid_query")
    assert service.post("/v1/image-to-image", content=GREEN).json()["results"][0]["caption"] is None


FILTER = {"must": [{"key": "number", "range": {"gte": 4}}], "must_not": [{"key": "colour", "match": "cyan"}]}


def test_a_filter_is_exact_for_pictures_and_captions(service: Service) -> None:
    allowed = {f"{n:03d}-{colour}" for n, colour in enumerate(COLOURS) if n >= 4 and colour != "cyan"}
    by_text = service.post("/v1/text-to-image", json={"text": "red", "k": 100, "filter": FILTER}).json()
    by_form = service.post("/v1/image-to-text", files={"image": GREEN}, data={"filter": json.dumps(FILTER), "k": "100"})
    by_query = service.post("/v1/image-to-image", content=GREEN, params={"filter": json.dumps(FILTER), "k": "100"})
    for answer in (by_text, by_form.json(), by_query.json()):
        assert set(ids(answer["results"])) == allowed


def test_scores_below_min_score_are_left_out(service: Service) -> None:
    answer = service.post("/v1/text-to-image", json={"text": "red", "k": 100, "min_score": 0.3}).json()
    assert 1 <= len(answer["results"]) < len(COLOURS)
    assert all(result["score"] >= 0.3 for result in answer["results"])


def test_scores_are_cosines_even_where_half_precision_says_more(service: Service) -> None:
    scores = [
        result["score"]
        for colour in COLOURS
        for result in service.post("/v1/text-to-image", json={"text": colour, "k": 100}).json()["results"]
    ]
    assert max(scores) <= 1.0
    assert min(scores) >= -1.0


def test_k_beyond_the_collection_gives_what_there_is(service: Service) -> None:
    answer = service.post("/v1/text-to-image", json={"text": "red", "k": 1000}).json()
    assert len(answer["results"]) == len(COLOURS)


def test_an_item_id_with_any_sign_leads_to_its_thumbnail(service: Service) -> None:
    thumbnail = service.post("/v1/text-to-image", json={"text": "red", "k": 1}).json()["results"][0]["thumbnail"]
    assert service.get(thumbnail).headers["content-type"] == "image/webp"


def test_concurrent_requests_share_batches_and_get_their_own_answers(make_service: MakeService) -> None:
    sizes: list[int] = []
    encoder = FakeEncoder(before_encode=lambda modality, batch: sizes.append(len(batch)))
    service = make_service(encoder=encoder)
    sizes.clear()
    colours = list(COLOURS) * 8

    async def ask() -> list[str]:
        async with service.client() as client:
            answers = await asyncio.gather(
                *(
                    client.post("/v1/text-to-image", json={"text": f"{colour} {number}", "k": 1})
                    for number, colour in enumerate(colours)
                )
            )
        return [answer.json()["results"][0]["metadata"]["colour"] for answer in answers]

    assert asyncio.run(ask()) == colours
    assert sum(sizes) == len(colours)


def test_the_answer_says_where_the_time_went(make_service: MakeService) -> None:
    service = make_service()  # nothing is in its cache
    response = service.post("/v1/image-to-image", content=GREEN)
    stages = [part.split(";")[0] for part in response.headers["server-timing"].split(", ")]
    assert stages == ["receive", "decode", "encode", "search", "serialise", "total"]
