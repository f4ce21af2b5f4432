"""A service over a real small collection and the fake encoder, and a client that speaks ASGI to it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from service.app import create_app
from service.engine import Engine
from service.metrics import Metrics
from service.settings import Settings, load_settings
from service.snapshot import index_generation
from sightline.collection import Generation
from tests.fakes import FakeEncoder, build_fake_collection


class Service:
    """An engine, its app, and blocking calls for tests that ask one thing at a time."""

    def __init__(self, encoder: FakeEncoder, generation: Generation, settings: Settings) -> None:
        self.encoder = encoder
        self.settings = settings
        self.metrics = Metrics("0.0.0")
        snapshot = index_generation(generation, encoder.fingerprint)
        self.engine = Engine(encoder, snapshot, settings, self.metrics)
        self.engine.start()
        self.app: FastAPI = create_app(self.engine, settings)

    def client(self) -> httpx.AsyncClient:
        """For tests that ask several things at once; an escaped exception fails the test."""
        return httpx.AsyncClient(transport=httpx.ASGITransport(self.app), base_url="http://test")

    def request(self, method: str, url: str, **options: Any) -> httpx.Response:
        async def ask() -> httpx.Response:
            async with self.client() as client:
                return await client.request(method, url, **options)

        return asyncio.run(ask())

    def get(self, url: str, **options: Any) -> httpx.Response:
        return self.request("GET", url, **options)

    def post(self, url: str, **options: Any) -> httpx.Response:
        return self.request("POST", url, **options)

    def metric(self, name: str, **labels: str) -> float:
        return self.metrics.registry.get_sample_value(name, labels) or 0.0


MakeService = Callable[..., Service]


@pytest.fixture(scope="session")
def generation(tmp_path_factory: pytest.TempPathFactory) -> Generation:
    """Eight flat pictures with one caption each, in a collection called photos."""
    return build_fake_collection(tmp_path_factory.mktemp("collections") / "photos")


@pytest.fixture
def make_service(generation: Generation) -> Iterator[MakeService]:
    """Builds services with other settings, encoders or collections; closes them afterwards."""
    made: list[Service] = []

    def make(*, encoder: FakeEncoder | None = None, collection: Generation | None = None, **settings: Any) -> Service:
        made.append(Service(encoder or FakeEncoder(), collection or generation, load_settings(settings)))
        return made[-1]

    yield make
    for one in made:
        one.engine.close()


@pytest.fixture(scope="session")
def service(generation: Generation) -> Iterator[Service]:
    """A service with the default settings, shared by tests that leave nothing behind."""
    one = Service(FakeEncoder(), generation, load_settings())
    yield one
    one.engine.close()
