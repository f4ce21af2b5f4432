"""What is different about a collection in Milvus: the alias, writes, and a server that does not answer."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from service.settings import load_settings
from sightline.collection import open_collection
from sightline.errors import EncoderMismatch, MilvusUnreachable, SettingError
from sightline.milvus import open_version
from sightline.milvus.client import MilvusServer
from sightline.milvus.pushing import push, rollback
from tests.fakes import FakeEncoder, build_fake_collection, picture_bytes
from tests.milvus import lite
from tests.service.conftest import MakeService, Service


@pytest.fixture
def server(tmp_path: Path) -> Iterator[MilvusServer]:
    one = lite(tmp_path)
    yield one
    one.close()


@pytest.fixture
def remote(server: MilvusServer, tmp_path: Path, make_service: MakeService) -> Service:
    """Three pictures in Milvus, served with writes."""
    push(build_fake_collection(tmp_path / "photos", ["red", "green", "blue"]), server)
    return make_service(collection=open_version(server), live_writes=True)


def found(service: Service, text: str, **body: object) -> list[str]:
    answer = service.post("/v1/text-to-image", json={"text": text, "k": 100, **body})
    assert answer.status_code == 200, answer.text
    return [one["id"] for one in answer.json()["results"]]


def put(service: Service, item_id: str, colour: str, captions: list[str]) -> int:
    answer = service.request(
        "PUT", f"/v1/items/{item_id}", files={"image": picture_bytes(colour)}, data={"captions": captions}
    )
    return answer.status_code


def test_a_put_is_found_and_a_delete_is_not(remote: Service) -> None:
    assert put(remote, "new", "yellow", ["a yellow one"]) == 201
    assert found(remote, "yellow")[0] == "new"
    assert remote.get("/v1/items/new").json()["item"]["captions"] == ["a yellow one"]
    assert remote.get("/v1/items/new/thumbnail").headers["content-type"] == "image/webp"
    first = remote.get("/v1/items/new/thumbnail")
    assert put(remote, "new", "cyan", ["now cyan"]) == 200
    assert found(remote, "cyan")[0] == "new"
    second = remote.get("/v1/items/new/thumbnail", headers={"if-none-match": first.headers["etag"]})
    assert second.status_code == 200
    assert second.content != first.content
    captions = remote.post("/v1/image-to-text?k=100", content=picture_bytes("cyan")).json()["results"]
    assert [one["caption"] for one in captions if one["id"] == "new"] == ["now cyan"]
    assert remote.request("DELETE", "/v1/items/new").status_code == 200
    assert remote.request("DELETE", "/v1/items/new").status_code == 404
    assert remote.get("/v1/items/new").status_code == 404
    assert sorted(found(remote, "cyan")) == ["000-red", "001-green", "002-blue"]


def test_writes_are_off_by_default_and_compaction_is_the_servers(
    server: MilvusServer, remote: Service, make_service: MakeService
) -> None:
    other = make_service(collection=open_version(server))
    assert put(other, "new", "yellow", []) == 403
    assert remote.post("/v1/admin/compact").json()["code"] == "live_writes_off"


def test_a_reload_follows_the_alias(remote: Service, server: MilvusServer, tmp_path: Path) -> None:
    push(build_fake_collection(tmp_path / "photos", ["white"]), server)
    assert sorted(found(remote, "red")) == ["000-red", "001-green", "002-blue"], "until it is asked"
    told = remote.post("/v1/admin/reload").json()
    assert (told["before"], told["now"], told["changed"], told["num_items"]) == ("gen-000001", "gen-000002", True, 1)
    assert found(remote, "red") == ["000-white"]
    assert not remote.post("/v1/admin/reload").json()["changed"]
    assert remote.post("/v1/admin/rollback").json()["now"] == "gen-000001"
    assert len(found(remote, "red")) == 3
    assert remote.post("/v1/admin/reload", json={"generation": "gen-000002"}).json()["now"] == "gen-000002"
    assert remote.post("/v1/admin/reload", json={"generation": "gen-000007"}).json()["code"] == "generation_not_found"
    rollback(server)
    assert remote.post("/v1/admin/reload").json()["now"] == "gen-000001"


def test_a_watch_follows_the_alias(server: MilvusServer, tmp_path: Path, make_service: MakeService) -> None:
    push(build_fake_collection(tmp_path / "photos", ["red"]), server)
    service = make_service(collection=open_version(server), watch_collection_seconds=0.05)
    push(build_fake_collection(tmp_path / "photos", ["white"]), server)
    until = time.monotonic() + 20
    while found(service, "red") != ["000-white"]:
        assert time.monotonic() < until
        time.sleep(0.05)


def test_another_encoders_version_is_refused(remote: Service, server: MilvusServer, tmp_path: Path) -> None:
    push(build_fake_collection(tmp_path / "photos", ["white"], encoder=FakeEncoder(fingerprint="0" * 64)), server)
    assert remote.post("/v1/admin/reload").json()["code"] == "encoder_mismatch"
    assert len(found(remote, "red")) == 3
    with pytest.raises(EncoderMismatch):
        Service(FakeEncoder(), open_version(server), load_settings())


def test_a_server_that_does_not_answer_is_503_and_the_service_stays_ready(
    remote: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    def silent(*_: object, **__: object) -> None:
        raise MilvusUnreachable("Milvus does not answer; try again when its server is there.")

    with monkeypatch.context() as broken:
        broken.setattr(MilvusServer, "search", silent)
        answer = remote.post("/v1/text-to-image", json={"text": "red"})
        assert (answer.status_code, answer.json()["code"]) == (503, "milvus_unreachable")
        assert remote.get("/readyz").status_code == 200
    assert len(found(remote, "red")) == 3


def test_what_the_metrics_and_the_catalogue_say(remote: Service) -> None:
    entry = remote.get("/v1/collections").json()["collections"][0]
    assert (entry["name"], entry["generation"], entry["num_items"]) == ("photos", "gen-000001", 3)
    assert "sightline_index_plan_info{" in remote.get("/metrics").text
    assert 'plan="milvus FLAT"' in remote.get("/metrics").text
    names = {one["id"] for one in remote.post("/metadata", json={"ids": [0, 2], "indice_name": "photos"}).json()}
    assert names == {0, 2}


def test_a_collection_is_in_one_place(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="two places"):
        load_settings({"collection": tmp_path, "milvus": "milvus://host/photos"})


def test_the_generation_on_disk_is_still_there(server: MilvusServer, remote: Service, tmp_path: Path) -> None:
    put(remote, "new", "yellow", [])
    assert open_collection(tmp_path / "photos").num_items == 3
