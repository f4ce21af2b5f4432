"""``/v1/embeddings`` and ``/v1/models``, asked by hand and by the unmodified OpenAI client over a real socket."""

from __future__ import annotations

import base64
import threading
from collections.abc import Iterator

import numpy as np
import openai
import pytest

from service.edge.listener import bind, url_of
from service.openapi import dialects
from service.server import DrainingServer
from tests.fakes import DIM, FINGERPRINT, SPEC, FakeEncoder, picture_bytes
from tests.service.conftest import Service

GREEN_BASE64 = base64.b64encode(picture_bytes("green")).decode()
DATA_URI = f"data:image/png;base64,{GREEN_BASE64}"


@pytest.fixture(scope="module")
def client(service: Service) -> Iterator[openai.OpenAI]:
    listener = bind("127.0.0.1", 0)
    server = DrainingServer(service.engine, service.settings)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    url = url_of("127.0.0.1", listener.getsockname()[1])
    with openai.OpenAI(base_url=f"{url}/v1", api_key="unused", max_retries=5, timeout=10) as made:
        yield made
    server.should_exit = True
    thread.join(10)
    assert not thread.is_alive()


def vector_of(text: str) -> list[float]:
    vector: list[float] = FakeEncoder().encode_texts([text])[0].tolist()
    return vector


def test_the_client_gets_vectors_of_texts_in_their_order(client: openai.OpenAI) -> None:
    answer = client.embeddings.create(model=SPEC, input=["green", "red", "something else"])
    assert [one.index for one in answer.data] == [0, 1, 2]
    for one, text in zip(answer.data, ["green", "red", "something else"], strict=True):
        np.testing.assert_allclose(one.embedding, vector_of(text), atol=1e-6)
    assert answer.model == SPEC
    assert answer.usage.total_tokens == 0


def test_the_client_gets_floats_when_it_asks_for_them(client: openai.OpenAI) -> None:
    answer = client.embeddings.create(model=SPEC, input="green", encoding_format="float", dimensions=DIM)
    np.testing.assert_allclose(answer.data[0].embedding, vector_of("green"), atol=1e-6)


def test_the_client_embeds_pictures_as_data_uris(client: openai.OpenAI) -> None:
    answer = client.embeddings.create(model=SPEC, input=[DATA_URI, "green"])
    np.testing.assert_allclose(answer.data[0].embedding, answer.data[1].embedding, atol=1e-6)


def test_a_thousand_texts_in_one_request(client: openai.OpenAI) -> None:
    texts = [f"text {n}" for n in range(2048)]
    answer = client.embeddings.create(model=SPEC, input=texts)
    np.testing.assert_allclose(answer.data[2047].embedding, vector_of("text 2047"), atol=1e-6)


def test_the_client_lists_the_model_it_may_ask_for(client: openai.OpenAI) -> None:
    models = client.models.list().data
    assert [model.id for model in models] == [SPEC]
    assert models[0].fingerprint == FINGERPRINT  # type: ignore[attr-defined]


def test_the_client_raises_its_own_errors_with_our_sentence(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="another model") as unknown:
        client.embeddings.create(model="text-embedding-3-small", input="green")
    assert unknown.value.code == "model_not_found"
    with pytest.raises(openai.UnprocessableEntityError, match="8 dimensions"):
        client.embeddings.create(model=SPEC, input="green", dimensions=9)
    with pytest.raises(openai.UnprocessableEntityError) as empty:
        client.embeddings.create(model=SPEC, input=["green", " "])
    assert empty.value.param == "input[1]"
    for tokens in ([[1, 2, 3]], [1, 2, 3]):
        with pytest.raises(openai.UnprocessableEntityError, match="Token ids"):
            client.embeddings.create(model=SPEC, input=tokens)


def test_the_client_gets_shorter_vectors_of_length_one(client: openai.OpenAI) -> None:
    answer = client.embeddings.create(model=SPEC, input=["green", "something else"], dimensions=3)
    green, other = (np.array(one.embedding) for one in answer.data)
    whole = np.array(vector_of("green"))
    np.testing.assert_allclose(green, whole[:3] / np.linalg.norm(whole[:3]), atol=1e-6)
    np.testing.assert_array_equal(other, [0.0, 0.0, 0.0])  # this vector has nothing in its first dimensions


def test_raw_vectors_with_their_shape(service: Service) -> None:
    response = service.post(
        "/v1/embeddings",
        json={"input": ["green", "red"], "dimensions": 5},
        headers={"Accept": "application/octet-stream"},
    )
    assert response.headers["content-type"] == "application/octet-stream"
    assert response.headers["x-sightline-encoder"] == FINGERPRINT
    shape = tuple(map(int, response.headers["x-sightline-shape"].split(",")))
    assert shape == (2, 5)
    vectors = np.frombuffer(response.content, dtype="<f4").reshape(shape)
    listed = service.post("/v1/embeddings", json={"input": ["green", "red"], "dimensions": 5}).json()["data"]
    np.testing.assert_array_equal(vectors, np.array([one["embedding"] for one in listed], dtype=np.float32))


def test_infinitys_modality(service: Service) -> None:
    for pictures in ([GREEN_BASE64, DATA_URI], DATA_URI):
        answer = service.post("/v1/embeddings", json={"input": pictures, "modality": "image", "model": SPEC}).json()
        for one in answer["data"]:
            assert one["embedding"] == pytest.approx(vector_of("green"), abs=1e-6)
    text = service.post("/v1/embeddings", json={"input": "data:image/green", "modality": "text"}).json()
    assert text["data"][0]["embedding"] == pytest.approx(vector_of("data:image/green"), abs=1e-6)


def test_vllms_messages(service: Service) -> None:
    picture = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": DATA_URI}}]}]
    text = [{"role": "user", "content": "red"}]
    for messages, colours in ((picture, ["green"]), (text, ["red"]), ([text, picture], ["red", "green"])):
        answer = service.post("/v1/embeddings", json={"messages": messages, "model": SPEC}).json()
        for one, colour in zip(answer["data"], colours, strict=True):
            assert one["embedding"] == pytest.approx(vector_of(colour), abs=1e-6)


@pytest.mark.parametrize(
    "item",
    [
        {"image": GREEN_BASE64},
        {"image": DATA_URI},
        {"type": "image_url", "image_url": {"url": DATA_URI}},
        {"image_url": DATA_URI},
        {"type": "text", "text": "green"},
        {"text": "green"},
        DATA_URI,
        "green",
    ],
)
def test_every_form_of_an_input(service: Service, item: object) -> None:
    for sent in (item, ["red", item]):
        response = service.post("/v1/embeddings", json={"input": sent, "model": SPEC})
        answer = dialects.EmbeddingsAnswer.model_validate_json(response.content)
        assert answer.data[-1].embedding == pytest.approx(vector_of("green"), abs=1e-6)


def test_base64_is_little_endian_float32(service: Service) -> None:
    answer = service.post("/v1/embeddings", json={"input": "green", "encoding_format": "base64"}).json()
    decoded = np.frombuffer(base64.b64decode(answer["data"][0]["embedding"]), dtype="<f4")
    np.testing.assert_allclose(decoded, vector_of("green"), atol=1e-6)
    assert answer["sightline"] == {"encoder": FINGERPRINT}


@pytest.mark.parametrize(
    ("body", "status", "param"),
    [
        ({"input": {"text": "a", "image": GREEN_BASE64}}, 422, None),
        ({"input": {}}, 422, None),
        ({"input": ["a", {"image": "!!"}]}, 400, "input[1]"),
        ({"input": ["a", {"image": base64.b64encode(b"no picture").decode()}]}, 415, "input[1]"),
        ({"input": {"image": "https://example.org/cat.jpg"}}, 422, None),
        ({"input": []}, 422, "input"),
        ({"input": ["a"] * 2049}, 422, "input"),
        ({"input": ""}, 422, None),
        ({"inputs": "a"}, 422, "inputs"),
        ({}, 422, None),
        ({"input": "a", "messages": [{"content": "a"}]}, 422, None),
        ({"messages": []}, 422, "messages"),
        ({"messages": [{"content": "a"}, {"content": "b"}]}, 422, None),
        ({"messages": [[{"content": "a"}], [{"content": [{"text": "a"}, {"image": DATA_URI}]}]]}, 422, "input[1]"),
        ({"input": "a", "modality": "audio"}, 422, "modality"),
        ({"input": ["green", GREEN_BASE64], "modality": "image"}, 400, "input[0]"),
        ({"input": DATA_URI, "modality": "text"}, 422, None),
        ({"input": "a", "dimensions": 0}, 422, "dimensions"),
        ({"input": "a", "dimensions": 9}, 422, None),
        ({"input": [1.5]}, 422, "input/0"),
        ({"input": "a", "encoding_format": "hex"}, 422, "encoding_format"),
    ],
)
def test_errors_have_openais_shape(service: Service, body: object, status: int, param: str | None) -> None:
    response = service.post("/v1/embeddings", json=body)
    error = dialects.OpenAIError.model_validate_json(response.content).error
    assert (response.status_code, error.param, error.type) == (status, param, "invalid_request_error")
    assert response.headers["content-type"] == "application/json"
