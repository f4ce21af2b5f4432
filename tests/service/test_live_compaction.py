"""Live changes built into generations, in the background and on request: nothing is lost, nothing comes twice."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from service.live import Live
from service.metrics import Metrics
from service.snapshot import index_generation
from sightline.collection import current_name, open_collection
from sightline.collection.compaction import compact_collection
from sightline.errors import LiveChangesMissing
from tests.fakes import COLOURS, FINGERPRINT, build_fake_collection, picture_bytes
from tests.service.conftest import MakeService, Service
from tests.service.routes.test_items import found, put
from tests.service.test_live import change

NAMES = tuple(COLOURS)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    build_fake_collection(tmp_path / "photos", NAMES * 3, captions_per_item=2)
    return tmp_path / "photos"


@pytest.fixture
def live(make_service: MakeService, photos: Path) -> Service:
    return make_service(collection=open_collection(photos), live_writes=True, live_compact_changes=0)


def test_compacting_on_request(live: Service, photos: Path) -> None:
    put(live, "one", "yellow", captions=["one"])
    live.request("DELETE", "/v1/items/000-red")
    before = live.post("/v1/text-to-image", json={"text": "yellow", "k": 100}).json()
    answer = live.post("/v1/admin/compact")
    assert answer.status_code == 200, answer.text
    told = answer.json()
    assert (told["before"], told["now"], told["changed"], told["sequence"]) == ("gen-000001", "gen-000002", True, 2)
    assert (told["num_items"], told["num_pruned"]) == (24, 0)
    after = live.post("/v1/text-to-image", json={"text": "yellow", "k": 100}).json()
    assert after["generation"] == "gen-000002"
    scores = {one["id"]: (pytest.approx(one["score"], abs=1e-6), one["caption"]) for one in before["results"]}
    assert {one["id"]: (one["score"], one["caption"]) for one in after["results"]} == scores
    assert live.metric("sightline_live_changes") == 0
    assert live.metric("sightline_live_compactions_total", result="done") == 1
    again = live.post("/v1/admin/compact").json()
    assert (again["changed"], again["now"]) == (False, "gen-000002")
    assert current_name(photos) == "gen-000002"
    assert live.get("/v1/items/one/thumbnail").status_code == 200


def test_rolling_back_before_a_compaction_loses_nothing(live: Service) -> None:
    put(live, "one", "yellow")
    live.request("DELETE", "/v1/items/000-red")
    live.post("/v1/admin/compact")
    put(live, "two", "cyan")
    expected = sorted(found(live, "red", 100))
    rolled = live.post("/v1/admin/rollback")
    assert rolled.json()["now"] == "gen-000001"
    assert sorted(found(live, "red", 100)) == expected
    assert live.engine.live.num_changes == 3
    put(live, "three", "white")
    refused = live.post("/v1/admin/compact")
    assert (refused.status_code, refused.json()["code"]) == (409, "compaction_running")
    live.post("/v1/admin/reload")
    assert live.engine.snapshot.generation.generation == "gen-000002"
    assert sorted(found(live, "red", 100)) == sorted([*expected, "three"])
    assert live.engine.live.num_changes == 2


def test_a_compaction_that_was_published_and_not_served_is_served_by_the_next(live: Service, photos: Path) -> None:
    """As when a service had too little memory for a second generation, or was overtaken by its own predecessor."""
    log = live.engine.live.log
    assert log is not None
    put(live, "one", "yellow")
    compact_collection(photos, log)
    put(live, "two", "cyan")
    assert live.engine.snapshot.generation.generation == "gen-000001"
    told = live.post("/v1/admin/compact").json()
    assert (told["before"], told["now"], told["sequence"]) == ("gen-000002", "gen-000003", 2)
    assert {"one", "two"} <= set(found(live, "red", 100))


def test_the_log_is_pruned_when_no_older_generation_is_left(live: Service, photos: Path) -> None:
    import shutil

    put(live, "one", "yellow")
    assert live.post("/v1/admin/compact").json()["num_pruned"] == 0
    put(live, "two", "cyan")
    shutil.rmtree(photos / "gen-000001")
    assert live.post("/v1/admin/compact").json()["num_pruned"] == 1
    log = live.engine.live.log
    assert log is not None
    assert [one.item_id for one in log.read()] == ["two"], "gen-000002 lacks it"
    build_fake_collection(photos, NAMES)
    refused = live.post("/v1/admin/reload", json={"generation": "gen-000004"})
    assert (refused.status_code, refused.json()["code"]) == (422, "live_changes_missing")
    assert found(live, "cyan", 1)[0] in ("two", "004-cyan")


def test_a_new_build_keeps_live_changes(live: Service, photos: Path) -> None:
    put(live, "one", "yellow")
    live.request("DELETE", "/v1/items/000-red")
    build_fake_collection(photos, NAMES[:2])
    assert live.post("/v1/admin/reload").json()["now"] == "gen-000002"
    assert sorted(found(live, "red", 100)) == ["001-green", "one"]


def test_writes_go_on_while_compacting(live: Service) -> None:
    """Each acknowledged write is there afterwards, whether it came before, during or after."""
    acknowledged: set[str] = set()

    async def work() -> None:
        async with live.client() as client:
            done = asyncio.Event()

            async def write() -> None:
                number = 0
                while not done.is_set() or number < 5:
                    name = f"w-{number}"
                    answer = await client.put(f"/v1/items/{name}", content=picture_bytes(NAMES[number % 8]))
                    assert answer.status_code == 201
                    acknowledged.add(name)
                    number += 1

            async def compact() -> None:
                for _ in range(2):
                    answer = await client.post("/v1/admin/compact")
                    assert answer.status_code == 200, answer.text
                done.set()

            await asyncio.gather(write(), compact())

    asyncio.run(work())
    snapshot = live.engine.snapshot
    assert snapshot.generation.generation == "gen-000003"
    assert {snapshot.item(snapshot.row_of(name)).item_id for name in acknowledged} == acknowledged
    assert snapshot.num_items == 24 + len(acknowledged)


def test_enough_changes_start_a_compaction(make_service: MakeService, photos: Path) -> None:
    service = make_service(collection=open_collection(photos), live_writes=True, live_compact_changes=3)
    compactor = service.engine.compactor
    service.engine._supervisor.close()
    for number in range(2):
        put(service, f"one-{number}", "red")
    compactor.look()
    assert compactor._job is None
    put(service, "one-2", "red")
    compactor.look()
    assert compactor._job is not None
    assert compactor._job.result(60).now == "gen-000002"
    compactor.look()
    assert compactor._job is None


def test_a_failure_is_tried_again_later_and_later(make_service: MakeService, photos: Path) -> None:
    service = make_service(collection=open_collection(photos), live_writes=True, live_compact_changes=1)
    service.engine._supervisor.close()
    compactor, now = service.engine.compactor, [0.0]
    compactor._clock = lambda: now[0]
    path = photos / "gen-000001" / "text_emb" / "text_emb_0.npy"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    put(service, "one", "red")
    for moment, begins in ((0.0, True), (9.0, False), (11.0, True), (30.0, False), (32.0, True)):
        now[0] = moment
        compactor.look()
        assert (compactor._job is not None) == begins, moment
        if compactor._job is not None:
            assert type(compactor._job.exception(60)).__name__ == "FileChanged"
            compactor.look()
    assert service.metric("sightline_live_compactions_total", result="refused") == 3
    path.write_bytes(whole)
    now[0] = 1000.0
    compactor.look()
    assert compactor._job is not None and compactor._job.result(60).changed


def test_a_generation_that_lacks_pruned_changes_is_refused_at_the_start(photos: Path) -> None:
    live = Live(photos, FINGERPRINT, Metrics("0"), writes=True)
    assert live.log is not None
    live.log.append([change("one", 1, 0), change("two", 1, 0)])
    live.log.prune(1)
    with pytest.raises(LiveChangesMissing, match=r"move live\.db aside"):
        live.prepare(index_generation(open_collection(photos), FINGERPRINT))
    live.close()
