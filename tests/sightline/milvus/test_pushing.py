"""Pushing, switching, going on after an interruption, rolling back: the alias names a whole version."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sightline.collection import Generation
from sightline.errors import CountMismatch, GenerationUnknown, MilvusFailed, QueryError
from sightline.milvus import open_version, pushing
from sightline.milvus.client import MilvusServer
from sightline.milvus.generation import served_version, version_before
from sightline.milvus.pushing import push, rollback, versions
from tests.fakes import FakeEncoder, build_fake_collection
from tests.milvus import lite

COLOURS = ["red", "green", "blue", "cyan"] * 30


@pytest.fixture
def server(tmp_path: Path) -> Iterator[MilvusServer]:
    one = lite(tmp_path)
    yield one
    one.close()


def build(tmp_path: Path, colours: list[str], **options: Any) -> Generation:
    return build_fake_collection(tmp_path / "photos", colours, **options)


def best(server: MilvusServer, word: str) -> str:
    generation = open_version(server)
    hits = generation.search_images(FakeEncoder().encode_texts([word]), 1, None)
    return generation.item(int(hits.rows[0, 0])).item_id


def test_a_push_is_served_and_the_one_before_is_kept(server: MilvusServer, tmp_path: Path) -> None:
    first = push(build(tmp_path, ["red"]), server)
    assert (first.version, first.before, first.changed) == ("photos_v000001", None, True)
    second = push(build(tmp_path, ["green", "blue"]), server)
    assert (second.before, versions(server)) == (first.version, [first.version, second.version])
    assert best(server, "red") in ("000-green", "001-blue")
    assert rollback(server) == (second.version, first.version)
    assert best(server, "red") == "000-red"
    assert rollback(server) == (first.version, second.version)
    third = push(build(tmp_path, ["cyan"]), server)
    assert versions(server) == [second.version, third.version]


def test_there_is_nothing_to_roll_back_to(server: MilvusServer, tmp_path: Path) -> None:
    with pytest.raises(GenerationUnknown):
        rollback(server)
    with pytest.raises(GenerationUnknown, match="push one"):
        open_version(server)
    push(build(tmp_path, ["red"]), server)
    with pytest.raises(GenerationUnknown):
        rollback(server)


def test_the_same_again_changes_nothing(server: MilvusServer, tmp_path: Path) -> None:
    generation = build(tmp_path, ["red"])
    push(generation, server)
    again = push(generation, server)
    assert (again.changed, again.version, versions(server)) == (False, "photos_v000001", ["photos_v000001"])
    assert push(generation, server, thumbnails=False).changed
    assert open_version(server).thumbnail(0) is None


class Broken(Exception):
    """An interruption."""


@pytest.mark.parametrize("batches", [0, 1, 3, 5])
def test_an_interrupted_push_goes_on_where_it_ended(
    server: MilvusServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batches: int
) -> None:
    push(build(tmp_path, ["white"]), server)
    generation = build(tmp_path, COLOURS)
    monkeypatch.setattr(pushing, "_BATCH_ROWS", 40)
    sent: list[int] = []
    insert = MilvusServer.insert

    def interrupted(self: MilvusServer, name: str, rows: list[dict[str, Any]]) -> None:
        if "terms" in rows[0]:
            if len(sent) == batches:
                raise Broken
            sent.append(len(rows))
        insert(self, name, rows)

    with monkeypatch.context() as broken:
        broken.setattr(MilvusServer, "insert", interrupted)
        with pytest.raises(Broken):
            push(generation, server)
    assert best(server, "red") == "000-white", "the alias names what it named"
    done = push(generation, server)
    assert (done.version, done.resumed_rows) == ("photos_v000002", 40 * batches)
    there = open_version(server)
    np.testing.assert_array_equal(there.image_vectors(), generation.image_vectors())
    np.testing.assert_array_equal(there.caption_vectors(), generation.caption_vectors())


def test_what_an_interrupted_push_of_something_else_left_is_dropped(
    server: MilvusServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise Broken

    push(build(tmp_path, ["white"]), server)
    for stage in ("insert", "build_index", "point"):
        with monkeypatch.context() as patched:
            patched.setattr(MilvusServer, stage, broken)
            with pytest.raises(Broken):
                push(build(tmp_path, ["red"]), server)
    push(build(tmp_path, ["green"]), server)
    served = served_version(server)
    assert served is not None
    assert versions(server) == ["photos_v000001", served]
    assert best(server, "red") == "000-green"


def test_rows_that_are_lost_are_noticed_before_anybody_sees_them(
    server: MilvusServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    push(build(tmp_path, ["white"]), server)
    insert = MilvusServer.insert
    monkeypatch.setattr(MilvusServer, "insert", lambda self, name, rows: insert(self, name, rows[:5]))
    with pytest.raises(CountMismatch):
        push(build(tmp_path, COLOURS), server)
    assert served_version(server) == "photos_v000001"


def test_an_interruption_between_the_aliases_leaves_what_was_served(
    server: MilvusServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    push(build(tmp_path, ["white"]), server)
    generation = build(tmp_path, ["red"])
    point = MilvusServer.point

    def only_before(self: MilvusServer, alias: str, collection: str) -> None:
        if not alias.endswith("_before"):
            raise Broken
        point(self, alias, collection)

    with monkeypatch.context() as broken:
        broken.setattr(MilvusServer, "point", only_before)
        with pytest.raises(Broken):
            push(generation, server)
    assert best(server, "red") == "000-white"
    assert push(generation, server).resumed_rows == 2
    assert (served_version(server), version_before(server)) == ("photos_v000002", "photos_v000001")


@pytest.mark.parametrize("index_type", ["GPU_CAGRA", "IVF_PQ", "IVF_RABITQ", "DISKANN", "flat"])
def test_an_index_that_the_server_would_take_and_not_build_is_refused(
    server: MilvusServer, tmp_path: Path, index_type: str
) -> None:
    with pytest.raises(QueryError, match="cannot build"):
        push(build(tmp_path, ["red"]), server, index_type=index_type)
    assert versions(server) == []


def test_a_text_that_is_too_long_names_the_picture(
    server: MilvusServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sightline.milvus.layout.MAX_TEXT_BYTES", 12)
    with pytest.raises(QueryError, match="000-red"):
        push(build(tmp_path, ["red"]), server)


def test_a_collection_without_captions(server: MilvusServer, tmp_path: Path) -> None:
    push(build(tmp_path, ["red"], captions_per_item=0), server)
    assert open_version(server).num_captions == 0
    assert best(server, "red") == "000-red"


def test_what_the_server_refuses_is_said_in_our_words(server: MilvusServer) -> None:
    with pytest.raises(MilvusFailed, match="count rows") as caught:
        server.count("no_such_collection")
    assert "no_such_collection" not in caught.value.message
