"""Pages of other origins: none is allowed unless it is listed (B21)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from service.settings import load_settings
from sightline.errors import SettingError
from tests.service.conftest import MakeService, Service

PREFLIGHT = {"origin": "https://photos.example.org", "access-control-request-method": "POST"}


def test_no_origin_is_allowed_by_default(service: Service) -> None:
    assert (
        service.get("/livez", headers={"origin": "https://photos.example.org"})
        .headers.keys()
        .isdisjoint({"access-control-allow-origin"})
    )
    assert service.request("OPTIONS", "/v1/text-to-image", headers=PREFLIGHT).status_code == 405


@pytest.mark.parametrize(
    ("ask", "status"),
    [
        (lambda service: service.post("/v1/text-to-image", json={"text": "red"}, headers=PREFLIGHT), 401),
        (lambda service: service.get("/livez", headers=PREFLIGHT), 200),
        (lambda service: service.request("OPTIONS", "/v1/text-to-image", headers=PREFLIGHT), 200),
    ],
    ids=["refused", "answered", "preflight"],
)
def test_a_listed_origin_reads_answers_and_refusals(
    make_service: MakeService, files: dict[str, Path], ask: Callable[[Service], httpx.Response], status: int
) -> None:
    service = make_service(**files, cors_origins="https://photos.example.org, http://localhost:3000")
    response = ask(service)
    assert response.status_code == status
    assert response.headers["access-control-allow-origin"] == "https://photos.example.org"
    assert "access-control-allow-credentials" not in response.headers


def test_an_origin_that_is_not_listed_is_not_allowed(make_service: MakeService) -> None:
    service = make_service(cors_origins=["https://photos.example.org"])
    refused = service.request("OPTIONS", "/v1/limits", headers={**PREFLIGHT, "origin": "https://evil.example"})
    assert refused.status_code == 400
    for response in (refused, service.get("/v1/limits", headers={"origin": "https://evil.example"})):
        assert "access-control-allow-origin" not in response.headers


@pytest.mark.parametrize("origins", ["*", "https://*.example.org", "photos.example.org", "https://a.example/", "null"])
def test_origins_are_explicit(origins: str) -> None:
    with pytest.raises(SettingError, match="list whole origins like"):
        load_settings({"cors_origins": origins})
