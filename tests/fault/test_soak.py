"""R24: thousands of mixed requests, good, bad and cancelled, leave nothing behind in a real process.

``SIGHTLINE_SOAK_REQUESTS`` (default 10,000) says how many. Status 0 counts clients that left without waiting.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import random
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests import hostile_pictures as hostile
from tests.e2e.running import serving
from tests.fault.wire import Client, State, http, state_of
from tests.pictures import encoded, textured

DEFAULT_REQUESTS = 10_000
WARM_UP_REQUESTS = 4_000
NUM_CLIENTS = 12
MAX_GROWTH_BYTES = 32 * 2**20
CACHE_BYTES = 2 * 2**20
"""So small that it is full before the measuring begins: filling the default of 64 MiB would be growth as well."""


@dataclass(frozen=True)
class Request:
    """The bytes of one request, and the statuses it may have; without any, the client leaves without reading."""

    data: bytes
    statuses: frozenset[int]


def form(image: bytes) -> bytes:
    return (
        b'--b\r\nContent-Disposition: form-data; name="image"; filename="../../x"\r\n\r\n' + image
        + b'\r\n--b\r\nContent-Disposition: form-data; name="k"\r\n\r\n3\r\n--b--\r\n'
    )  # fmt: skip


class Mixture:
    """An endless supply of requests, most of them different from all before."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._pictures = [encoded(textured((64, 48), number), "JPEG") for number in range(60)]
        self._bomb = hostile.large(13_300, "png 1")
        self._kinds: list[tuple[int, Callable[[], Request]]] = [
            (30, self._text), (12, self._raw), (5, self._form), (8, self._embeddings), (5, self._zero_shot),
            (4, self._knn), (8, self._look), (12, self._broken_picture), (8, self._broken_body), (4, self._nowhere),
            (4, self._gone),
        ]  # fmt: skip

    def __iter__(self) -> Iterator[Request]:
        weights = [weight for weight, _ in self._kinds]
        while True:
            (_, make), = self._random.choices(self._kinds, weights)  # fmt: skip
            yield make()

    def _words(self) -> str:
        return " ".join(f"w{self._random.randrange(10**9)}" for _ in range(self._random.randrange(1, 12)))

    def _picture(self) -> bytes:
        """A new picture each time: a comment makes other bytes of the same pixels."""
        chosen = self._random.choice(self._pictures)
        return chosen[:2] + hostile.jpeg_segment(0xFE, self._words().encode()) + chosen[2:]

    def _json(self, path: str, body: object, *statuses: int) -> Request:
        return Request(http("POST", path, json.dumps(body).encode()), frozenset(statuses))

    def _text(self) -> Request:
        many: object = [self._words() for _ in range(self._random.choice([2, 5, 40]))]
        text = self._words() if self._random.random() < 0.9 else many
        return self._json("/v1/text-to-image", {"text": text, "k": self._random.randrange(1, 20)}, 200)

    def _raw(self) -> Request:
        path = self._random.choice(["/v1/image-to-image?k=3", "/v1/image-to-text?k=5"])
        return Request(http("POST", path, self._picture(), "image/jpeg"), frozenset({200}))

    def _form(self) -> Request:
        body = form(self._picture())
        return Request(http("POST", "/v1/image-to-image", body, "multipart/form-data; boundary=b"), frozenset({200}))

    def _embeddings(self) -> Request:
        picture = base64.b64encode(self._picture()).decode()
        return self._json("/v1/embeddings", {"input": [self._words(), {"image": picture}, self._words()]}, 200)

    def _zero_shot(self) -> Request:
        picture = base64.b64encode(self._picture()).decode()
        labels = [f"label {number}" for number in range(self._random.choice([2, 5]))]
        if self._random.random() < 0.2:
            labels.append(self._words())
        return self._json("/v1/zero-shot", {"image": picture, "labels": labels}, 200)

    def _knn(self) -> Request:
        return self._json("/knn-service", {"text": self._words(), "modality": "image", "num_images": 3}, 200)

    def _look(self) -> Request:
        path = self._random.choice(
            ["/v1/limits", "/v1/models", "/v1/collections", "/readyz", "/metrics", "/", "/indices-list"]
        )
        return Request(http("GET", path), frozenset({200}))

    def _broken_picture(self) -> Request:
        picture = self._picture()
        broken = self._random.choice([
            picture[: self._random.randrange(len(picture))], self._bomb, hostile.black_png(1, 4000),
            hostile.jpeg_with(b"\xff\xfe\0\2" * 3000), b"words", b"<svg/>", self._random.randbytes(200),
        ])  # fmt: skip
        statuses = frozenset({413, 415, 422})
        if self._random.random() < 0.5:
            return Request(http("POST", "/v1/image-to-image", broken, "image/jpeg"), statuses)
        return self._json("/v1/image-to-text", {"image": base64.b64encode(broken).decode()}, *statuses)

    def _broken_body(self) -> Request:
        path, body = self._random.choice([
            ("/v1/text-to-image", b"{"), ("/v1/text-to-image", b""), ("/v1/text-to-image", b'{"text": 3}'),
            ("/v1/text-to-image", b'{"text": "a", "k": 0}'),
            ("/v1/text-to-image", b'{"text": "' + b"a" * 16_000 + b'"}'),
            ("/v1/text-to-image", b"[" * 10_000), ("/v1/embeddings", b'{"input": [1, 2]}'),
            ("/v1/embeddings", b'{"input": {"image": "%%%"}}'), ("/knn-service", b'{"embedding_input": [0.0]}'),
            ("/v1/zero-shot", b'{"image": "AAAA", "labels": []}'),
            ("/v1/image-to-text", b'{"image": "https://127.0.0.1/"}'),
            ("/v1/text-to-image", b'{"text": "a", "filter": {"must": [{"key": "x"}]}}'),
        ])  # fmt: skip
        return Request(http("POST", path, body), frozenset({400, 413, 415, 422}))

    def _nowhere(self) -> Request:
        path = f"/{self._random.randrange(10**9)}/{self._words().replace(' ', '/')}"
        method = self._random.choice(["GET", "POST", "PUT", "BREW", f"M{self._random.randrange(1000)}"])
        return Request(http(method, path), frozenset({404, 405}))

    def _gone(self) -> Request:
        whole = self._random.choice([self._text, self._raw, self._embeddings])().data
        return Request(whole[: self._random.choice([len(whole), len(whole), len(whole) // 2])], frozenset())


async def soak(url: str, mixture: Iterator[Request], num_requests: int) -> Counter[int]:
    """Send requests from several clients at once; every status must be one that its request may have."""
    seen: Counter[int] = Counter()
    left = num_requests

    async def work() -> None:
        nonlocal left
        client = Client(url)
        while left > 0:
            left -= 1
            request = next(mixture)
            if not request.statuses:
                await client.send(request.data)
                await asyncio.sleep(0.002)
                await client.close()
                seen[0] += 1
                continue
            answer = await client.ask(request.data)
            seen[answer.status] += 1
            assert answer.status in request.statuses, (answer, request.data[:500])
        await client.close()

    async with asyncio.TaskGroup() as group:
        for _ in range(NUM_CLIENTS):
            group.create_task(work())
    return seen


async def scenario(url: str, num_requests: int) -> tuple[Counter[int], State, State]:
    mixture = iter(Mixture(seed=num_requests))
    await soak(url, mixture, WARM_UP_REQUESTS)
    await asyncio.sleep(2)
    before = await state_of(url)
    seen = await soak(url, mixture, num_requests)
    await asyncio.sleep(2)
    return seen, before, await state_of(url)


@pytest.mark.fault
@pytest.mark.timeout(0)
def test_nothing_is_left_behind(collection: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """R24, R6: memory, files, series and every gauge of work in hand are what they were after the warm-up."""
    num_requests = int(os.environ.get("SIGHTLINE_SOAK_REQUESTS", DEFAULT_REQUESTS))
    watchdog_seconds = 300 + num_requests / 10
    options = ("--set", "log_level=error", "--set", f"cache_bytes={CACHE_BYTES}")
    with serving(collection, *options, watchdog_seconds=watchdog_seconds) as url:
        seen, before, after = asyncio.run(scenario(url, num_requests))
    with capsys.disabled():
        sys.stdout.write(f"\n{num_requests} requests: {dict(sorted(seen.items()))}\nbefore {before}\nafter  {after}\n")
    assert max(seen) < 500
    assert after.resident_bytes - before.resident_bytes <= MAX_GROWTH_BYTES
    assert after.open_files <= before.open_files + 2
    assert after.num_series <= before.num_series * 1.02
    assert set(after.held.values()) == {0.0}
