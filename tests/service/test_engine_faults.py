"""Faults in the engine as clients see them, through the app, with a fake encoder. Events decide what happens when."""

from __future__ import annotations

import asyncio
import base64
import threading
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from indexer.build import BuildOptions, build_collection
from service import answers
from service.app import create_app
from service.edge import bodies
from service.engine import Engine
from service.metrics import Metrics
from service.settings import load_settings
from service.snapshot import index_generation
from sightline.collection import open_collection
from sightline.encoder import Encoder
from sightline.sources import open_source
from tests.fakes import FakeEncoder, picture_bytes
from tests.pictures import flat
from tests.service.conftest import MakeService, Service

WAIT_SECONDS = 10.0


class Faults:
    """``before_encode`` of a fake encoder: after the warm-up it counts, blocks and raises as it is told."""

    def __init__(self) -> None:
        self.on = False
        self.opened = threading.Event()
        self.opened.set()
        self.batches: list[list[Any]] = []
        self.largest_that_fits = 10**6
        self.poison: str | None = None

    def __call__(self, modality: str, batch: Any) -> None:
        if not self.on:
            return
        self.batches.append(list(batch))
        assert self.opened.wait(WAIT_SECONDS)
        if len(batch) > self.largest_that_fits:
            raise MemoryError
        if self.poison is not None and any(isinstance(one, str) and self.poison in one for one in batch):
            raise ValueError("0x7f3a poisoned")

    @property
    def encoded(self) -> list[Any]:
        return [one for batch in self.batches for one in batch]


def faulty(make_service: MakeService, **settings: Any) -> tuple[Service, Faults]:
    faults = Faults()
    service = make_service(
        encoder=FakeEncoder(before_encode=faults), cache_bytes=0, canary_interval_seconds=0, **settings
    )
    faults.on = True
    return service, faults


async def until(service: Service, name: str, value: float, **labels: str) -> None:
    async with asyncio.timeout(WAIT_SECONDS):
        while service.metric(name, **labels) != value:
            await asyncio.sleep(0.001)


def num_open_files() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def search(client: httpx.AsyncClient, text: str, **options: Any) -> asyncio.Task[httpx.Response]:
    return asyncio.ensure_future(client.post("/v1/text-to-image", json={"text": text, "k": 1}, **options))


def test_exactly_what_fits_is_admitted(make_service: MakeService) -> None:
    """R2: room for 64 units, 100 requests of one unit, the encoder blocked: 64 accepted, 36 refused."""
    service, faults = faulty(make_service, max_queue_units=64)
    faults.opened.clear()

    async def scenario() -> list[httpx.Response]:
        async with service.client() as client:
            asked = [search(client, f"word {number}") for number in range(100)]
            await until(service, "sightline_rejected_total", 36, reason="overloaded")
            assert service.metric("sightline_admitted_units") == 64
            assert service.metric("sightline_queue_items", modality="text", lane="interactive") <= 64
            faults.opened.set()
            return await asyncio.gather(*asked)

    answers = asyncio.run(scenario())
    statuses = [answer.status_code for answer in answers]
    assert (statuses.count(200), statuses.count(429)) == (64, 36)
    assert all(int(answer.headers["retry-after"]) >= 1 for answer in answers if answer.status_code == 429)
    assert len(faults.encoded) == 64
    assert service.metric("sightline_admitted_units") == 0


def test_a_request_ends_at_its_deadline_and_never_reaches_the_encoder(make_service: MakeService) -> None:
    """R3"""
    service, faults = faulty(make_service)
    faults.opened.clear()

    async def scenario() -> None:
        async with service.client() as client:
            first = search(client, "first")
            await until(service, "sightline_admitted_units", 1)
            while not faults.batches:
                await asyncio.sleep(0.001)
            late = await search(client, "late", headers={"x-request-timeout-ms": "50"})
            assert (late.status_code, late.json()["code"]) == (504, "deadline_exceeded")
            assert not faults.opened.is_set(), "the answer did not wait for the encoder"
            faults.opened.set()
            assert (await first).status_code == 200
            assert (await search(client, "after")).status_code == 200

    asyncio.run(scenario())
    assert "late" not in faults.encoded


def test_who_leaves_while_queued_or_while_encoded_harms_nobody(make_service: MakeService) -> None:
    """R4, R5: the queued one never reaches the encoder, the batch mates of the other get their own answers."""
    service, faults = faulty(make_service)
    faults.opened.clear()

    async def scenario() -> None:
        async with service.client() as client:
            first = search(client, "red")
            while not faults.batches:
                await asyncio.sleep(0.001)
            mates = [search(client, colour) for colour in ("green", "blue", "yellow")]
            gone = search(client, "gone while queued")
            await until(service, "sightline_admitted_units", 5)
            gone.cancel()
            await until(service, "sightline_admitted_units", 4)
            faults.opened.set()
            found = [(await one).json()["results"][0]["id"] for one in (first, *mates)]
            assert found == ["000-red", "001-green", "002-blue", "003-yellow"]

            faults.opened.clear()
            faults.batches.clear()
            blocking = search(client, "red")
            while not faults.batches:
                await asyncio.sleep(0.001)
            together = [search(client, colour) for colour in ("green", "magenta", "blue")]
            await until(service, "sightline_queue_items", 3, modality="text", lane="interactive")
            faults.opened.set()
            while len(faults.batches) < 2:
                await asyncio.sleep(0)
            together[1].cancel()
            await blocking
            assert (await together[0]).json()["results"][0]["id"] == "001-green"
            assert (await together[2]).json()["results"][0]["id"] == "002-blue"

    asyncio.run(scenario())
    assert "gone while queued" not in faults.encoded


def test_clients_that_leave_again_and_again_leave_nothing_behind(make_service: MakeService) -> None:
    """R6: tasks, files, pixels and units are what they were."""
    service, _ = faulty(make_service)
    pictures = [picture_bytes("green", (40 + number, 30)) for number in range(10)]

    async def scenario() -> None:
        async with service.client() as client:
            await client.post("/v1/image-to-image", content=pictures[0])
            tasks, files = len(asyncio.all_tasks()), num_open_files()
            for round in range(10):
                asked = [search(client, f"{round} {number}") for number in range(5)]
                asked += [asyncio.ensure_future(client.post("/v1/image-to-image", content=one)) for one in pictures]
                for turn in range(round):
                    await asyncio.sleep(0.0005 * turn)
                for one in asked:
                    one.cancel()
                await asyncio.gather(*asked, return_exceptions=True)
            for name in ("admitted_units", "inflight_pixels", "inflight_requests", "buffered_body_bytes"):
                await until(service, f"sightline_{name}", 0)
            for modality in ("text", "image"):
                await until(service, "sightline_queue_items", 0, modality=modality, lane="interactive")
            assert len(asyncio.all_tasks()) == tasks
            assert num_open_files() <= files
            assert (await client.post("/v1/image-to-image", content=pictures[1])).status_code == 200

    asyncio.run(scenario())


def test_a_request_larger_than_the_whole_queue_is_split_and_never_waits_for_ever(make_service: MakeService) -> None:
    """R8: TEI #723 let an input that exceeds the batch budget wait for ever. Here parts of it are admitted."""
    service, faults = faulty(make_service, max_queue_units=64, max_batch_texts=4)
    answer = service.post("/v1/embeddings", json={"input": [f"word {number}" for number in range(200)]})
    assert answer.status_code == 200
    assert len(answer.json()["data"]) == 200
    assert max(map(len, faults.batches)) <= 4
    pictures = [{"image": "data:image/png;base64," + _base64(picture_bytes("red", (9 + n, 9)))} for n in range(20)]
    assert service.post("/v1/embeddings", json={"input": pictures}).status_code == 200


def test_one_poisoned_input_among_sixteen_fails_alone(make_service: MakeService) -> None:
    """R9"""
    service, faults = faulty(make_service)
    faults.opened.clear()
    faults.poison = "poison"
    colours = ["red", "green", "blue", "yellow", "cyan", "magenta", "white"] * 2

    async def scenario() -> list[httpx.Response]:
        async with service.client() as client:
            first = search(client, "black")
            while not faults.batches:
                await asyncio.sleep(0.001)
            texts = [f"{colour} {number}" for number, colour in enumerate(colours)]
            texts.insert(7, "poison")
            asked = [first, *(search(client, text) for text in texts)]
            await until(service, "sightline_queue_items", 15, modality="text", lane="interactive")
            faults.opened.set()
            return await asyncio.gather(*asked)

    answers = asyncio.run(scenario())
    assert [answer.status_code for answer in answers].count(200) == 15
    bad = answers[8]
    assert (bad.status_code, bad.json()["code"]) == (500, "encoding_failed")
    assert "0x7f3a" not in bad.text
    found = [answer.json()["results"][0]["id"][4:] for answer in answers if answer.status_code == 200]
    assert found == ["black", *colours]
    assert service.metric("sightline_encode_failures_total", modality="text") == 1


def test_batching_changes_no_answer(tiny_encoder: Encoder, tmp_path: Path) -> None:
    """R10: 64 texts and 64 pictures at once, all different, on a real encoder: each vector is the one it has alone."""
    settings = load_settings({"cache_bytes": 0, "canary_interval_seconds": 0})
    (tmp_path / "red.png").write_bytes(flat("red"))
    source, out = open_source(str(tmp_path)), tmp_path / "collection"
    build_collection(tiny_encoder, "tiny", source, "photos", out, BuildOptions())
    snapshot = index_generation(open_collection(out), tiny_encoder.fingerprint)
    engine = Engine(tiny_encoder, snapshot, settings, Metrics("0"))
    engine.start()
    colours = [((n * 37) % 256, (n * 91) % 256, (n * 53) % 256) for n in range(64)]
    inputs: list[Any] = [f"word {n} " * (1 + n % 9) for n in range(64)]
    inputs += [{"image": _base64(flat(colour, (20 + n, 90 - n)))} for n, colour in enumerate(colours)]

    async def embed(client: httpx.AsyncClient, one: Any) -> Any:
        answer = await client.post("/v1/embeddings", json={"input": one})
        assert answer.status_code == 200, answer.text
        return answer.json()["data"][0]["embedding"]

    async def scenario() -> None:
        transport = httpx.ASGITransport(create_app(engine, settings))
        async with httpx.AsyncClient(transport=transport, base_url="http://test", timeout=60) as client:
            together = np.array(await asyncio.gather(*(embed(client, one) for one in inputs)))
            alone = np.array([await embed(client, one) for one in inputs])
        np.testing.assert_allclose(together, alone, atol=1e-5)
        nearest = (together[64:] @ alone[64:].T).argmax(axis=1)
        assert (nearest == np.arange(64)).all(), "no picture was given another's vector"

    try:
        asyncio.run(scenario())
    finally:
        engine.close()


def test_out_of_memory_halves_batches_and_is_remembered(make_service: MakeService) -> None:
    """R20: 32 → 16 → 8, every answer right, and the next batches are small from the beginning."""
    service, faults = faulty(make_service, max_batch_texts=32, bulk_from_items=1000)
    faults.largest_that_fits = 8
    texts = [f"{colour} {number}" for number in range(4) for colour in ("red", "green", "blue", "cyan")] * 2
    texts = [f"{text} {number}" for number, text in enumerate(texts)]
    body = {"text": texts, "k": 1}
    answer = service.post("/v1/text-to-image", json=body)
    found = [results[0]["id"][4:] for results in answer.json()["results"]]
    assert found == [text.partition(" ")[0] for text in texts]
    assert [len(batch) for batch in faults.batches[:3]] == [32, 16, 8]
    retries = service.metric("sightline_oom_retries_total", modality="text")
    assert retries >= 2
    faults.batches.clear()
    assert service.post("/v1/text-to-image", json=body).status_code == 200
    assert max(map(len, faults.batches)) == 8
    assert service.metric("sightline_oom_retries_total", modality="text") == retries


def test_out_of_memory_for_one_item_is_a_503_and_the_service_goes_on(make_service: MakeService) -> None:
    """R21"""
    service, faults = faulty(make_service)
    faults.largest_that_fits = 0
    answer = service.post("/v1/text-to-image", json={"text": "red"})
    assert (answer.status_code, answer.json()["code"]) == (503, "out_of_memory")
    assert int(answer.headers["retry-after"]) >= 1
    assert service.get("/readyz").status_code == 200
    faults.largest_that_fits = 1
    assert service.post("/v1/text-to-image", json={"text": "red"}).status_code == 200, "not quarantined"


def test_parsing_decoding_encoding_and_searching_are_never_on_the_event_loop(
    make_service: MakeService, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R18"""
    service, _ = faulty(make_service)
    threads: dict[str, int] = {}

    def noting(name: str, function: Any) -> Any:
        def noted(*arguments: Any, **options: Any) -> Any:
            threads[name] = threading.get_ident()
            return function(*arguments, **options)

        return noted

    monkeypatch.setattr("sightline.images.Image.open", noting("header", Image.open))
    monkeypatch.setattr(service.engine.decoder, "_preprocess", noting("decode", service.encoder.preprocess))
    monkeypatch.setattr(service.encoder, "encode_pixels", noting("encode", service.encoder.encode_pixels))
    monkeypatch.setattr("service.answers.image_results", noting("search", answers.image_results))
    monkeypatch.setattr("service.edge.bodies.decode_base64", noting("base64", bodies.decode_base64))
    large = flat("red", (500, 400), "BMP")

    async def scenario() -> int:
        async with service.client() as client:
            answer = await client.post("/v1/image-to-image", json={"image": _base64(large)})
            assert answer.status_code == 200
        return threading.get_ident()

    loop_thread = asyncio.run(scenario())
    assert set(threads) == {"header", "decode", "encode", "search", "base64"}
    assert loop_thread not in threads.values()


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()
