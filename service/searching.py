"""The searcher: questions that wait are asked of the index together, as the batcher does for the encoder.

A pass begins the moment a thread is free, with all that has gathered and fits together: the same index, the same
filter (which costs a pass of its own), about the same ``k``. There is no timer. One pass for many questions costs one
change of threads instead of one for each; on a GPU, where an index is read as fast for 160 queries as for one, it is
what makes search scale. Every question gets one answer or one error; when a pass fails, its questions are asked alone.

``Searcher.ask`` belongs to event loops (any number); what it is given runs in the searcher's threads.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from service.encoding.wakeups import PER_TURN
from service.metrics import Metrics
from service.threads import DaemonPool
from sightline.errors import NotReady, ShuttingDown
from sightline.filters import Filter
from sightline.index import Hits

T = TypeVar("T")
Vectors = npt.NDArray[np.float32]
Search = Callable[[Vectors, int, Filter | None], Hits]
"""A method of a snapshot; methods of one snapshot that are equal ask the same index."""

_MAX_QUERIES = 256
_SMALL_K = 64
"""Questions for up to so many neighbours share a pass, which looks for the most of them."""


@dataclass(eq=False)
class _Question:
    search: Search
    vectors: Vectors
    k: int
    where: Filter | None
    finish: Callable[[Hits], Any]
    answer: asyncio.Future[Any]
    outcome: Any = None
    error: BaseException | None = None

    def fits(self, other: _Question) -> bool:
        """Whether both can be asked in one pass."""
        alike = self.k == other.k or max(self.k, other.k) <= _SMALL_K
        return alike and self.where is None and other.where is None and self.search == other.search


@dataclass(eq=False)
class _Pass:
    """One thread's work, and the questions it holds at this moment."""

    held: list[_Question] = field(default_factory=list)


class Searcher:
    """Threads that search. ``num_threads`` is 1 for an index that belongs to one thread (FAISS on a GPU)."""

    def __init__(self, metrics: Metrics, *, num_threads: int = 2) -> None:
        self._num_threads = num_threads
        self._pool = DaemonPool(num_threads, "search", metrics.worker_restarts.labels("search").inc)
        self._batch_queries = metrics.search_batch_queries
        self._lock = threading.Lock()
        self._waiting: deque[_Question] = deque()
        self._num_running = 0
        self._closed = False

    async def ask(
        self, search: Search, vectors: Vectors, k: int, where: Filter | None, finish: Callable[[Hits], T]
    ) -> T:
        """``finish(search(vectors, k, where))``, computed in a thread; ``vectors`` float32 ``[B, D]``.

        A question whose asker is cancelled before its pass is dropped. Raises what the two raise, and ShuttingDown.
        """
        if self._closed:
            raise ShuttingDown("The service is shutting down; send the request to another replica.")
        question = _Question(search, vectors, k, where, finish, asyncio.get_running_loop().create_future())
        with self._lock:
            self._waiting.append(question)
        self._launch()
        return await question.answer  # type: ignore[no-any-return]

    def supervise(self) -> None:
        """Start dead threads again; to be called about every second."""
        self._pool.revive()

    def close(self) -> None:
        """Take no more questions; those that wait beside a running pass are still answered."""
        self._closed = True
        self._pool.shutdown()

    def _launch(self) -> None:
        with self._lock:
            if not self._waiting or self._num_running >= self._num_threads:
                return
            self._num_running += 1
        one = _Pass()
        try:
            job = self._pool.submit(self._run, one)
        except Exception as error:
            self._ended(one, error)
        else:
            job.add_done_callback(lambda job: self._ended(one, _error_of(job)))

    def _ended(self, one: _Pass, error: BaseException | None) -> None:
        """A thread has nothing more to do, or died, or could not begin: nobody is left behind."""
        with self._lock:
            self._num_running -= 1
            left = list(self._waiting) if error is not None else []
            if left:
                self._waiting.clear()
        if error is not None:
            for question in one.held + left:
                question.error = error
            _deliver(one.held + left)
        self._launch()  # what came while this thread was ending

    def _run(self, one: _Pass) -> None:
        while questions := self._take():
            one.held = questions
            self._ask(questions)
            _deliver(questions)
            one.held = []

    def _take(self) -> list[_Question]:
        """The oldest question and those that fit it; cancelled ones are dropped."""
        with self._lock:
            taken: list[_Question] = []
            left: deque[_Question] = deque()
            num_queries = 0
            for question in self._waiting:
                if question.answer.done():
                    continue
                room = num_queries + len(question.vectors) <= _MAX_QUERIES
                if not taken or (room and question.fits(taken[0])):
                    taken.append(question)
                    num_queries += len(question.vectors)
                else:
                    left.append(question)
            self._waiting = left
        return taken

    def _ask(self, questions: Sequence[_Question]) -> None:
        """Give each of these, which fit together, its outcome or its error."""
        first = questions[0]
        vectors = np.concatenate([question.vectors for question in questions])  # [sum of B, D]
        try:
            hits = first.search(vectors, max(question.k for question in questions), first.where)
        except Exception as error:
            if len(questions) == 1:
                first.error = _told(error)
                return
            for question in questions:  # one of them is at fault: let it be told, and only it
                self._ask([question])
            return
        self._batch_queries.observe(len(vectors))
        start = 0
        for question in questions:
            stop = start + len(question.vectors)
            _finish(question, Hits(hits.scores[start:stop, : question.k], hits.rows[start:stop, : question.k]))
            start = stop


def _finish(question: _Question, hits: Hits) -> None:
    try:
        question.outcome = question.finish(hits)
    except Exception as error:
        question.error = _told(error)


def _told(error: Exception) -> Exception:
    if isinstance(error, MemoryError):
        return NotReady("There was not enough memory for this search; try again.", retry_after_seconds=1)
    return error


def _deliver(questions: Sequence[_Question]) -> None:
    """Wake each event loop once."""
    for loop in {question.answer.get_loop() for question in questions}:
        own = [question for question in questions if question.answer.get_loop() is loop]
        with contextlib.suppress(RuntimeError):  # the loop has closed: nobody waits any more
            loop.call_soon_threadsafe(_settle, own)


def _settle(questions: Sequence[_Question]) -> None:
    """Wake those who ask, a few in each turn of the loop (see ``service.encoding.wakeups``)."""
    if len(questions) > PER_TURN:
        asyncio.get_running_loop().call_soon(_settle, questions[PER_TURN:])
    for question in questions[:PER_TURN]:
        if question.answer.done():
            continue
        if question.error is not None:
            question.answer.set_exception(question.error)
        else:
            question.answer.set_result(question.outcome)


def _error_of(job: Future[None]) -> BaseException | None:
    return None if job.cancelled() else job.exception()
