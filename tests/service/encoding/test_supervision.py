"""What hangs is given up, what died starts again, and a lost device is said to be lost."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from service.encoding.batcher import Batcher, BatcherLimits
from service.encoding.lanes import Modality
from service.metrics import Metrics
from service.supervisor import Supervisor
from sightline.errors import EncoderLost, NotReady, ShuttingDown
from tests.fakes import FakeEncoder
from tests.service.conftest import MakeService
from tests.service.edge.test_middleware import Gate
from tests.service.encoding.stand_ins import WAIT_SECONDS, Boom, Clock, Encoder, block, outcome, submit


def build(encoder: Encoder, clock: Clock | None = None, **options: Any) -> Batcher:
    more: dict[str, Any] = {} if clock is None else {"clock": clock}
    limits = BatcherLimits(dict.fromkeys(Modality, 8), restart_delay_seconds=0.01)
    batcher = Batcher(dict.fromkeys(Modality, encoder), limits, Metrics("0"), **options, **more)
    batcher.start()
    return batcher


def test_nobody_waits_for_a_batch_that_does_not_end() -> None:
    """R17: those in the batch and those behind it hear NotReady; when the batch ends after all, the service mends."""
    encoder, clock = Encoder(), Clock()
    batcher = build(encoder, clock)
    stuck = block(batcher, encoder)
    waiting = submit(batcher, 1, 2)
    clock.now += 4.0
    batcher.supervise()
    assert batcher.healthy
    assert not stuck.done()
    clock.now += 2.0
    assert not batcher.healthy
    batcher.supervise()
    assert all(isinstance(outcome(one), NotReady) for one in [stuck, *waiting])
    encoder.gate.set()
    while not batcher.healthy:
        threading.Event().wait(0.002)
    assert outcome(submit(batcher, 3)[0]) == 3.0
    assert encoder.batches == [[0], [3]], "what was given up is not encoded"
    batcher.close()


def test_a_longer_batch_is_given_longer_where_long_batches_are_good() -> None:
    encoder, clock = Encoder(), Clock()

    def take_four_seconds(batch: list[Any]) -> None:
        clock.now += 4.0

    encoder.fault = take_four_seconds
    batcher = build(encoder, clock)
    assert outcome(submit(batcher, 1)[0]) == 1.0
    encoder.fault = lambda batch: None
    assert outcome(submit(batcher, 2)[0]) == 2.0
    while encoder.entered.acquire(blocking=False):
        pass
    block(batcher, encoder)
    clock.now += 11.0
    assert batcher.healthy
    clock.now += 2.0
    assert not batcher.healthy
    assert not batcher.hopeless
    encoder.gate.set()
    batcher.close()


def test_small_batches_do_not_make_the_large_ones_forgotten() -> None:
    encoder, clock = Encoder(), Clock()
    batcher = build(encoder, clock)

    def take_its_time(batch: list[Any]) -> None:
        clock.now += 4.0 if len(batch) > 4 else 0.1

    block(batcher, encoder)
    many = submit(batcher, *range(1, 8))
    encoder.fault = take_its_time
    encoder.gate.set()
    assert [outcome(one) for one in many] == [float(number) for number in range(1, 8)]
    for number in range(100):
        outcome(submit(batcher, number)[0])
    while encoder.entered.acquire(blocking=False):
        pass
    block(batcher, encoder)
    clock.now += 11.0
    assert batcher.healthy
    encoder.gate.set()
    batcher.close()


def test_half_a_minute_in_one_batch_is_hopeless() -> None:
    """R17: liveness fails, later than readiness."""
    encoder, clock = Encoder(), Clock()
    batcher = build(encoder, clock)
    block(batcher, encoder)
    clock.now += 29.0
    assert not batcher.healthy
    assert not batcher.hopeless
    clock.now += 2.0
    assert batcher.hopeless
    encoder.gate.set()
    while batcher.hopeless:
        threading.Event().wait(0.002)
    batcher.close()


def test_a_thread_that_died_while_it_mended_itself_is_started_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """R16."""
    encoder = Encoder()
    batcher = build(encoder)
    mend = batcher._workers._bury
    monkeypatch.setattr(batcher._workers, "_bury", lambda worker, word: (_ for _ in ()).throw(MemoryError))
    monkeypatch.setattr(threading, "excepthook", lambda arguments: None)
    encoder.fault = lambda batch: (_ for _ in ()).throw(Boom)
    lost = submit(batcher, 1)[0]
    thread = batcher._workers._workers[0].thread
    assert thread is not None
    thread.join(WAIT_SECONDS)
    assert not batcher.healthy
    monkeypatch.setattr(batcher._workers, "_bury", mend)
    encoder.fault = lambda batch: None
    batcher.supervise()
    assert isinstance(outcome(lost), NotReady)
    assert batcher.healthy
    assert outcome(submit(batcher, 2)[0]) == 2.0
    assert batcher._metrics.registry.get_sample_value("sightline_worker_restarts_total", {"stage": "encode"}) == 1
    batcher.close()


def test_a_lost_device_is_lost_to_everyone_and_for_good() -> None:
    """R22."""
    encoder = Encoder()

    def lose(batch: list[Any]) -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    batcher = build(encoder, is_lost=lambda error: "illegal" in str(error))
    first = block(batcher, encoder)
    waiting = submit(batcher, 1, 2)
    encoder.fault = lose
    encoder.gate.set()
    assert all(isinstance(outcome(one), EncoderLost) for one in [first, *waiting])
    assert batcher.lost
    assert batcher.hopeless
    batcher.supervise()
    assert not batcher.healthy, "a thread that is started again would only fail again"
    with pytest.raises(NotReady):
        submit(batcher, 3)
    batcher.close()


def test_an_error_that_passes_is_no_loss() -> None:
    encoder = Encoder()
    asked: list[str] = []

    def is_lost(error: BaseException) -> bool:
        asked.append(str(error))
        return False

    batcher = build(encoder, is_lost=is_lost)
    encoder.fault = lambda batch: (_ for _ in ()).throw(RuntimeError("once"))
    outcome(submit(batcher, 1)[0])
    encoder.fault = lambda batch: None
    assert outcome(submit(batcher, 2)[0]) == 2.0
    assert asked == ["once"]
    assert not batcher.lost
    batcher.close()


def test_the_end_does_not_let_those_in_a_stuck_batch_wait() -> None:
    """R12."""
    encoder = Encoder()
    batcher = build(encoder)
    stuck = block(batcher, encoder)
    closer = threading.Thread(target=batcher.close)
    closer.start()
    assert isinstance(outcome(stuck), ShuttingDown)
    assert batcher.running
    encoder.gate.set()
    closer.join(WAIT_SECONDS)
    assert not batcher.running


def test_probes_tell_stuck_from_hopeless(make_service: MakeService, monkeypatch: pytest.MonkeyPatch) -> None:
    """R17."""
    gate = Gate()
    service = make_service(encoder=FakeEncoder(before_encode=gate))
    clock = Clock()
    workers = service.engine.batcher._workers
    monkeypatch.setattr(workers, "_clock", clock)
    gate.close()
    submit(service.engine.batcher, "red")
    assert gate.entered.acquire(timeout=WAIT_SECONDS)
    clock.now += 6.0
    assert service.get("/readyz").status_code == 503
    assert service.get("/livez").status_code == 200
    assert service.post("/v1/text-to-image", json={"text": "blue"}).status_code == 503, "at once, not at its deadline"
    clock.now += 30.0
    for path in ("/livez", "/v2/health/live", "/readyz", "/v2/health/ready", "/health"):
        answer = service.get(path)
        assert (answer.status_code, answer.json()["code"]) == (503, "not_ready"), path
    gate.opened.set()


def test_a_duty_that_fails_does_not_stop_the_others() -> None:
    done: list[str] = []

    def fail() -> None:
        raise ValueError

    supervisor = Supervisor({"fail": fail, "note": lambda: done.append("note")}, round_seconds=0.001)
    supervisor.round()
    assert done == ["note"]
    supervisor.start()
    while len(done) < 3:
        threading.Event().wait(0.001)
    supervisor.close()
