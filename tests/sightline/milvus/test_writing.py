"""Items that are put and deleted in Milvus: found at once, whole, and never lost by an interruption."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from sightline.collection import Item
from sightline.errors import MilvusFailed
from sightline.filters import parse_filter
from sightline.milvus import MilvusGeneration
from sightline.milvus.client import MilvusServer
from sightline.milvus.writing import MilvusWriter
from tests.fakes import FakeEncoder, build_fake_collection
from tests.milvus import pushed

ENCODER = FakeEncoder()


@pytest.fixture
def there(tmp_path: Path) -> Iterator[MilvusGeneration]:
    generation = pushed(build_fake_collection(tmp_path / "photos", ["red", "green", "blue"]), tmp_path)
    yield generation
    generation.server.close()


def put(writer: MilvusWriter, item_id: str, colour: str, captions: tuple[str, ...] = (), **metadata: object) -> bool:
    vectors = ENCODER.encode_texts([colour, *captions]).astype(np.float16)
    return writer.upsert(Item(item_id, f"{item_id}.png", captions, 3, 2, metadata), vectors[0], vectors[1:], b"webp")


def nearest(there: MilvusGeneration, colour: str, raw: object = None) -> list[str]:
    where = None if raw is None else parse_filter(raw)
    hits = there.search_images(ENCODER.encode_texts([colour]), 10, where)
    return [there.item(row).item_id for row in hits.rows[0].tolist()]


def captions(there: MilvusGeneration, text: str) -> list[str]:
    hits = there.search_captions(ENCODER.encode_texts([text]), 10, None)
    return [there.caption(row)[0] for row in hits.rows[0].tolist()]


def test_a_new_item_is_found_at_once(there: MilvusGeneration) -> None:
    assert not put(MilvusWriter(there), "new", "yellow", ("a yellow one", "two"), year=[2001, 2005])
    assert nearest(there, "yellow")[0] == "new"
    assert captions(there, "yellow")[0] == "a yellow one"
    assert nearest(there, "yellow", {"key": "year", "range": {"gt": 2001, "lt": 2006}}) == ["new"]
    assert nearest(there, "yellow", {"key": "year", "range": {"gt": 2001, "lt": 2005}}) == []
    assert (there.count_items(), there.count_captions(), there.thumbnail(there.row_of("new"))) == (4, 5, b"webp")


def test_an_item_is_replaced_whole(there: MilvusGeneration) -> None:
    assert nearest(there, "red")[0] == "000-red"
    old = there.row_of("000-red")
    assert put(MilvusWriter(there), "000-red", "yellow", ("now yellow",))
    assert there.rows_of("000-red") != [old]
    assert len(there.rows_of("000-red")) == 1
    assert nearest(there, "yellow")[0] == "000-red"
    assert "a red picture" not in captions(there, "red")
    assert nearest(there, "red", {"key": "colour", "match": "red"}) == []
    assert sorted(nearest(there, "red")) == ["000-red", "001-green", "002-blue"]


def test_a_deleted_item_is_gone_and_can_come_back(there: MilvusGeneration) -> None:
    writer = MilvusWriter(there)
    assert nearest(there, "red")[0] == "000-red"
    assert writer.delete("000-red")
    assert not writer.delete("000-red")
    assert sorted(nearest(there, "red")) == ["001-green", "002-blue"]
    assert "a red picture" not in captions(there, "red")
    assert there.find_row("000-red") is None
    assert not put(writer, "000-red", "red")
    assert nearest(there, "red")[0] == "000-red"


def test_another_writer_takes_numbers_that_were_never_used(there: MilvusGeneration) -> None:
    put(MilvusWriter(there), "one", "yellow")
    put(MilvusWriter(there), "two", "cyan")
    rows = [there.row_of("one"), there.row_of("two")]
    assert len(set(rows)) == 2
    assert min(rows) >= 3


def test_an_interrupted_change_leaves_the_item_and_the_next_one_mends_it(
    there: MilvusGeneration, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = MilvusWriter(there)

    def refuse(*_: object) -> None:
        raise MilvusFailed("no")

    with monkeypatch.context() as broken:
        broken.setattr(MilvusServer, "delete", refuse)
        with pytest.raises(MilvusFailed):
            put(writer, "000-red", "yellow", ("now yellow",))
    assert len(there.rows_of("000-red")) == 2
    assert there.item(there.row_of("000-red")).captions == ("now yellow",), "the newer one counts"
    assert put(writer, "000-red", "cyan")
    assert nearest(there, "cyan").count("000-red") == 1


def test_what_vanishes_between_finding_and_reading_is_left_out(
    there: MilvusGeneration, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer, read = MilvusWriter(there), there._kept_items._read

    def late(rows: list[int]) -> dict[int, Item]:
        writer.delete("000-red")
        return read(rows)

    monkeypatch.setattr(there._kept_items, "_read", late)
    assert sorted(nearest(there, "red")) == ["001-green", "002-blue"]
