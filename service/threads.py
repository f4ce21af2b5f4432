"""Threads that run blocking functions for the event loop, and that cannot die or hang in silence.

``concurrent.futures.ThreadPoolExecutor`` forgets a thread that died outside of its job (for lack of memory, say) and
counts it as there, answers RuntimeError after its end, and is joined when the interpreter exits, so that one stuck
decoder would hold up a shutdown. These threads are daemons, are started again, and everyone who waits gets an answer.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from typing import Any, ParamSpec, TypeVar

from sightline.errors import NotReady, ShuttingDown

T = TypeVar("T")
P = ParamSpec("P")

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Job:
    future: Future[Any]
    function: Callable[[], Any]


class DaemonPool(Executor):
    """A fixed number of daemon threads, started with the first job; jobs run in the order in which they came.

    Thread-safe. A job that runs out of memory fails with NotReady: the same request may well succeed in a moment.
    """

    def __init__(self, num_threads: int, name: str, on_restart: Callable[[], None] = lambda: None) -> None:
        self._name = name
        self._on_restart = on_restart
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._closed = False
        self._running: dict[threading.Thread, _Job] = {}
        self._num_threads = num_threads
        self._threads: list[threading.Thread] = []

    def submit(self, function: Callable[P, T], /, *arguments: P.args, **named: P.kwargs) -> Future[T]:
        """Queue a call. Raises ShuttingDown after the end."""
        future: Future[T] = Future()
        with self._lock:
            if self._closed:
                raise _shutting_down()
            if not self._threads:
                self._threads = [self._thread(number) for number in range(self._num_threads)]
            self._jobs.put(_Job(future, lambda: function(*arguments, **named)))
        return future

    def revive(self) -> None:
        """Start threads in the place of dead ones; whoever waits for a dead one's job hears NotReady."""
        with self._lock:
            for number, thread in enumerate(self._threads):
                if thread.is_alive() or self._closed:
                    continue
                logger.error("A %s thread died and starts again.", self._name)
                job = self._running.pop(thread, None)
                if job is not None:
                    _fail(job, NotReady("A thread of the service died over this request; try again."))
                self._threads[number] = self._thread(number)
                self._on_restart()

    def shutdown(self, wait: bool = False, *, cancel_futures: bool = True) -> None:
        """End the threads after their present jobs. Jobs that wait fail with ShuttingDown; nothing is waited for."""
        with self._lock:
            self._closed = True
            with contextlib.suppress(queue.Empty):
                while True:
                    job = self._jobs.get_nowait()
                    if job is not None and job.future.set_running_or_notify_cancel():
                        _fail(job, _shutting_down())
            for _ in self._threads:
                self._jobs.put(None)

    def _thread(self, number: int) -> threading.Thread:
        thread = threading.Thread(target=self._live, name=f"{self._name}-{number}", daemon=True)
        thread.start()
        return thread

    def _live(self) -> None:
        me = threading.current_thread()
        while (job := self._jobs.get()) is not None:
            if job.future.set_running_or_notify_cancel():
                self._running[me] = job
                self._run(job)
                self._running.pop(me, None)
            del job  # its result may be large, and the next job may be long in coming

    def _run(self, job: _Job) -> None:
        try:
            result = job.function()
        except MemoryError:
            _fail(job, NotReady("There was not enough memory for this request; try again.", retry_after_seconds=1))
        except BaseException as error:  # whoever waits decides what it means
            _fail(job, error)
        else:
            with contextlib.suppress(Exception):
                job.future.set_result(result)


def run_apart(function: Callable[[], T], name: str) -> Future[T]:
    """Run something long in a daemon thread of its own, so that it never holds up the end of the process."""
    future: Future[T] = Future()
    future.set_running_or_notify_cancel()  # a waiter that leaves does not stop it

    def run() -> None:
        try:
            future.set_result(function())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, name=name, daemon=True).start()
    return future


def _fail(job: _Job, error: BaseException) -> None:
    with contextlib.suppress(Exception):  # it has its one outcome already
        job.future.set_exception(error)


def _shutting_down() -> ShuttingDown:
    return ShuttingDown("The service is shutting down; send the request to another replica.")
