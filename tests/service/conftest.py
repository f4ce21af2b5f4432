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
from service.milvus import snapshot_of
from service.settings import Settings, load_settings
from sightline.collection import Generation
from sightline.milvus import MilvusGeneration
from tests.fakes import FakeEncoder, build_fake_collection
from tests.milvus import pushed


class Service:
    """An engine, its app, and blocking calls for tests that ask one thing at a time."""

    def __init__(self, encoder: FakeEncoder, generation: Generation, settings: Settings) -> None:
        self.encoder = encoder
        self.settings = settings
        self.metrics = Metrics("0.0.0")
        snapshot = snapshot_of(generation, encoder.fingerprint)
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


SEARCH_TESTS = ("test_search_routes", "test_filtered_search", "test_clip_retrieval_dialect")
"""Modules whose tests run on every backend, unchanged."""
BACKENDS = ("disk", "milvus")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Give the tests of searching a backend each."""
    if metafunc.module.__name__.rpartition(".")[2] in SEARCH_TESTS and "backend" in metafunc.fixturenames:
        metafunc.parametrize("backend", BACKENDS, indirect=True, scope="session")


@pytest.fixture(scope="session")
def backend(request: pytest.FixtureRequest) -> str:
    """Where collections are searched: on the disk that they were built on, or pushed into Milvus."""
    return str(getattr(request, "param", "disk"))


@pytest.fixture(scope="session")
def place(backend: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[Generation], Generation]]:
    """A collection as the backend has it."""
    made: list[MilvusGeneration] = []

    def push(built: Generation) -> Generation:
        if backend == "disk":
            return built
        made.append(pushed(built, tmp_path_factory.mktemp("milvus")))
        return made[-1]

    yield push
    for one in made:
        one.server.close()


@pytest.fixture(scope="session")
def generation(tmp_path_factory: pytest.TempPathFactory, place: Callable[[Generation], Generation]) -> Generation:
    """Eight flat pictures with one caption each, in a collection called photos."""
    return place(build_fake_collection(tmp_path_factory.mktemp("collections") / "photos"))


@pytest.fixture
def make_service(generation: Generation, place: Callable[[Generation], Generation]) -> Iterator[MakeService]:
    """Builds services with other settings, encoders or collections; closes them afterwards."""
    made: list[Service] = []

    def make(*, encoder: FakeEncoder | None = None, collection: Generation | None = None, **settings: Any) -> Service:
        where = generation if collection is None else place(collection)
        made.append(Service(encoder or FakeEncoder(), where, load_settings(settings)))
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
