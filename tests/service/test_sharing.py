"""The cache, shared encodings and quarantine, seen from outside."""

from __future__ import annotations

import asyncio
import base64
import threading
from typing import Any

import numpy as np

from tests.fakes import FakeEncoder, picture_bytes
from tests.service.conftest import MakeService, Service

GREEN = picture_bytes("green")


def embed(service: Service, *inputs: object) -> Any:
    return service.post("/v1/embeddings", json={"input": list(inputs)})


def test_the_header_says_how_the_inputs_were_met(make_service: MakeService) -> None:
    service = make_service()
    seen = [embed(service, *inputs).headers["x-sightline-cache"] for inputs in (["a"], ["a"], ["a", "b"], ["b", "b"])]
    assert seen == ["miss", "hit", "mixed", "hit"]
    assert "x-sightline-cache" not in service.get("/v1/limits").headers


def test_a_picture_is_known_by_its_bytes_whatever_the_route(make_service: MakeService) -> None:
    service = make_service()
    before = service.metric("sightline_encoded_items_total", modality="image")
    assert service.post("/v1/image-to-image", content=GREEN).headers["x-sightline-cache"] == "miss"
    for response in (
        service.post("/v1/image-to-text", files={"image": GREEN}),
        service.post("/v1/zero-shot", content=GREEN, params={"labels": ["red", "green"]}),
        embed(service, {"image": base64.b64encode(GREEN).decode()}),
    ):
        assert (response.status_code, response.headers["x-sightline-cache"]) == (200, "hit")
    assert service.metric("sightline_encoded_items_total", modality="image") == before + 1


def test_a_hit_needs_no_place_in_the_queue(make_service: MakeService) -> None:
    blocked, entered = threading.Event(), threading.Event()

    def block(modality: str, batch: Any) -> None:
        if modality == "text" and any(text.startswith("slow") for text in batch):
            entered.set()
            blocked.wait(10)

    service = make_service(encoder=FakeEncoder(before_encode=block), max_queue_units=64)
    embed(service, "known")

    async def play() -> list[int]:
        async with service.client() as client:
            full = [
                asyncio.create_task(client.post("/v1/embeddings", json={"input": f"slow {number}"}))
                for number in range(64)
            ]
            await asyncio.to_thread(entered.wait, 5)
            known = await client.post("/v1/embeddings", json={"input": "known"})
            new = await client.post("/v1/embeddings", json={"input": "new"})
            same = asyncio.create_task(client.post("/v1/embeddings", json={"input": "slow 1"}))
            await asyncio.sleep(0.05)
            blocked.set()
            await asyncio.gather(*full)
            return [known.status_code, new.status_code, (await same).status_code]

    assert asyncio.run(play()) == [200, 429, 200]


def test_poisoned_content_is_refused_the_second_time(make_service: MakeService) -> None:
    """R9: one poisoned item among sixteen fails alone, and is not let in again."""
    calls: list[int] = []

    def poison(modality: str, batch: Any) -> None:
        calls.append(len(batch))
        if modality == "text" and "poison" in batch:
            raise RuntimeError("device text that must not be shown")

    service = make_service(encoder=FakeEncoder(before_encode=poison))
    texts = [f"text {number}" for number in range(15)]
    embed(service, *texts)  # the encoder is well

    async def together() -> list[int]:
        async with service.client() as client:
            answers = await asyncio.gather(
                *(client.post("/v1/embeddings", json={"input": text}) for text in ["poison", *(f"{t}!" for t in texts)])
            )
            return [answer.status_code for answer in answers]

    assert asyncio.run(together()) == [500] + [200] * 15
    before = len(calls)
    refused = embed(service, "fine", "poison")
    assert (refused.status_code, refused.json()["error"]["code"]) == (422, "quarantined")
    assert refused.json()["error"]["param"] == "input[1]"
    assert len(calls) == before
    assert service.metric("sightline_quarantined_inputs") == 1
    assert service.metric("sightline_rejected_total", reason="quarantined") == 1


def test_running_out_of_memory_is_held_against_nobody(make_service: MakeService) -> None:
    failing = False

    def run_out(modality: str, batch: Any) -> None:
        if failing:
            raise MemoryError

    service = make_service(encoder=FakeEncoder(before_encode=run_out))
    failing = True
    assert service.post("/v1/image-to-image", content=GREEN).status_code >= 500
    failing = False
    assert service.post("/v1/image-to-image", content=GREEN).status_code == 200


def test_equal_inputs_of_one_request_are_encoded_once(make_service: MakeService) -> None:
    service = make_service()
    before = service.metric("sightline_encoded_items_total", modality="text")
    answer = embed(service, *(["red", "green"] * 40)).json()
    vectors = np.array([one["embedding"] for one in answer["data"]])
    np.testing.assert_array_equal(vectors[0::2], np.tile(vectors[0], (40, 1)))
    np.testing.assert_array_equal(vectors[1::2], np.tile(vectors[1], (40, 1)))
    assert service.metric("sightline_encoded_items_total", modality="text") == before + 2
