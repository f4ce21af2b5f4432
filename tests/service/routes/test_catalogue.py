"""Items, thumbnails, collections, limits, probes and metrics."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from PIL import Image

from service.openapi import schemas
from service.routes.page import CONTENT_SECURITY_POLICY
from tests.fakes import FINGERPRINT, SPEC, build_fake_collection
from tests.service.conftest import MakeService, Service


def test_an_item(service: Service) -> None:
    answer = schemas.ItemAnswer.model_validate_json(service.get("/v1/items/003-yellow").content)
    item = answer.item
    assert (item.id, item.captions, item.width_px, item.height_px) == ("003-yellow", ["a yellow picture"], 32, 24)
    assert item.thumbnail == "/v1/items/003-yellow/thumbnail"


@pytest.mark.parametrize("path", ["nope", "nope/thumbnail", "..%2f..%2fetc%2fpasswd", "%00", "a%2Fb/thumbnail"])
def test_an_unknown_item(service: Service, path: str) -> None:
    response = service.get(f"/v1/items/{path}")
    assert (response.status_code, response.json()["code"]) == (404, "not_found")


def test_a_thumbnail_is_webp_and_can_be_kept(service: Service) -> None:
    first = service.get("/v1/items/000-red/thumbnail")
    picture = Image.open(io.BytesIO(first.content))
    assert (picture.format, picture.size) == ("WEBP", (16, 12))
    assert first.headers["content-type"] == "image/webp"
    assert first.headers["x-content-type-options"] == "nosniff"
    again = service.get("/v1/items/000-red/thumbnail", headers={"if-none-match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    other = service.get("/v1/items/001-green/thumbnail", headers={"if-none-match": first.headers["etag"]})
    assert other.status_code == 200


def test_a_collection_without_thumbnails(make_service: MakeService, tmp_path: Path) -> None:
    service = make_service(collection=build_fake_collection(tmp_path / "photos", ["red"], thumbnails=False))
    assert service.get("/v1/items/000-red/thumbnail").status_code == 404


def test_collections(service: Service) -> None:
    (entry,) = schemas.CollectionsAnswer.model_validate_json(service.get("/v1/collections").content).collections
    assert (entry.name, entry.generation, entry.encoder, entry.encoder_name) == (
        "photos", "gen-000001", FINGERPRINT, SPEC,
    )  # fmt: skip
    assert (entry.num_items, entry.num_captions) == (8, 8)


def test_limits_are_the_settings(make_service: MakeService) -> None:
    service = make_service(max_image_side_px=77)
    limits = schemas.LimitsAnswer.model_validate_json(service.get("/v1/limits").content)
    assert limits.max_image_side_px == 77
    assert (limits.max_k, limits.max_texts, limits.max_openai_inputs) == (1000, 64, 2048)


def test_probes(make_service: MakeService) -> None:
    service = make_service()
    assert service.get("/livez").json() == {"status": "alive"}
    assert service.get("/readyz").json() == {"status": "ready"}
    assert service.metric("sightline_ready") == 1
    service.engine.drain()
    assert service.get("/livez").status_code == 200
    draining = service.get("/readyz")
    assert (draining.status_code, draining.json()["code"]) == (503, "shutting_down")
    assert draining.headers["retry-after"]
    assert service.metric("sightline_ready") == 0
    assert service.post("/v1/text-to-image", json={"text": "red"}).status_code == 200, "in-flight work is finished"


def test_after_closing_questions_hear_not_ready(make_service: MakeService) -> None:
    service = make_service()
    service.engine.close()
    response = service.post("/v1/text-to-image", json={"text": "red"})
    assert (response.status_code, response.json()["code"]) == (503, "not_ready")


def test_metrics_count_requests_by_template_and_never_by_path(make_service: MakeService) -> None:
    service = make_service()
    service.get("/v1/items/000-red")
    service.get("/v1/items/000-red/thumbnail")
    for path in ("/wp-login.php", "/.env", "/v1/nothing"):
        service.get(path)
    service.request("BREW", "/v1/limits")
    text = service.get("/metrics").text
    assert 'route="/v1/items/{item_id:path}",status="200"} 1.0' in text
    assert 'sightline_http_requests_total{method="GET",route="__unmatched__",status="404"} 3.0' in text
    assert 'method="_OTHER"' in text
    for leaked in ("wp-login", ".env", "000-red", "BREW"):
        assert leaked not in text


def test_metrics_of_the_work(make_service: MakeService) -> None:
    service = make_service()
    before = service.metric("sightline_encoded_items_total", modality="text")
    service.post("/v1/text-to-image", json={"text": ["red", "blue"]})
    service.post("/v1/text-to-image", json={"text": ""})
    assert service.metric("sightline_encoded_items_total", modality="text") == before + 2
    assert service.metric("sightline_rejected_total", reason="invalid_text") == 1
    assert service.metric("sightline_stage_duration_seconds_count", stage="search") == 1
    assert service.metric("sightline_index_vectors", kind="image") == 8
    assert service.metric("sightline_admitted_units") == 0
    assert service.metric("sightline_inflight_requests") == 0
    names = {family.name for family in service.metrics.registry.collect()}
    assert all(name.startswith(("sightline_", "process_")) for name in names)


def test_two_services_do_not_share_metrics(make_service: MakeService) -> None:
    one, other = make_service(), make_service()
    one.get("/livez")
    labels = {"route": "/livez", "method": "GET", "status": "200"}
    assert one.metric("sightline_http_requests_total", **labels) == 1
    assert other.metric("sightline_http_requests_total", **labels) == 0


@pytest.mark.parametrize(
    ("path", "media_type"),
    [
        ("/", "text/html"),
        ("/page/app.js", "text/javascript"),
        ("/page/style.css", "text/css"),
        ("/docs/errors", "text/html"),
    ],
)
def test_the_page_lets_nothing_else_in(service: Service, path: str, media_type: str) -> None:
    response = service.get(path)
    assert response.status_code == 200
    assert response.headers["content-type"].startswith(media_type)
    assert response.headers["content-security-policy"] == CONTENT_SECURITY_POLICY
    assert response.headers["x-content-type-options"] == "nosniff"


def test_a_problems_type_leads_to_its_line(service: Service) -> None:
    problem = service.get("/nope").json()
    path, _, anchor = problem["type"].partition("#")
    assert f'id="{anchor}"' in service.get(path).text


def test_there_is_no_docs_page_that_loads_scripts_from_elsewhere(service: Service) -> None:
    assert service.get("/docs").status_code == 404
    assert service.get("/redoc").status_code == 404
