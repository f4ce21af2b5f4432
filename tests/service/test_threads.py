"""Threads that cannot die or hang in silence."""

from __future__ import annotations

import threading
from concurrent.futures import Future
from typing import Any

import pytest

from service.threads import DaemonPool, run_apart
from sightline.errors import NotReady, ShuttingDown

WAIT_SECONDS = 10.0


def test_a_job_gives_its_result_or_its_error() -> None:
    pool = DaemonPool(2, "test")
    assert pool.submit(lambda a, b: a + b, 1, b=2).result(WAIT_SECONDS) == 3
    with pytest.raises(ValueError, match="wrong"):
        pool.submit(int, "wrong").result(WAIT_SECONDS)
    pool.shutdown()


def test_a_cancelled_job_is_not_run() -> None:
    pool, gate = DaemonPool(1, "test"), threading.Event()
    ran: list[int] = []
    first = pool.submit(gate.wait, WAIT_SECONDS)
    second = pool.submit(ran.append, 1)
    assert second.cancel()
    gate.set()
    assert first.result(WAIT_SECONDS)
    pool.submit(int).result(WAIT_SECONDS)
    assert ran == []
    pool.shutdown()


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt, GeneratorExit])
def test_nothing_that_a_job_raises_kills_its_thread(error: type[BaseException]) -> None:
    def fail() -> None:
        raise error

    pool = DaemonPool(1, "test")
    with pytest.raises(error):
        pool.submit(fail).result(WAIT_SECONDS)
    assert pool.submit(int).result(WAIT_SECONDS) == 0
    pool.shutdown()


def test_a_job_without_memory_may_be_tried_again() -> None:
    def fail() -> None:
        raise MemoryError

    pool = DaemonPool(1, "test")
    with pytest.raises(NotReady, match="not enough memory"):
        pool.submit(fail).result(WAIT_SECONDS)
    pool.shutdown()


class Deadly(Future[Any]):
    """A future that kills the thread which wants to complete it, as a lack of memory at the wrong moment may."""

    def __init__(self) -> None:
        super().__init__()
        self.deadly = True

    def set_result(self, result: Any) -> None:
        if self.deadly:
            self.deadly = False
            raise SystemExit  # ends a thread, and is no Exception
        super().set_result(result)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_dead_thread_is_started_again_and_its_waiter_told(monkeypatch: pytest.MonkeyPatch) -> None:
    restarts: list[int] = []
    pool = DaemonPool(1, "test", lambda: restarts.append(1))
    monkeypatch.setattr("service.threads.Future", Deadly)
    lost = pool.submit(int)
    monkeypatch.undo()
    (thread,) = pool._threads
    thread.join(WAIT_SECONDS)
    assert not thread.is_alive()
    waiting = pool.submit(int)
    pool.revive()
    with pytest.raises(NotReady, match="died over this request"):
        lost.result(WAIT_SECONDS)
    assert waiting.result(WAIT_SECONDS) == 0
    assert restarts == [1]
    pool.revive()
    assert restarts == [1], "the living are left alone"
    pool.shutdown()


def test_the_end_answers_everyone_and_waits_for_nobody() -> None:
    pool, gate, entered = DaemonPool(1, "test"), threading.Event(), threading.Event()

    def stuck() -> bool:
        entered.set()
        return gate.wait(WAIT_SECONDS)

    running, waiting = pool.submit(stuck), pool.submit(int)
    assert entered.wait(WAIT_SECONDS)
    pool.shutdown()
    with pytest.raises(ShuttingDown):
        waiting.result(WAIT_SECONDS)
    with pytest.raises(ShuttingDown):
        pool.submit(int)
    pool.revive()
    gate.set()
    assert running.result(WAIT_SECONDS), "what was begun is finished"
    pool._threads[0].join(WAIT_SECONDS)
    assert not pool._threads[0].is_alive()


def test_what_runs_apart_is_not_stopped_by_its_waiter() -> None:
    gate, done = threading.Event(), threading.Event()

    def work() -> None:
        assert gate.wait(WAIT_SECONDS)
        done.set()

    future = run_apart(work, "test")
    assert not future.cancel()
    gate.set()
    assert done.wait(WAIT_SECONDS)
    with pytest.raises(ZeroDivisionError):
        run_apart(lambda: 1 // 0, "test").result(WAIT_SECONDS)
