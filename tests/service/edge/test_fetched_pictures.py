"""B22 through the routes: pictures by address are refused by default, and answered like others where allowed."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest

from service.edge import fetching
from sightline.errors import SettingError
from tests.service.conftest import MakeService, Service
from tests.service.edge.internet import HOST, PICTURE, MakeLocal, answering, fetcher, saying

ADDRESSES = ["https://example.org/cat.jpg", "HTTP://127.0.0.1/", "file:///etc/passwd", "gopher://x/", "ftp://x/a.png"]


def bodies(url: str) -> list[tuple[str, dict[str, Any]]]:
    return [
        ("/v1/image-to-image", {"image": url}),
        ("/v1/image-to-text", {"image": url}),
        ("/v1/zero-shot", {"image": url, "labels": ["red", "green"]}),
        ("/v1/embeddings", {"input": [{"type": "image_url", "image_url": {"url": url}}]}),
        ("/v1/embeddings", {"input": {"image": url}}),
        ("/knn-service", {"image_url": url}),
        ("/knn-service", {"image": url}),
    ]


@pytest.mark.parametrize("url", ADDRESSES)
def test_addresses_are_off_by_default_on_every_route(service: Service, url: str) -> None:
    """B22"""
    assert service.get("/v1/limits").json()["max_image_urls"] == 0
    for route, body in bodies(url):
        answer = service.post(route, json=body)
        assert answer.status_code == 422, route
        found = answer.json()
        assert found.get("error", found)["code"] == "url_not_allowed", route


def test_a_data_uri_does_not_nest(service: Service) -> None:
    """B22: data: nested."""
    nested = "data:image/png;base64,data:image/png;base64,AAAA"
    for route, body in bodies(nested):
        assert service.post(route, json=body).status_code == 400, route


def test_a_fetched_picture_is_answered_like_one_that_was_sent(make_service: MakeService) -> None:
    service = make_service(image_url_hosts=HOST, image_url_http=True)
    assert service.get("/v1/limits").json()["max_image_urls"] == fetching.MAX_URLS

    async def scenario() -> None:
        async with answering(saying("200 OK", PICTURE)) as port, service.client() as client:
            service.engine.fetcher = fetcher(transport=MakeLocal(port))
            for route, body in bodies(f"http://{HOST}/a.png"):
                answer = await client.post(route, json=body)
                assert answer.status_code == 200, answer.text
            assert "fetch;dur=" in answer.headers["server-timing"]
            found = await client.post("/v1/image-to-image", json={"image": f"http://{HOST}/a.png", "k": 1})
            assert found.json()["results"][0]["id"] == "001-green"

    asyncio.run(scenario())


def test_what_is_fetched_is_looked_at_like_any_picture(make_service: MakeService) -> None:
    """The content type that a server claims is ignored."""
    service = make_service(image_url_hosts=HOST, image_url_http=True)

    async def scenario() -> httpx.Response:
        lying = saying("200 OK\r\nContent-Type: image/png", b"<html>not a picture</html>")
        async with answering(lying) as port, service.client() as client:
            service.engine.fetcher = fetcher(transport=MakeLocal(port))
            return await client.post("/v1/image-to-image", json={"image": f"http://{HOST}/a.png"})

    answer = asyncio.run(scenario())
    assert (answer.status_code, answer.json()["code"]) == (415, "image_format")
    assert "html" not in answer.text


def test_fetched_bytes_are_given_back_when_the_request_ends(make_service: MakeService) -> None:
    service = make_service(image_url_hosts=HOST, image_url_http=True, max_body_bytes=1024)

    async def scenario() -> httpx.Response:
        async with answering(saying("200 OK", bytes(2000))) as port, service.client() as client:
            service.engine.fetcher = fetcher(transport=MakeLocal(port))
            return await client.post("/v1/image-to-image", json={"image": f"http://{HOST}/a.png"})

    assert asyncio.run(scenario()).json()["code"] == "body_too_large"
    assert service.metric("sightline_buffered_body_bytes") == 0


@pytest.mark.parametrize("hosts", ["*", "127.0.0.1", "https://good.example", "Good.example", "a,*.b"])
def test_hosts_are_names_and_nothing_else(make_service: MakeService, hosts: str) -> None:
    with pytest.raises(SettingError, match="host names like"):
        make_service(image_url_hosts=hosts)
