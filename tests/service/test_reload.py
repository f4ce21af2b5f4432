"""Another generation in the place of the one that is served: proven first, swapped at once, and gone back from."""

from __future__ import annotations

import asyncio
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from service.edge.problems import NothingBefore, ReloadRunning
from sightline.collection import Generation, current_name, needed_bytes, open_collection, read_manifest
from sightline.errors import (
    CountMismatch,
    DuplicateIds,
    EncoderMismatch,
    FileChanged,
    GenerationUnknown,
    ManifestInvalid,
    ManifestMissing,
    MemoryShort,
    NotReady,
    QueryError,
    SchemaUnknown,
    ShuttingDown,
    SightlineError,
    VectorsWrong,
)
from tests.fakes import DIM, FINGERPRINT, FakeEncoder, build_fake_collection
from tests.service.conftest import Service
from tests.service.generations import (
    FIRST,
    SECOND,
    MakeServed,
    cut_dimensions,
    cut_rows,
    damage_manifest,
    make_served,
    other_encoder,
    photos,
    reloads,
    repeat_id,
    scale_vectors,
    truncate,
)

__all__ = ["make_served", "photos"]

WAIT_SECONDS = 10.0


@pytest.fixture
def make_live(photos: Path) -> Iterator[Callable[..., Service]]:
    """Services that serve the first generation; none of them is held by anything but the service."""
    made: list[Service] = []

    def make(**settings: Any) -> Service:
        from service.settings import load_settings

        opened = [open_collection(photos, "gen-000001")]
        made.append(Service(FakeEncoder(), opened.pop(), load_settings(settings)))
        return made[-1]

    yield make
    for service in made:
        service.engine.close()


def test_current_is_what_a_reload_without_a_name_serves(make_served: MakeServed) -> None:
    served = make_served()
    change = served.reload()
    assert (change.before, change.now, change.changed) == ("gen-000001", "gen-000002", True)
    assert (change.num_items, change.num_captions) == (5, 5)
    assert served.snapshot.generation.generation == "gen-000002"
    assert reloads(served, "swapped") == 1


def test_what_is_served_already_is_not_loaded_again(make_served: MakeServed) -> None:
    served = make_served()
    before = served.snapshot
    assert not served.reload("gen-000001").changed
    assert served.snapshot is before
    assert served.previous is None


def test_a_collection_built_anew_under_an_old_name_is_another(make_served: MakeServed, photos: Path) -> None:
    served = make_served()
    tag = served.snapshot.tag
    shutil.rmtree(photos)
    build_fake_collection(photos, SECOND)
    assert served.reload("gen-000001").changed
    assert served.snapshot.generation.num_items == len(SECOND)
    assert served.snapshot.tag != tag


def test_rolling_back_returns_and_returns_again(make_served: MakeServed) -> None:
    served = make_served()
    with pytest.raises(NothingBefore):
        served.rollback()
    served.reload()
    assert served.rollback().now == "gen-000001"
    assert served.rollback().now == "gen-000002"


@pytest.mark.parametrize("name", ["../gen-000001", "gen-1", "gen-000001/", "/etc", "gen-00000１", "gen-000001\n", ""])
def test_a_name_is_a_name_and_never_a_path(make_served: MakeServed, name: str) -> None:
    served = make_served()
    if name:
        with pytest.raises(QueryError, match="no name of a generation"):
            served.reload(name)
    with pytest.raises(GenerationUnknown, match="gen-000009"):
        served.reload("gen-000009")
    assert reloads(served, "refused") >= 1


DAMAGES: list[tuple[Callable[[Path], object], type[SightlineError], str]] = [
    (lambda directory: (directory / "manifest.json").unlink(), ManifestMissing, "missing"),
    (lambda directory: (directory / "manifest.json").write_text("{"), ManifestInvalid, "damaged"),
    (damage_manifest(generation="gen-000007"), ManifestInvalid, "gen-000007"),
    (damage_manifest(schema_version=2), SchemaUnknown, "schema 2 and this Sightline reads 1"),
    (damage_manifest(num_items=9), CountMismatch, "do not add up"),
    (lambda directory: (directory / "captions" / "captions_0.parquet").unlink(), FileChanged, "captions_0.parquet"),
    *[(truncate(share), FileChanged, "SHA-256") for share in (0.0, 0.001, 0.5, 0.99)],
    (cut_rows, CountMismatch, "has 4 rows and its manifest promises 5"),
    (cut_dimensions, VectorsWrong, r"float16 \(5, 7\) and its manifest promises float16 with 8"),
    (scale_vectors, VectorsWrong, "has length 2.0.. and must have length 1"),
    (repeat_id, DuplicateIds, "twice"),
    (other_encoder, EncoderMismatch, "000000000000.* another encoder .*" + FINGERPRINT[:12]),
]


@pytest.mark.parametrize(("damage", "kind", "sentence"), DAMAGES)
def test_what_is_wrong_with_a_generation_has_a_code_and_the_old_one_stays(
    make_served: MakeServed, photos: Path, damage: Callable[[Path], object], kind: type[SightlineError], sentence: str
) -> None:
    """R28, R30, R31, R32."""
    served = make_served()
    before = served.snapshot
    damage(photos / "gen-000002")
    with pytest.raises(kind, match=sentence):
        served.reload()
    assert served.snapshot is before
    assert reloads(served, "refused") == 1
    assert len({kind.code for _, kind, _ in DAMAGES}) == 8


def test_a_dimension_other_than_the_encoders_is_named_with_both(make_served: MakeServed) -> None:
    """R32: one fingerprint, two dimensions; it cannot happen, and must not be answered with."""
    served = make_served()
    served._dim = 9
    with pytest.raises(VectorsWrong, match="have 8 dimensions and the encoder's have 9"):
        served.reload()


def test_memory_is_asked_for_before_it_is_taken(make_served: MakeServed, photos: Path) -> None:
    needed = needed_bytes(photos / "gen-000002", read_manifest(photos / "gen-000002"))
    assert needed > 2 * 2 * 5 * DIM
    with pytest.raises(MemoryShort) as refused:
        make_served(free_bytes=lambda: needed - 1).reload()
    assert refused.value.details == {"needed_bytes": needed, "free_bytes": needed - 1}
    assert make_served(free_bytes=lambda: needed).reload().changed


def test_an_encoder_that_fails_its_canary_gets_no_new_generation(make_served: MakeServed) -> None:
    def disagree() -> None:
        raise NotReady("The encoder's text vectors are not what they were.")

    served = make_served(prove=disagree)
    with pytest.raises(NotReady, match="not what they were"):
        served.reload()
    assert served.snapshot.generation.generation == "gen-000001"


def test_one_change_at_a_time(make_served: MakeServed) -> None:
    entered, go_on = threading.Event(), threading.Event()

    def wait() -> None:
        entered.set()
        assert go_on.wait(WAIT_SECONDS)

    served = make_served(prove=wait)
    first = threading.Thread(target=served.reload)
    first.start()
    assert entered.wait(WAIT_SECONDS)
    with pytest.raises(ReloadRunning):
        served.reload("gen-000002")
    go_on.set()
    first.join(WAIT_SECONDS)
    assert served.snapshot.generation.generation == "gen-000002"


def test_there_are_never_three_generations(make_served: MakeServed) -> None:
    """R33: a change waits for the requests that hold the generation before the present one."""
    served = make_served(patience_seconds=0.05)
    held = served.snapshot
    served.reload()
    with pytest.raises(ReloadRunning, match="still use"):
        served.rollback()
    assert held.generation.num_items == len(FIRST)
    del held
    assert served.rollback().changed


def test_nothing_is_installed_after_the_end(make_served: MakeServed) -> None:
    served = make_served()
    served._prove = served.close
    with pytest.raises(ShuttingDown):
        served.reload()
    assert served.snapshot.generation.generation == "gen-000001"
    with pytest.raises(ShuttingDown):
        served.reload()


def test_files_overwritten_or_cut_in_place_change_no_answer(make_live: Callable[..., Service], photos: Path) -> None:
    """R35: nothing is memory-mapped from a directory that others write."""
    live = make_live()
    ask = {"json": {"text": "red", "k": 4, "filter": {"must": [{"key": "number", "range": {"lt": 4}}]}}}
    before = live.post("/v1/text-to-image", **ask).json()
    item = live.get("/v1/items/000-red").json()
    thumbnail = live.get("/v1/items/000-red/thumbnail")
    assert thumbnail.status_code == 200
    for number, path in enumerate(sorted(one for one in (photos / "gen-000001").rglob("*") if one.is_file())):
        size = path.stat().st_size
        with path.open("r+b") as file:
            file.truncate(size // 2) if number % 2 else file.write(b"\xff" * size)
    assert live.post("/v1/text-to-image", **ask).json() == before
    assert live.get("/v1/items/000-red").json() == item
    after = live.get("/v1/items/000-red/thumbnail")
    assert (after.status_code, after.json()["code"]) == (404, "not_found"), "other bytes are no thumbnail"
    shutil.rmtree(photos)
    assert live.post("/v1/text-to-image", **ask).json() == before


def test_a_collection_that_cannot_be_written_is_served(photos: Path, make_live: Callable[..., Service]) -> None:
    """R36: opening, serving and reloading leave no trace in the collection."""

    def listing() -> dict[str, tuple[int, int]]:
        return {str(one): (one.stat().st_mtime_ns, one.stat().st_size) for one in photos.rglob("*")}

    before = listing()
    for path in [photos, *photos.rglob("*")]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    try:
        live = make_live()
        assert live.post("/v1/admin/reload", json={}).status_code == 200
        assert live.post("/v1/text-to-image", json={"text": "red"}).json()["generation"] == "gen-000002"
        assert listing() == before
    finally:
        for path in [photos, *photos.rglob("*")]:
            path.chmod(0o755)


def test_reloading_over_http(make_live: Callable[..., Service], photos: Path) -> None:
    live = make_live()
    etag = live.get("/v1/items/000-red/thumbnail").headers["etag"]
    answer = live.post("/v1/admin/reload", json={"generation": "gen-000002"})
    assert answer.status_code == 200
    told = answer.json()
    assert (told["before"], told["now"], told["changed"], told["num_items"]) == ("gen-000001", "gen-000002", True, 5)
    assert live.post("/v1/admin/reload").json()["changed"] is False, "an empty body is {}"
    entry = live.get("/v1/collections").json()["collections"][0]
    assert (entry["generation"], entry["num_items"]) == ("gen-000002", 5)
    assert live.get("/v1/items/000-red").status_code == 404
    assert live.get("/v1/items/000-blue/thumbnail", headers={"if-none-match": etag}).status_code == 200
    assert live.metric("sightline_index_vectors", kind="image") == 5
    assert live.post("/v1/admin/rollback").json()["now"] == "gen-000001"
    info = [
        line for line in live.get("/metrics").text.splitlines() if line.startswith("sightline_index_generation_info{")
    ]
    assert len(info) == 1
    assert 'generation="gen-000001"' in info[0]
    assert live.metric("sightline_index_age_seconds") >= 0.0


def test_an_operator_hears_what_is_wrong(make_live: Callable[..., Service], photos: Path) -> None:
    """R34."""
    live = make_live()
    assert live.post("/v1/admin/rollback").json()["code"] == "no_previous_generation"
    for body, status, code in (
        ({"generation": "../../etc"}, 422, "invalid_request"),
        ({"generation": "gen-000009"}, 404, "generation_not_found"),
        ({"generaton": "gen-000002"}, 422, "invalid_request"),
    ):
        answer = live.post("/v1/admin/reload", json=body)
        assert (answer.status_code, answer.json()["code"]) == (status, code)
    other_encoder(photos / "gen-000002")
    answer = live.post("/v1/admin/reload", json={})
    assert (answer.status_code, answer.json()["code"]) == (409, "encoder_mismatch")
    assert "another encoder" in answer.json()["detail"]
    truncate(0.5)(photos / "gen-000001")
    live.engine.served._free_bytes = lambda: 0
    build_fake_collection(photos, SECOND)
    answer = live.post("/v1/admin/reload", json={"generation": "gen-000003"})
    assert (answer.status_code, answer.json()["code"], answer.json()["free_bytes"]) == (507, "memory_short", 0)
    assert live.get("/readyz").status_code == 200
    assert live.post("/v1/text-to-image", json={"text": "red"}).json()["generation"] == "gen-000001"


def test_answers_never_mix_two_generations(make_live: Callable[..., Service]) -> None:
    """R33 in one process: twenty reloads under four askers; in each answer the colours fit its generation."""
    live = make_live(cache_bytes=0)
    colours = {"gen-000001": FIRST, "gen-000002": SECOND}
    seen: set[str] = set()

    async def ask(number: int, done: asyncio.Event) -> int:
        answers = 0
        async with live.client() as client:
            while not done.is_set():
                text = f"{FIRST[number]} {answers}"
                answer = await client.post("/v1/text-to-image", json={"text": text, "k": 4})
                assert answer.status_code == 200, answer.text
                told = answer.json()
                seen.add(told["generation"])
                expected = colours[told["generation"]]
                for result in told["results"]:
                    row = int(result["id"][:3])
                    assert result["metadata"] == {"colour": expected[row], "number": row}
                    assert result["caption"] == f"a {expected[row]} picture"
                assert told["results"][0]["metadata"]["colour"] == FIRST[number]
                answers += 1
        return answers

    async def scenario() -> int:
        done = asyncio.Event()
        askers = [asyncio.ensure_future(ask(number, done)) for number in range(4)]
        async with live.client() as client:
            for round_ in range(20):
                name = f"gen-{2 - round_ % 2:06d}"
                answer = await client.post("/v1/admin/reload", json={"generation": name}, timeout=30)
                assert (answer.status_code, answer.json()["now"]) == (200, name), answer.text
        done.set()
        return sum(await asyncio.gather(*askers))

    assert asyncio.run(scenario()) > 20
    assert seen == set(colours)
    assert live.metric("sightline_reloads_total", result="swapped") == 20


def test_the_name_in_current_is_read_as_a_name(photos: Path) -> None:
    assert current_name(photos) == "gen-000002"
    opened: Generation = open_collection(photos, "gen-000001")
    assert opened.generation == "gen-000001"
