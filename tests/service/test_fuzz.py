"""Whatever is sent, the answer is an answer: no 5xx, and every refusal a whole problem document."""

from __future__ import annotations

import base64
import json
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from service.edge.problems import Problem
from service.openapi.dialects import OpenAIError
from tests import fuzzing
from tests.fakes import picture_bytes
from tests.service.conftest import Service

GREEN = picture_bytes("green")
JPEG = picture_bytes("green", (40, 30), "JPEG")
ENCODED = base64.b64encode(GREEN).decode()
BODIES: dict[str, list[dict[str, Any]]] = {
    "/v1/text-to-image": [{"text": "red", "k": 3, "filter": {"must": [{"key": "number", "range": {"gte": 1}}]}}],
    "/v1/image-to-image": [{"image": ENCODED, "k": 2, "min_score": 0.1}],
    "/v1/zero-shot": [{"image": ENCODED, "labels": ["red", "green"], "templates": ["a {}"]}],
    "/v1/embeddings": [{"input": ["red", {"image": ENCODED}], "encoding_format": "base64"}],
    "/knn-service": [{"text": "red", "modality": "text", "num_images": 3}, {"embedding_input": [0.1] * 8}],
}
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=5,
)
MANY = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


def check(service: Service, route: str, **options: Any) -> None:
    response = service.post(route, **options)
    assert response.status_code < 500, response.text
    if response.status_code >= 400:
        model = OpenAIError if route == "/v1/embeddings" else Problem
        model.model_validate_json(response.content)


@MANY
@given(st.data())
def test_bodies_with_one_value_replaced(service: Service, data: st.DataObject) -> None:
    route = data.draw(st.sampled_from(sorted(BODIES)))
    body = dict(data.draw(st.sampled_from(BODIES[route])))
    key = data.draw(st.sampled_from([*sorted(body), "unknown"]))
    body[key] = data.draw(JSON_VALUES)
    content = json.dumps(body).encode()  # NaN and Infinity included
    check(service, route, content=content, headers={"content-type": "application/json"})


@MANY
@given(route=st.sampled_from(sorted(BODIES)), content=st.binary(max_size=200))
def test_bodies_of_any_bytes(service: Service, route: str, content: bytes) -> None:
    for kind in ("application/json", "image/png", "multipart/form-data; boundary=b"):
        check(service, route, content=content, headers={"content-type": kind})


@MANY
@given(picture=st.sampled_from([GREEN, JPEG]), place=st.floats(0, 1), junk=st.binary(max_size=8), cut=st.booleans())
def test_damaged_pictures(service: Service, picture: bytes, place: float, junk: bytes, cut: bool) -> None:
    start = int(place * len(picture))
    damaged = picture[:start] + junk + (b"" if cut else picture[start + len(junk) :])
    check(service, "/v1/image-to-image", content=damaged, headers={"content-type": "image/png"})


@MANY
@given(
    query=st.dictionaries(
        st.sampled_from(["k", "min_score", "filter", "labels", "templates", "x"]), st.text(max_size=12)
    ),
    route=st.sampled_from(["/v1/image-to-text", "/v1/zero-shot"]),
)
def test_query_strings(service: Service, query: dict[str, str], route: str) -> None:
    check(service, route, content=GREEN, params={key: value.encode("utf-8", "replace") for key, value in query.items()})
    check(service, route, files={"image": GREEN}, data={k: v.encode("utf-8", "replace") for k, v in query.items()})


def test_damaged_files_bodies_and_filters_are_answered_or_refused() -> None:
    """B26, as much of it as a quick run has time for; ``tests/fault/test_mutations.py`` goes on for longer."""
    assert fuzzing.fuzz_pictures(10_000) > 500, "some damage does no harm: fewer means that the header was never passed"
    assert fuzzing.fuzz_bodies(20_000) > 500
    assert fuzzing.fuzz_filters(20_000) > 500
