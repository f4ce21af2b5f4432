"""Putting items and deleting them while they are served."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from service.openapi import examples, schemas
from sightline.collection import open_collection
from tests.fakes import FINGERPRINT, build_fake_collection, picture_bytes
from tests.service.conftest import MakeService, Service

COLOURS = ("red", "green", "blue")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    build_fake_collection(tmp_path / "photos", COLOURS)
    return tmp_path / "photos"


@pytest.fixture
def live(make_service: MakeService, photos: Path) -> Service:
    return make_service(collection=open_collection(photos), live_writes=True)


def put(service: Service, item_id: str, colour: str, **fields: Any) -> Any:
    body = {"image": base64.b64encode(picture_bytes(colour)).decode(), **fields}
    return service.request("PUT", f"/v1/items/{item_id}", json=body)


def found(service: Service, text: str, k: int = 10, **fields: Any) -> list[str]:
    answer = service.post("/v1/text-to-image", json={"text": text, "k": k, **fields})
    assert answer.status_code == 200, answer.text
    return [one["id"] for one in answer.json()["results"]]


def test_a_new_item_is_found_at_once_by_every_search(live: Service) -> None:
    answer = put(live, "new/one", "yellow", captions=["a yellow thing"], metadata={"year": 2024}, uri="a/b.png")
    assert answer.status_code == 201
    written = schemas.WrittenAnswer.model_validate_json(answer.content)
    assert (written.id, written.status, written.sequence) == ("new/one", "created", 1)
    assert (written.generation, written.encoder) == ("gen-000001", FINGERPRINT)
    assert found(live, "yellow", 1) == ["new/one"]
    alike = live.post("/v1/image-to-image?k=1", content=picture_bytes("yellow")).json()["results"][0]
    assert (alike["id"], alike["caption"], alike["uri"], alike["metadata"]) == (
        "new/one", "a yellow thing", "a/b.png", {"year": 2024},
    )  # fmt: skip
    assert alike["score"] == pytest.approx(1.0, abs=2e-3)
    texts = live.post("/v1/image-to-text?k=1", content=picture_bytes("yellow")).json()["results"][0]
    assert (texts["id"], texts["caption"]) == ("new/one", "a yellow thing")
    item = schemas.ItemAnswer.model_validate_json(live.get("/v1/items/new/one").content).item
    assert (item.captions, item.width_px, item.height_px) == (["a yellow thing"], 32, 24)
    thumbnail = live.get(item.thumbnail)
    assert Image.open(io.BytesIO(thumbnail.content)).format == "WEBP"
    again = live.get(item.thumbnail, headers={"if-none-match": thumbnail.headers["etag"]})
    assert again.status_code == 304
    (entry,) = live.get("/v1/collections").json()["collections"]
    assert (entry["num_items"], entry["num_captions"]) == (4, 4)
    knn = live.post("/knn-service", json={"text": "yellow", "num_images": 1}).json()
    assert knn[0]["item_id"] == "new/one"
    (known,) = live.post("/metadata", json={"ids": [knn[0]["id"]]}).json()
    assert known["metadata"]["item_id"] == "new/one"


def test_replacing_an_indexed_item_hides_what_it_was(live: Service) -> None:
    before = live.get("/v1/items/000-red/thumbnail")
    answer = put(live, "000-red", "magenta", captions=["all magenta"])
    assert (answer.status_code, answer.json()["status"]) == (200, "replaced")
    assert live.post("/v1/text-to-image", json={"text": "red", "k": 1}).json()["results"][0]["score"] < 0.9
    assert found(live, "magenta", 1) == ["000-red"]
    assert sorted(found(live, "anything")) == ["000-red", "001-green", "002-blue"]
    item = live.get("/v1/items/000-red").json()["item"]
    assert (item["captions"], item["metadata"], item["uri"]) == (["all magenta"], {}, "000-red")
    captions = live.post("/v1/image-to-text?k=10", content=picture_bytes("red")).json()["results"]
    assert sorted(one["caption"] for one in captions) == ["a blue picture", "a green picture", "all magenta"]
    after = live.get("/v1/items/000-red/thumbnail", headers={"if-none-match": before.headers["etag"]})
    assert after.status_code == 200 and after.content != before.content


def test_deleting(live: Service) -> None:
    answer = live.request("DELETE", "/v1/items/001-green")
    assert (answer.status_code, answer.json()["status"]) == (200, "deleted")
    schemas.WrittenAnswer.model_validate_json(answer.content)
    assert found(live, "green") and "001-green" not in found(live, "green")
    for path in ("/v1/items/001-green", "/v1/items/001-green/thumbnail"):
        assert live.get(path).status_code == 404
    captions = live.post("/v1/image-to-text?k=10", content=picture_bytes("green")).json()["results"]
    assert "001-green" not in {one["id"] for one in captions}
    assert live.post("/metadata", json={"ids": [1]}).status_code == 404
    again = live.request("DELETE", "/v1/items/001-green")
    assert (again.status_code, again.json()["code"]) == (404, "not_found")
    assert live.request("DELETE", "/v1/items/never-there").status_code == 404
    put(live, "brief", "white")
    assert live.request("DELETE", "/v1/items/brief").status_code == 200
    assert "brief" not in found(live, "white")
    assert put(live, "001-green", "green").status_code == 201
    assert found(live, "green", 1) == ["001-green"]


def test_the_same_again_changes_nothing(live: Service) -> None:
    for status in (201, 200, 200):
        assert put(live, "one", "cyan", captions=["cyan"]).status_code == status
    assert found(live, "cyan").count("one") == 1
    assert live.metric("sightline_live_changes") == 1
    assert live.metric("sightline_live_writes_total", kind="put") == 3
    assert live.metric("sightline_live_sequence") == 3
    assert live.metric("sightline_index_vectors", kind="image") == 4
    assert live.metric("sightline_live_log_bytes") > 0


def test_filters_see_live_items_and_not_what_they_replaced(live: Service) -> None:
    put(live, "one", "yellow", metadata={"number": 1, "kind": "live"})
    put(live, "002-blue", "blue", metadata={"number": 7})
    for number, expected in ((0, ["000-red"]), (1, ["001-green", "one"]), (2, []), (7, ["002-blue"])):
        where = {"must": [{"key": "number", "match": number}]}
        assert sorted(found(live, "red", filter=where)) == expected
    by_kind = {"must": [{"key": "kind", "match": "live"}]}
    assert found(live, "red", filter=by_kind) == ["one"]
    texts = live.post("/v1/image-to-text", json={"image": _base64("red"), "filter": by_kind}).json()
    assert texts["results"] == []


def _base64(colour: str) -> str:
    return base64.b64encode(picture_bytes(colour)).decode()


def test_a_form_and_a_raw_body(live: Service) -> None:
    form = live.request(
        "PUT", "/v1/items/form", files={"image": ("x.png", picture_bytes("yellow"))},
        data={"captions": ["one", "two"], "metadata": '{"year": 2024}', "uri": "x.png"},
    )  # fmt: skip
    assert form.status_code == 201, form.text
    item = live.get("/v1/items/form").json()["item"]
    assert (item["captions"], item["metadata"], item["uri"]) == (["one", "two"], {"year": 2024}, "x.png")
    raw = live.request("PUT", "/v1/items/raw?captions=a%20word", content=picture_bytes("cyan"))
    assert raw.status_code == 201
    assert live.get("/v1/items/raw").json()["item"]["captions"] == ["a word"]


def test_a_restart_knows_what_was_written(live: Service, make_service: MakeService, photos: Path) -> None:
    put(live, "one", "yellow", captions=["y"])
    live.request("DELETE", "/v1/items/000-red")
    live.engine.close()
    for writes in (False, True):
        again = make_service(collection=open_collection(photos), live_writes=writes)
        assert found(again, "yellow", 1) == ["one"]
        assert again.get("/v1/items/one/thumbnail").status_code == 200
        assert again.get("/v1/items/000-red").status_code == 404
        again.engine.close()


def test_one_process_writes(live: Service, make_service: MakeService, photos: Path) -> None:
    from sightline.errors import LiveLogLocked

    with pytest.raises(LiveLogLocked, match="Another process writes the live changes"):
        make_service(collection=open_collection(photos), live_writes=True)
    reader = make_service(collection=open_collection(photos), watch_collection_seconds=0.01)
    put(live, "one", "yellow")
    reader.engine.live._looked = 0.0
    reader.engine.live.look(0.01)
    assert found(reader, "yellow", 1) == ["one"]


def test_writing_is_off_by_default(service: Service) -> None:
    for answer in (put(service, "one", "yellow"), service.request("DELETE", "/v1/items/000-red")):
        problem = answer.json()
        assert (answer.status_code, problem["code"]) == (403, "live_writes_off")
        assert "--set live_writes=true" in problem["detail"]
    assert service.post("/v1/admin/compact").status_code == 403


@pytest.mark.parametrize(
    "item_id",
    ["a/thumbnail", "..", "a%2F..%2Fb", "a//b", "x" * 201, "caf%C3%A9", "a%20b", "a%00", "%2e%2e%2fetc", "."],
)
def test_ids_that_are_refused(live: Service, item_id: str) -> None:
    answer = live.request("PUT", f"/v1/items/{item_id}", content=picture_bytes("red"))
    assert answer.status_code in (404, 405, 422), answer.text
    assert live.metric("sightline_live_changes") == 0


@pytest.mark.parametrize(
    ("fields", "status", "code"),
    [
        ({"image": "AAAA"}, 415, "image_format"),
        ({"image": ""}, 422, "image_corrupt"),
        ({"image": "https://example.org/a.png"}, 422, "url_not_allowed"),
        ({"captions": [""]}, 422, "invalid_text"),
        ({"captions": ["word"] * 31}, 422, "invalid_request"),
        ({"captions": "word"}, 422, "invalid_request"),
        ({"metadata": {"large": "x" * 70_000}}, 422, "invalid_query"),
        ({"metadata": [1]}, 422, "invalid_request"),
        ({"vector": [1.0]}, 422, "invalid_request"),
    ],
)
def test_what_is_refused_leaves_no_trace(live: Service, fields: dict[str, Any], status: int, code: str) -> None:
    answer = put(live, "one", "red", **fields)
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert live.metric("sightline_live_changes") == 0
    assert live.get("/v1/items/one").status_code == 404


def test_letters_that_no_file_can_hold(live: Service) -> None:
    body = b'{"image": "%s", "uri": "a\\ud800b", "captions": ["c\\udfff d"], "metadata": {"\\u0000": "\\u0000"}}'
    answer = live.request(
        "PUT", "/v1/items/one", content=body % _base64("red").encode(), headers={"content-type": "application/json"}
    )
    if answer.status_code == 201:
        item = live.get("/v1/items/one").json()["item"]
        assert "\ud800" not in item["uri"] and item["metadata"] == {"\x00": "\x00"}
    else:
        assert answer.status_code in (400, 422)


def test_captions_without_a_picture_are_refused(live: Service) -> None:
    answer = live.request("PUT", "/v1/items/one", json={"captions": ["words alone"]})
    assert (answer.status_code, answer.json()["detail"]) == (422, "'image' is missing; add it.")


def test_too_many_changes_wait(make_service: MakeService, photos: Path) -> None:
    service = make_service(collection=open_collection(photos), live_writes=True, live_max_changes=2)
    assert [put(service, name, "red").status_code for name in ("a", "b")] == [201, 201]
    answer = put(service, "c", "red")
    assert (answer.status_code, answer.json()["code"]) == (429, "live_full")
    assert answer.headers["retry-after"] == "30"
    assert service.request("DELETE", "/v1/items/a").status_code == 200


def test_a_damaged_log(make_service: MakeService, photos: Path, caplog: pytest.LogCaptureFixture) -> None:
    (photos / "live.db").write_bytes(b"no database at all" * 1000)
    service = make_service(collection=open_collection(photos), live_writes=True)
    assert "damaged; restore it from a backup" in caplog.text
    assert found(service, "red", 1) == ["000-red"]
    for answer in (put(service, "one", "red"), service.request("DELETE", "/v1/items/000-red")):
        assert (answer.status_code, answer.json()["code"]) == (503, "live_unavailable")
        assert "photos" not in answer.text
    assert service.metric("sightline_live_broken") == 1
    assert service.get("/readyz").status_code == 200


def test_another_encoders_changes_are_refused(make_service: MakeService, photos: Path) -> None:
    from sightline.collection.live_log import LiveChange, open_live_log
    from sightline.errors import EncoderMismatch

    log = open_live_log(photos, writable=True)
    assert log is not None
    log.append([LiveChange("one", "put", "f" * 64, "gen-000001", "")])
    log.close()
    with pytest.raises(EncoderMismatch, match="vectors of another encoder"):
        make_service(collection=open_collection(photos))


def test_the_examples_are_answered(live: Service) -> None:
    for body in examples.ITEM.values():
        assert live.request("PUT", "/v1/items/pixel", json=body).status_code in (200, 201)


def test_writing_needs_an_admins_key(make_service: MakeService, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "api").write_text("search: " + "s" * 20)
    (tmp_path / "admin").write_text("admin: " + "a" * 20)
    service = make_service(
        collection=open_collection(photos), live_writes=True, api_keys_file=tmp_path / "api",
        admin_keys_file=tmp_path / "admin",
    )  # fmt: skip
    picture = picture_bytes("yellow")
    for key, status in ((None, 401), ("s" * 20, 403), ("a" * 20, 201)):
        headers = {} if key is None else {"x-api-key": key}
        answer = service.request("PUT", "/v1/items/one", content=picture, headers=headers)
        assert answer.status_code == status
    assert service.request("DELETE", "/v1/items/one", headers={"x-api-key": "s" * 20}).status_code == 403
    assert service.get("/v1/items/one", headers={"x-api-key": "s" * 20}).status_code == 200


def test_a_thumbnail_is_no_item(make_service: MakeService) -> None:
    """``0/thumbnail`` would be an id as any other; schemathesis found that PUT was answered as if it were one."""
    service = make_service()
    for method in ("PUT", "DELETE", "PATCH"):
        response = service.request(method, "/v1/items/0/thumbnail")
        assert (response.status_code, response.headers["allow"]) == (405, "GET"), method
