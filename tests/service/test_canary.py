"""The canary notices an encoder that gives other vectors, and only that."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from sightline.errors import NotReady
from tests.fakes import FakeEncoder, Vectors
from tests.service.conftest import MakeService, Service
from tests.service.edge.test_middleware import WAIT_SECONDS, Gate


class DriftingEncoder(FakeEncoder):
    """Turns its vectors a little when told to, or fails, for one kind of input."""

    def __init__(self) -> None:
        super().__init__()
        self.turn: Callable[[Vectors], Vectors] = lambda vectors: vectors

    def encode_texts(self, texts: Any) -> Vectors:
        return self.turn(super().encode_texts(texts))


def turned(cosine: float) -> Callable[[Vectors], Vectors]:
    """Turn each vector until it has this cosine with what it was."""

    def turn(vectors: Vectors) -> Vectors:
        across = np.roll(vectors, 1, axis=-1)
        across = across - (across * vectors).sum(-1, keepdims=True) * vectors
        across = across / np.linalg.norm(across, axis=-1, keepdims=True)
        return np.asarray(cosine * vectors + np.sqrt(1 - cosine**2) * across, dtype=np.float32)

    return turn


def cosine_of(service: Service, modality: str) -> float:
    return service.metric("sightline_canary_cosine", modality=modality)


def test_the_same_vectors_are_right(make_service: MakeService) -> None:
    service = make_service()
    assert service.engine.canary.compare()
    assert service.get("/readyz").status_code == 200
    assert cosine_of(service, "text") == pytest.approx(1.0)
    assert cosine_of(service, "image") == pytest.approx(1.0)


def test_other_vectors_make_the_service_not_ready_until_they_are_right_again(make_service: MakeService) -> None:
    encoder = DriftingEncoder()
    service = make_service(encoder=encoder)
    encoder.turn = turned(0.998)
    assert service.engine.canary.compare()
    answer = service.get("/readyz")
    assert (answer.status_code, answer.json()["code"]) == (503, "not_ready")
    assert "text vectors are not what they were" in answer.json()["detail"]
    assert service.metric("sightline_ready") == 0
    assert cosine_of(service, "text") == pytest.approx(0.998, abs=1e-4)
    assert cosine_of(service, "image") == pytest.approx(1.0)
    assert service.get("/livez").status_code == 200, "a new process need not be better"
    with pytest.raises(NotReady, match="not what they were"):
        service.engine.canary.prove()
    encoder.turn = turned(0.9995)
    service.engine.canary.prove()
    assert service.get("/readyz").status_code == 200


def test_an_encoder_that_fails_on_its_canary_is_not_ready(make_service: MakeService) -> None:
    def fail(vectors: Vectors) -> Vectors:
        raise RuntimeError("no")

    encoder = DriftingEncoder()
    service = make_service(encoder=encoder)
    encoder.turn = fail
    assert service.engine.canary.compare()
    assert service.get("/readyz").status_code == 503
    assert np.isnan(cosine_of(service, "text"))


def test_a_full_queue_is_left_alone(make_service: MakeService) -> None:
    gate = Gate()
    service = make_service(encoder=FakeEncoder(before_encode=gate), max_queue_units=64)
    gate.batches.clear()
    with service.engine.batcher.admit(60, _interactive()):
        assert not service.engine.canary.compare()
    assert gate.batches == []
    assert service.engine.canary.compare()
    assert service.get("/readyz").status_code == 200


def test_it_compares_by_itself_and_ends_at_once(make_service: MakeService) -> None:
    encoder = DriftingEncoder()
    service = make_service(encoder=encoder, canary_interval_seconds=0.01)
    encoder.turn = turned(0.5)
    for _ in range(1000):
        if service.engine.not_ready_reason() is not None:
            break
        threading.Event().wait(0.005)
    assert service.engine.not_ready_reason() is not None
    gate = Gate()
    encoder.before_encode = gate
    gate.close()
    assert gate.entered.acquire(timeout=WAIT_SECONDS), "it is in the encoder now"
    gate.opened.set()
    service.engine.close()


def _interactive() -> Any:
    from service.encoding.lanes import Lane

    return Lane.INTERACTIVE
