"""Everything wrong that a client may send: the right status, one clear sentence, and never an exception's text."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from sightline.errors import SightlineError
from tests.fakes import FakeEncoder, picture_bytes
from tests.service.conftest import MakeService, Service

GREEN = picture_bytes("green", (64, 64))
JPEG = picture_bytes("green", (64, 64), "JPEG")
IMAGE_ROUTES = ["/v1/image-to-text", "/v1/image-to-image", "/v1/zero-shot"]
LABELS = {"labels": ["red", "green"]}
JSON = {"content-type": "application/json"}


def encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


def check_problem(response: Any, status: int, code: str) -> str:
    """The response is a whole problem document; returns its sentence."""
    problem = response.json()
    assert (response.status_code, problem["status"], problem["code"]) == (status, status, code), problem
    assert response.headers["content-type"] == "application/problem+json"
    assert problem["request_id"] == response.headers["x-request-id"]
    sentence = problem["detail"]
    assert sentence.endswith(".")
    assert "0x7f" not in sentence
    assert "Traceback" not in sentence
    return str(sentence)


@pytest.mark.parametrize("route", IMAGE_ROUTES)
@pytest.mark.parametrize("form", ["raw", "multipart", "json"])
@pytest.mark.parametrize(
    ("data", "status", "code"),
    [
        (b"", 422, "image_corrupt"),
        (b"GIF89a", 415, "image_format"),
        (b"just words, no picture", 415, "image_format"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", 415, "image_format"),
        (b"%PDF-1.7", 415, "image_format"),
        (GREEN[:-30], 422, "image_corrupt"),
        (JPEG[: len(JPEG) // 2], 422, "image_corrupt"),
        (picture_bytes("green", (4000, 2)), 413, "image_too_large"),
        (picture_bytes("green", (17_000, 200)), 413, "image_too_large"),
    ],
    ids=["empty", "stub", "words", "svg", "pdf", "cut png", "cut jpeg", "strip", "long side"],
)  # fmt: skip
def test_what_is_no_good_picture(service: Service, route: str, form: str, data: bytes, status: int, code: str) -> None:
    """B1, B3-B5, B12: in each of the three forms, on each route."""
    more = LABELS if route == "/v1/zero-shot" else {}
    forms: dict[str, dict[str, Any]] = {
        "raw": {"content": data, "headers": {"content-type": "image/jpeg"}, "params": more},
        "multipart": {"files": {"image": data}, "data": more},
        "json": {"json": {"image": encoded(data), **more}},
    }
    check_problem(service.post(route, **forms[form]), status, code)


@pytest.mark.parametrize("route", IMAGE_ROUTES)
@pytest.mark.parametrize(
    ("content_type", "content", "status", "code"),
    [
        ("application/x-www-form-urlencoded", GREEN, 415, "unsupported_media_type"),
        ("text/plain", GREEN, 415, "unsupported_media_type"),
        ("video/mp4", GREEN, 415, "unsupported_media_type"),
        ("multipart/form-data", GREEN, 400, "malformed_body"),
        ("multipart/form-data; boundary=x", GREEN, 400, "malformed_body"),
        ("multipart/form-data; boundary=x", b"", 400, "malformed_body"),
        ("application/json", GREEN, 400, "malformed_body"),
        ("application/json", b"", 400, "malformed_body"),
        ("application/json", b'["image"]', 400, "malformed_body"),
        ("application/json", b'{"image": "%%%", "labels": ["a"]}', 400, "malformed_body"),
        ("application/json", b'{"image": 7, "labels": ["a"]}', 422, "invalid_request"),
        ("application/json", b"{}", 422, "invalid_request"),
    ],
)  # fmt: skip
def test_bodies_that_are_not_what_they_say(
    service: Service, route: str, content_type: str, content: bytes, status: int, code: str
) -> None:
    """B1"""
    if "image-to" in route and b"labels" in content:
        content = content.replace(b', "labels": ["a"]', b"")
    check_problem(service.post(route, content=content, headers={"content-type": content_type}), status, code)


@pytest.mark.parametrize("encoding", ["gzip", "br", "deflate"])
def test_compressed_bodies_are_refused(service: Service, encoding: str) -> None:
    headers = {"content-encoding": encoding}
    bodies: list[dict[str, Any]] = [{"json": {"text": "red"}}, {"content": GREEN}]
    for options in bodies:
        route = "/v1/text-to-image" if "json" in options else "/v1/image-to-image"
        check_problem(service.post(route, headers=headers, **options), 415, "unsupported_media_type")


@pytest.mark.parametrize(
    ("fields", "files", "status"),
    [
        ({}, {"picture": GREEN}, 400),
        ({}, {"image": GREEN, "image2": GREEN}, 400),
        ({"image": "text"}, {}, 400),
        ({"k": ["1", "2"]}, {"image": GREEN}, 422),
        ({"k": "many"}, {"image": GREEN}, 422),
        ({"filter": "{"}, {"image": GREEN}, 422),
        ({"filter": '{"must": 3}'}, {"image": GREEN}, 422),
        ({"min_score": "nan"}, {"image": GREEN}, 422),
        ({"colour": "red"}, {"image": GREEN}, 422),
        ({"filter": "x" * 70_000}, {"image": GREEN}, 400),
    ],
)  # fmt: skip
def test_forms_that_are_wrong(service: Service, fields: dict[str, Any], files: dict[str, bytes], status: int) -> None:
    response = service.post("/v1/image-to-image", data=fields, files=files or {"other": b""})
    assert response.status_code == status, response.text


def test_a_parameter_given_in_two_places_is_refused(service: Service) -> None:
    form = service.post("/v1/image-to-image?k=1", files={"image": GREEN}, data={"k": "2"})
    assert (
        check_problem(form, 422, "invalid_request")
        == "'k' is given twice, in the form and in the query string; give it once."
    )
    check_problem(service.post("/v1/image-to-image?k=1", json={"image": encoded(GREEN)}), 422, "invalid_request")
    check_problem(service.post("/v1/image-to-image?k=1&k=2", content=GREEN), 422, "invalid_request")


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({"text": ""}, "invalid_text"),
        ({"text": " \n\t"}, "invalid_text"),
        ({"text": ["red", ""]}, "invalid_text"),
        ({"text": "red " * 300}, "invalid_text"),
        ({"text": "r" * 101}, "invalid_text"),
        ({"text": "r" * 16_000}, "invalid_text"),
        ({"text": "word " * 200_000}, "invalid_text"),
        ({"text": "\u200b" * 101}, "invalid_text"),
        ({"text": "red", "k": 0}, "invalid_request"),
        ({"text": "red", "k": 1001}, "invalid_request"),
        ({"text": "red", "k": 2.5}, "invalid_request"),
        ({"text": "red", "k": -1}, "invalid_request"),
        ({"text": "red", "k": 10**9}, "invalid_request"),
        ({"text": "red", "k": -(10**30)}, "invalid_request"),
        ({"text": "red", "k": "a"}, "invalid_request"),
        ({"text": "red", "k": None}, "invalid_request"),
        ({"text": "red", "min_score": 1.5}, "invalid_request"),
        ({"text": "red", "limit": 3}, "invalid_request"),
        ({"text": ["red"] * 65}, "invalid_request"),
        ({"text": "red", "filter": {"must": [{"key": "x"}]}}, "invalid_query"),
        ({"text": "red", "filter": {}}, "invalid_query"),
    ],
)  # fmt: skip
def test_text_questions_that_are_wrong(service: Service, body: dict[str, Any], code: str) -> None:
    """B14, B16"""
    check_problem(service.post("/v1/text-to-image", json=body), 422, code)


def test_half_a_surrogate_pair_is_no_json(service: Service) -> None:
    """B14"""
    check_problem(service.post("/v1/text-to-image", content=b'{"text": "red \\ud800"}'), 400, "malformed_body")


@pytest.mark.parametrize(
    "text",
    [
        "red\0blue", "\u202ered \u200f\u05d0", "\U0001f600" * 60, "\U0001f468\u200d\U0001f469\u200d\U0001f467 red",
        "a" + "\u0300" * 60, "\ufdfa" * 60, "\x01\x02\x1f\x7f", "\ufeffred", "\ue000\ufffe\uffff",
        "<|endoftext|> {} %s",
    ],
    ids=["NUL", "right to left", "emoji", "family", "marks", "one for eighteen", "control", "byte order", "no signs",
         "special"],
)  # fmt: skip
def test_strange_texts_are_texts(service: Service, text: str) -> None:
    """B14: NUL, right to left, emoji, marks, private and forbidden signs."""
    answer = service.post("/v1/text-to-image", json={"text": text})
    assert answer.status_code == 200
    assert all(-1 <= result["score"] <= 1 for result in answer.json()["results"])
    assert service.post("/v1/zero-shot", json={"image": encoded(GREEN), "labels": [text, "red"]}).status_code == 200


@pytest.mark.parametrize("k", ["NaN", "1e999", "-Infinity", "1e3", "3.0"])
def test_numbers_that_are_no_counts(service: Service, k: str) -> None:
    """B16"""
    answer = service.post("/v1/text-to-image", content=f'{{"text": "red", "k": {k}}}', headers=JSON)
    assert answer.status_code in (400, 422)


@pytest.mark.parametrize(
    ("image", "status", "code"),
    [
        (encoded(GREEN)[:-5] + "!" + encoded(GREEN)[-4:], 400, "malformed_body"),
        (encoded(GREEN)[:20] + " " + encoded(GREEN)[20:], 400, "malformed_body"),
        (encoded(b"\xfb\xff" * 9).replace("+", "-").replace("/", "_"), 400, "malformed_body"),
        ("data:image/png;base64,data:image/png;base64," + encoded(GREEN), 400, "malformed_body"),
        ("data:image/png," + encoded(GREEN), 400, "malformed_body"),
        ("data:,", 400, "malformed_body"),
        ("\0" * 8, 400, "malformed_body"),
        ("data:text/html;base64," + encoded(b"<script>alert(1)</script>"), 415, "image_format"),
        ("data:image/png;base64,", 422, "image_corrupt"),
        ("=" * 4, 400, "malformed_body"),
        ("A" * 2000, 413, "image_too_large"),
        ("%" * 2000, 413, "image_too_large"),
    ],
    ids=["sign", "blank", "url-safe", "nested", "no base64", "no data", "NUL", "html", "empty", "padding", "4/3",
         "4/3, no base64"],
)  # fmt: skip
def test_base64_that_is_none_or_too_much(make_service: MakeService, image: str, status: int, code: str) -> None:
    """B13: the length is looked at before anything is decoded."""
    service = make_service(max_image_bytes=1024)
    check_problem(service.post("/v1/image-to-image", json={"image": image}), status, code)


def test_lines_in_base64_are_read_over(service: Service) -> None:
    """B13: as email and the base64 command write it."""
    lines = base64.encodebytes(GREEN).decode()
    assert service.post("/v1/image-to-image", json={"image": lines}).status_code == 200


def test_which_of_several_texts_is_wrong(service: Service) -> None:
    problem = service.post("/v1/text-to-image", json={"text": ["red", "blue", ""]}).json()
    assert problem["input"] == 2


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({}, "invalid_query"),
        ({"labels": []}, "invalid_request"),
        ({"labels": ["red", "red"]}, "invalid_query"),
        ({"labels": [""]}, "invalid_query"),
        ({"labels": [f"{n}" for n in range(1001)]}, "invalid_request"),
        ({"labels": [f"{n}" for n in range(10_001)]}, "invalid_request"),
        ({"labels": ["red", "r" * 10_000]}, "invalid_query"),
        ({"labels": [f"{n}" for n in range(200)], "templates": [f"{n} {{}}" for n in range(60)]}, "invalid_query"),
        ({"labels": ["red"], "templates": ["a photo"]}, "invalid_query"),
        ({"labels": ["red"], "templates": []}, "invalid_request"),
        ({"labels": "red"}, "invalid_request"),
        ({"labels": ["red"], "k": 3}, "invalid_request"),
    ],
)  # fmt: skip
def test_labels_that_are_wrong(service: Service, fields: dict[str, Any], code: str) -> None:
    """B15"""
    check_problem(service.post("/v1/zero-shot", json={"image": encoded(GREEN), **fields}), 422, code)


def test_routes_and_methods_that_do_not_exist(service: Service) -> None:
    check_problem(service.get("/v1/nothing"), 404, "route_not_found")
    check_problem(service.get("/v1/text-to-image/"), 404, "route_not_found")
    wrong_method = service.get("/v1/text-to-image")
    assert "use POST" in check_problem(wrong_method, 405, "method_not_allowed")
    assert wrong_method.headers["allow"] == "POST"
    of_all_routes = service.request("POST", "/v1/admin/label-sets/birds")
    assert of_all_routes.headers["allow"] == "DELETE, PUT", "two routes with the same path"
    check_problem(service.request("DELETE", "/v1/items/000-red"), 403, "live_writes_off")
    check_problem(service.request("PATCH", "/v1/items/000-red"), 405, "method_not_allowed")


@pytest.mark.parametrize("value", ["soon", "-5", "0", "1.5", "1e3", "٣", "9" * 30])
def test_a_timeout_that_is_no_number(service: Service, value: str) -> None:
    response = service.post("/v1/text-to-image", json={"text": "red"}, headers={"x-request-timeout-ms": value.encode()})
    check_problem(response, 422, "invalid_query")


class SecretError(Exception):
    pass


def raise_secret(modality: str, batch: object) -> None:
    if len(batch) and "poison" in str(batch):  # type: ignore[arg-type]
        raise SecretError("0x7f3a /home/somebody/weights.safetensors")


def test_an_encoders_failure_is_told_without_its_text(make_service: MakeService) -> None:
    """R9"""
    service = make_service(encoder=FakeEncoder(before_encode=raise_secret))
    response = service.post("/v1/text-to-image", json={"text": ["red", "poison"]})
    check_problem(response, 500, "encoding_failed")
    assert "somebody" not in response.text
    assert service.post("/v1/text-to-image", json={"text": "red"}).status_code == 200


def test_a_fault_of_ours_is_told_without_its_text_and_logged(
    make_service: MakeService, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    service = make_service()

    def fail(row: int) -> None:
        raise SecretError("0x7f3a /home/somebody/metadata.parquet")

    monkeypatch.setattr(service.engine.snapshot.generation, "item", fail)
    response = service.get("/v1/items/000-red", headers={"x-request-id": "my-request"})
    assert check_problem(response, 500, "internal").startswith("The service failed")
    assert "somebody" not in response.text
    assert "my-request" in caplog.text
    assert "SecretError" in caplog.text


def test_an_operators_error_is_told_without_its_sentence_and_logged(
    make_service: MakeService, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    service = make_service()

    class Broken(SightlineError):
        code = "broken_for_this_test"

    def fail(row: int) -> None:
        raise Broken("The disk /dev/secret is gone.")

    monkeypatch.setattr(service.engine.snapshot.generation, "item", fail)
    response = service.get("/v1/items/000-red")
    check_problem(response, 500, "broken_for_this_test")
    assert "secret" not in response.text
    assert "/dev/secret" in caplog.text


def test_metadata_that_json_cannot_say_is_still_answered(
    make_service: MakeService, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dataclasses import replace

    service = make_service()
    generation = service.engine.snapshot.generation
    whole = generation.item
    odd = {"score": float("nan"), "list": [float("inf"), 1], "text": "\ud800"}
    monkeypatch.setattr(generation, "item", lambda row: replace(whole(row), metadata=odd))
    answer = json.loads(service.get("/v1/items/000-red").content)
    assert answer["item"]["metadata"] == {"score": None, "list": [None, 1], "text": "\ud800"}
