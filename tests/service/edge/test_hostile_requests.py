"""Requests that cost more to read than to send: forms of many parts (B18), and scanners (B20)."""

from __future__ import annotations

import asyncio
import random
import string
from collections.abc import Iterator
from typing import Any

import pytest

from tests.fakes import picture_bytes
from tests.service.conftest import Service

GREEN = picture_bytes("green")


def form(*parts: tuple[str, bytes]) -> dict[str, Any]:
    """Options of a multipart request from whole part headers and bodies."""
    body = b"".join(b"--b\r\n" + head.encode() + b"\r\n\r\n" + content + b"\r\n" for head, content in parts)
    return {"content": body + b"--b--\r\n", "headers": {"content-type": "multipart/form-data; boundary=b"}}


def disposition(name: str, file: bool = False) -> str:
    return f'Content-Disposition: form-data; name="{name}"' + ('; filename="f"' if file else "")


IMAGE = (disposition("image", file=True), GREEN)


@pytest.mark.parametrize(
    "parts",
    [
        [(disposition(f"field-{n}"), b"x") for n in range(10_000)],
        [(disposition("labels"), b"x") for _ in range(10_000)],
        [(disposition(f"file-{n}", file=True), b"x") for n in range(10_000)],
        [(disposition("image", file=True) + "".join(f"\r\nX-{n}: y" for n in range(5000)), GREEN)],
        [(disposition("image", file=True) + "\r\nX: " + "y" * 200_000, GREEN)],
        [("X: y", GREEN)],
        [(disposition("image" * 50_000, file=True), GREEN)],
    ],
    ids=["fields", "labels", "files", "part headers", "long part header", "no name", "long name"],
)
def test_forms_of_many_parts_are_refused(service: Service, parts: list[tuple[str, bytes]]) -> None:
    """B18."""
    response = service.post("/v1/zero-shot", **form(*parts))
    assert (response.status_code, response.json()["code"]) == (400, "malformed_body")


def test_an_ordinary_form_of_the_same_making_is_taken(service: Service) -> None:
    response = service.post("/v1/image-to-image", **form(IMAGE, (disposition("k"), b"1")))
    assert response.json()["results"][0]["id"] == "001-green"


def test_a_boundary_without_end_is_refused(service: Service) -> None:
    options = form(IMAGE)
    options["headers"]["content-type"] += "b" * 10_000
    assert service.post("/v1/image-to-image", **options).status_code == 400


def names(count: int, seed: int) -> Iterator[str]:
    source = random.Random(seed)
    for number in range(count):
        yield "".join(source.choices(string.ascii_letters, k=8)) + str(number)


def series_of(service: Service) -> set[tuple[str, str]]:
    return {
        (sample.name, str(sorted(sample.labels.items())))
        for family in service.metrics.registry.collect()
        for sample in family.samples
    }


def test_scanners_add_no_series(service: Service) -> None:
    """B20: 10,000 paths and 1,000 methods (sglang #31193: 17,700 scanned paths became series)."""

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        statuses.add(message.get("status"))

    async def ask(method: str, path: str) -> None:
        scope = {
            "type": "http", "method": method, "path": path, "raw_path": path.encode(), "query_string": b"",
            "headers": [], "http_version": "1.1", "scheme": "http", "server": ("test", 80), "client": ("test", 1),
            "root_path": "", "asgi": {"version": "3.0"},
        }  # fmt: skip
        await service.app(scope, receive, send)

    async def scan(num_paths: int, num_methods: int, seed: int) -> None:
        for name in names(num_paths, seed):
            await ask("GET", random.Random(name).choice(["/", "/v1/", "/v1/items/", "/page/"]) + name)
        for method in names(num_methods, seed):
            await ask(method.upper(), "/v1/limits")

    statuses: set[int | None] = set()
    asyncio.run(scan(20, 20, seed=1))
    before = series_of(service)
    asyncio.run(scan(10_000, 1_000, seed=2))
    assert series_of(service) == before
    assert statuses - {None} == {404, 405}
