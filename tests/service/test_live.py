"""Live changes beside a generation: searched exactly, seen whole, compacted without loss."""

from __future__ import annotations

import random
import threading
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from service.live import Written
from service.snapshot import Snapshot, index_generation
from sightline.collection import Generation, open_collection
from sightline.collection.live_log import LiveChange
from sightline.errors import NotFound, QueryError, StorageError
from sightline.filters import parse_filter
from sightline.live_state import LiveRows, LiveState
from tests.fakes import COLOURS, DIM, FINGERPRINT, build_fake_collection, picture_bytes
from tests.service.conftest import MakeService, Service
from tests.service.routes.test_items import put

NAMES = tuple(COLOURS)


def unit(seed: int, rows: int) -> Any:
    vectors = np.random.default_rng(seed).standard_normal((rows, DIM))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16)


def change(item_id: str, seed: int, sequence: int, *, kind: Any = "put", num_captions: int = 1) -> LiveChange:
    if kind == "delete":
        return LiveChange(item_id, "delete", FINGERPRINT, "gen-000001", "", sequence=sequence)
    return LiveChange(
        item_id, "put", FINGERPRINT, "gen-000001", "", uri=item_id, metadata={"seed": seed, "even": seed % 2 == 0},
        captions=tuple(f"{item_id} {seed} {number}" for number in range(num_captions)), vector=unit(seed, 1)[0],
        caption_vectors=unit(seed + 1, num_captions), sequence=sequence,
    )  # fmt: skip


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    build_fake_collection(tmp_path / "photos", NAMES * 3, captions_per_item=2)
    return tmp_path / "photos"


@pytest.fixture
def live(make_service: MakeService, photos: Path) -> Service:
    return make_service(collection=open_collection(photos), live_writes=True, live_compact_changes=0)


class Oracle:
    """What is there, as one plain dictionary: id → (vector, captions with vectors, metadata)."""

    def __init__(self, generation: Generation) -> None:
        images, texts = generation.image_vectors(), generation.caption_vectors()
        owners = generation.caption_items()
        self.items: dict[str, tuple[Any, list[tuple[str, Any]], dict[str, Any]]] = {}
        for row in range(generation.num_items):
            item = generation.item(row)
            own = list(zip(item.captions, texts[owners == row], strict=True))
            self.items[item.item_id] = (images[row], own, item.metadata)

    def apply(self, one: LiveChange) -> None:
        self.items.pop(one.item_id, None)
        if one.kind == "put":
            own = list(zip(one.captions, one.caption_vectors, strict=True))
            self.items[one.item_id] = (one.vector, own, one.metadata)

    def pictures(self, query: Any, keep: Any) -> list[tuple[float, str]]:
        scores = [(float(query @ v.astype(np.float32)), name) for name, (v, _, m) in self.items.items() if keep(m)]
        return sorted(scores, reverse=True)

    def captions(self, query: Any, keep: Any) -> list[tuple[float, str]]:
        return sorted(
            ((float(query @ vector.astype(np.float32)), text)
             for _, own, metadata in self.items.values() if keep(metadata) for text, vector in own), reverse=True,
        )  # fmt: skip


def check(snapshot: Snapshot, oracle: Oracle, seed: int) -> None:
    """Searches, with and without filters, give what looking at everything gives."""
    queries = unit(seed, 2).astype(np.float32)
    filters: list[tuple[Any, Any]] = [
        (None, lambda metadata: True),
        ({"must": [{"key": "even", "match": True}]}, lambda metadata: metadata.get("even") is True),
        ({"must_not": [{"key": "colour", "match": "red"}]}, lambda metadata: metadata.get("colour") != "red"),
    ]
    assert snapshot.num_items == len(oracle.items)
    assert snapshot.num_captions == sum(len(own) for _, own, _ in oracle.items.values())
    for raw, keep in filters:
        where = None if raw is None else parse_filter(raw)
        for k in (1, 7, 1000):
            hits = snapshot.search_images(queries, k, where)
            for query, scores, rows in zip(queries, hits.scores, hits.rows, strict=True):
                expected = oracle.pictures(query, keep)
                np.testing.assert_allclose(scores, [score for score, _ in expected[:k]], atol=1e-5)
                names = [snapshot.item(int(row)).item_id for row in rows]
                assert len(names) == len(set(names))
                told = {name: score for score, name in expected}
                np.testing.assert_allclose([told[name] for name in names], scores, atol=1e-5)
            if snapshot.num_captions:
                texts = snapshot.search_captions(queries, k, where)
                for query, scores, rows in zip(queries, texts.scores, texts.rows, strict=True):
                    expected = oracle.captions(query, keep)
                    np.testing.assert_allclose(scores, [score for score, _ in expected[:k]], atol=1e-5)
                    for row in rows:
                        text, item_row = snapshot.caption(int(row))
                        assert text in snapshot.item(item_row).captions


@pytest.mark.parametrize("seed", range(4))
def test_search_equals_looking_at_everything(photos: Path, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Random puts, replacements and deletes; small blocks and early clean-ups, so that each path is taken."""
    monkeypatch.setattr("sightline.live_state._BLOCK_ROWS", 8)
    monkeypatch.setattr("sightline.live_state._MAX_IDLE_ROWS", 10)
    generation = open_collection(photos)
    base = index_generation(generation, FINGERPRINT)
    rows, oracle = LiveRows(generation, lambda sequence: None), Oracle(generation)
    draw = random.Random(seed)
    ids = [generation.item(row).item_id for row in range(generation.num_items)] + [f"new-{n}" for n in range(15)]
    sequence = 0
    for _ in range(60):
        batch = []
        for _ in range(draw.randrange(1, 5)):
            sequence += 1
            kind = "delete" if draw.random() < 0.3 else "put"
            batch.append(change(draw.choice(ids), sequence, sequence, kind=kind, num_captions=draw.randrange(4)))
        state = rows.apply(batch)
        for one in batch:
            oracle.apply(one)
        assert state.sequence == sequence
        if draw.random() < 0.4:
            check(Snapshot(base.generation, base.images, base.captions, state), oracle, 1000 + sequence)
            for name in ids:
                assert state.has(name) == (name in oracle.items)
    check(Snapshot(base.generation, base.images, base.captions, rows.state), oracle, 5)


def test_a_state_never_changes(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a request holds stays what it was, whatever is written meanwhile."""
    monkeypatch.setattr("sightline.live_state._MAX_IDLE_ROWS", 4)
    generation = open_collection(photos)
    base = index_generation(generation, FINGERPRINT)
    rows, oracle = LiveRows(generation, lambda sequence: None), Oracle(generation)
    kept: list[tuple[LiveState, dict[str, Any]]] = []
    for sequence in range(1, 120):
        one = change(f"new-{sequence % 7}", sequence, sequence, kind="delete" if sequence % 5 == 0 else "put")
        kept.append((rows.apply([one]), {}))
        oracle.apply(one)
        kept[-1] = (kept[-1][0], dict(oracle.items))
    for state, items in kept[::7]:
        then = Oracle(generation)
        then.items = items
        check(Snapshot(base.generation, base.images, base.captions, state), then, state.sequence)


def test_a_collection_without_captions_gains_some(make_service: MakeService, tmp_path: Path) -> None:
    generation = build_fake_collection(tmp_path / "photos", ["red"], captions_per_item=0)
    service = make_service(collection=generation, live_writes=True)
    assert service.post("/v1/image-to-text", content=picture_bytes("red")).status_code == 422
    put(service, "one", "blue", captions=["blue at last"])
    answer = service.post("/v1/image-to-text", content=picture_bytes("red"))
    assert [one["caption"] for one in answer.json()["results"]] == ["blue at last"]
    service.request("DELETE", "/v1/items/one")
    snapshot = service.engine.snapshot
    with pytest.raises(QueryError, match="no captions"):
        snapshot.search_captions(unit(1, 1).astype(np.float32), 1, None)


def test_many_at_once_are_written_together(live: Service) -> None:
    """One sync for what came while the disk was busy; everyone hears the number of their own change."""
    log = live.engine.live.log
    assert log is not None
    batches: list[int] = []
    append, let_go = log.append, threading.Event()

    def slow(changes: Any) -> Any:
        batches.append(len(changes))
        let_go.wait(10)
        return append(changes)

    log.append = slow  # type: ignore[method-assign]
    futures: list[Future[Written]] = [live.engine.live.submit(change("one-0", 1, 0))]
    while not batches:
        pass
    futures += [live.engine.live.submit(change(f"one-{number}", number + 1, 0)) for number in range(1, 50)]
    gone = live.engine.live.submit(change("never", 0, 0, kind="delete"))
    twice = [live.engine.live.submit(change("one-7", 99, 0, kind=kind)) for kind in ("delete", "delete", "put")]
    let_go.set()
    written = [future.result(10) for future in futures]
    assert sorted(one.sequence for one in written) == list(range(1, 51))
    with pytest.raises(NotFound):
        gone.result(10)
    assert twice[0].result(10).existed
    with pytest.raises(NotFound):
        twice[1].result(10)
    assert not twice[2].result(10).existed
    assert len(batches) < 5
    assert live.engine.snapshot.num_items == 24 + 50
    assert [one.item_id for one in log.read() if one.item_id == "one-7"] == ["one-7"]


def test_a_write_that_is_given_up_before_its_turn_is_not_made(live: Service) -> None:
    log = live.engine.live.log
    assert log is not None
    began, let_go, append = threading.Event(), threading.Event(), log.append

    def slow(changes: Any) -> Any:
        began.set()
        let_go.wait(10)
        return append(changes)

    log.append = slow  # type: ignore[method-assign]
    first = live.engine.live.submit(change("a", 1, 0))
    began.wait(10)
    second, third = (live.engine.live.submit(change(name, 1, 0)) for name in ("b", "c"))
    assert second.cancel()
    let_go.set()
    assert (first.result(10).sequence, third.result(10).sequence) == (1, 2)
    assert [one.item_id for one in log.read()] == ["a", "c"]


def test_a_full_disk_is_said_and_changes_nothing(live: Service) -> None:
    log = live.engine.live.log
    assert log is not None
    append = log.append

    def full(changes: Any) -> Any:
        raise StorageError("Could not write live.db: no space is left on the disk; free some.")

    log.append = full  # type: ignore[method-assign]
    answer = put(live, "one", "red")
    assert (answer.status_code, answer.json()["code"]) == (507, "storage")
    assert live.get("/v1/items/one").status_code == 404
    log.append = append  # type: ignore[method-assign]
    assert put(live, "one", "red").status_code == 201


def test_a_state_that_cannot_be_made_is_made_from_the_log(live: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    put(live, "one", "red")
    monkeypatch.setattr(LiveRows, "_hide", _fails_once(LiveRows._hide))
    assert put(live, "two", "blue").status_code == 201
    assert live.get("/v1/items/one").status_code == live.get("/v1/items/two").status_code == 200
    assert live.engine.live.num_changes == 2


def _fails_once(function: Any) -> Any:
    calls: list[int] = []

    def call(*arguments: Any) -> Any:
        calls.append(1)
        if len(calls) == 1:
            raise MemoryError
        return function(*arguments)

    return call
