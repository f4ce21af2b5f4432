"""A real process under more than it can do: it refuses in time, answers its probes, and keeps to its memory."""

from __future__ import annotations

import asyncio
import base64
import json
import re
import time
from collections import Counter
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest

from tests import hostile_pictures as hostile
from tests.e2e.running import serving
from tests.fault.wire import Client, http, state_of

pytestmark = pytest.mark.fault

MEGABYTE = 1_000_000
PROBE_SECONDS = 0.2


class Probing:
    """Asks the probes every 50 ms; remembers the slowest answer and the highest resident memory."""

    def __init__(self, url: str) -> None:
        self._url = url
        self.slowest_seconds = 0.0
        self.peak_bytes = 0.0
        self.num_answers = 0

    async def run(self) -> None:
        clients = {path: Client(self._url) for path in ("/livez", "/readyz", "/metrics")}
        while True:
            for path, client in clients.items():
                started = time.perf_counter()
                answer = await client.ask(http("GET", path))
                self.slowest_seconds = max(self.slowest_seconds, time.perf_counter() - started)
                assert answer.status == 200, (path, answer.body)
                self.num_answers += 1
                resident = re.search(rb"\nprocess_resident_memory_bytes (\S+)", answer.body)
                if resident is not None:
                    self.peak_bytes = max(self.peak_bytes, float(resident[1]))
            await asyncio.sleep(0.05)


async def flood(url: str, requests: Iterator[bytes], num_clients: int, seconds: float) -> Counter[int]:
    """Clients that ask again as soon as they are answered; a refusal must say when to come back."""
    seen: Counter[int] = Counter()
    end = time.monotonic() + seconds

    async def work() -> None:
        client = Client(url)
        while time.monotonic() < end:
            answer = await client.ask(next(requests))
            seen[answer.status] += 1
            assert answer.status != 429 or re.search(rb"\r\nretry-after: [1-9]", answer.head), answer.head
        await client.close()

    async with asyncio.TaskGroup() as group:
        for _ in range(num_clients):
            group.create_task(work())
    return seen


def under_load(url: str, requests: Iterator[bytes], num_clients: int, seconds: float) -> tuple[Counter[int], Probing]:
    async def scenario() -> tuple[Counter[int], Probing]:
        probing = Probing(url)
        probes = asyncio.ensure_future(probing.run())
        seen = await flood(url, requests, num_clients, seconds)
        assert not probes.done(), probes.result()
        probes.cancel()
        return seen, probing

    return asyncio.run(scenario())


def test_more_requests_than_can_be_worked_on(collection: Path) -> None:
    """R1, R7: what does not fit is refused with 429 and a time, the rest is answered, and the probes are in time."""
    bodies = (json.dumps({"text": f"word {number}", "k": 3}).encode() for number in count())
    requests = (http("POST", "/v1/text-to-image", body) for body in bodies)
    limits = ("--set", "max_inflight_requests=16", "--set", "log_level=error")
    with serving(collection, *limits) as url:
        seen, probing = under_load(url, requests, num_clients=80, seconds=10)
        held = asyncio.run(state_of(url)).held
    assert set(seen) == {200, 429}, seen
    assert seen[200] > 100
    assert probing.num_answers > 50
    assert probing.slowest_seconds < PROBE_SECONDS
    assert set(held.values()) == {0.0}


def test_large_pictures_and_bombs_at_once(collection: Path) -> None:
    """B2, R23: the memory of pictures being decoded stays within its budget, whatever comes and however much of it."""
    side_px = 3000
    large = [hostile.large(side_px, kind) for kind in ("png alpha", "png grey 16", "jpeg turned", "webp alpha")]
    bombs = [hostile.large(13_300, "png 1"), hostile.large(20_000, "png 1"), hostile.black_png(1, 4000)]
    pictures = [*large, *bombs]

    def requests() -> Iterator[bytes]:
        for number in count():
            picture = pictures[number % len(pictures)]
            if number % 2:
                yield http("POST", "/v1/image-to-image", picture, "image/png")
            else:
                body = json.dumps({"image": base64.b64encode(picture).decode()}).encode()
                yield http("POST", "/v1/image-to-text", body)

    budget_pixels = 40_000_000
    options = ("max_inflight_pixels=40000000", "log_level=error", "cache_bytes=0", "default_timeout_seconds=60")
    arguments = [part for option in options for part in ("--set", option)]
    with serving(collection, *arguments) as url:
        before = asyncio.run(state_of(url)).resident_bytes
        seen, probing = under_load(url, requests(), num_clients=24, seconds=15)
        held = asyncio.run(state_of(url)).held
    assert set(seen) <= {200, 413, 429}, seen
    assert seen[200] > 5
    assert seen[413] > 5
    growth_bytes = probing.peak_bytes - before
    assert growth_bytes < 4 * budget_pixels + 300 * MEGABYTE, "the first batches, and what malloc keeps, included"
    assert probing.slowest_seconds < 2 * PROBE_SECONDS, "all cores decode"
    assert set(held.values()) == {0.0}
