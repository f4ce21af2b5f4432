"""Questions that wait are asked together, and each gets its own answer or error."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, TypeVar

import numpy as np
import pytest

from service.metrics import Metrics
from service.searching import Search, Searcher, Vectors
from sightline.errors import NotReady, QueryError, ShuttingDown
from sightline.filters import Filter, parse_filter
from sightline.index import Hits, VectorIndex

T = TypeVar("T")
WAIT_SECONDS = 10.0
DIM = 4
VECTORS = np.eye(DIM, dtype=np.float16)  # [N, D]
FILTER = parse_filter({"must": [{"key": "a", "match": 1}]})


class Index:
    """Four rows, a record of what was asked, and a gate that the first pass waits at."""

    def __init__(self, *, gated: bool = False) -> None:
        self.index = VectorIndex(VECTORS)
        self.passes: list[tuple[int, int]] = []
        self.entered, self.gate = threading.Event(), threading.Event()
        if not gated:
            self.gate.set()

    def search(self, queries: Vectors, k: int, where: Filter | None) -> Hits:
        self.entered.set()
        assert self.gate.wait(WAIT_SECONDS)
        self.passes.append((len(queries), k))
        if np.isnan(queries).any():
            raise QueryError("not a number")
        return self.index.search(queries, k)


@pytest.fixture
def metrics() -> Metrics:
    return Metrics("0")


@pytest.fixture
def searcher(metrics: Metrics) -> Iterator[Searcher]:
    one = Searcher(metrics, num_threads=1)
    yield one
    one.close()


def query(row: int) -> Vectors:
    return np.eye(DIM, dtype=np.float32)[row : row + 1]  # [1, D]


def rows_of(hits: Hits) -> list[list[int]]:
    return [list(map(int, line)) for line in hits.rows]


async def behind_a_pass(searcher: Searcher, index: Index, questions: list[Callable[[], Awaitable[Any]]]) -> list[Any]:
    """What the questions answer when all of them wait while a first pass runs."""
    first = asyncio.ensure_future(searcher.ask(index.search, query(0), 1, None, rows_of))
    assert await asyncio.to_thread(index.entered.wait, WAIT_SECONDS)
    waiting = [asyncio.ensure_future(question()) for question in questions]
    await asyncio.sleep(0)
    index.gate.set()
    assert await first == [[0]]
    return await asyncio.gather(*waiting, return_exceptions=True)


def asking(searcher: Searcher, search: Search, vectors: Vectors, k: int, where: Filter | None = None) -> Any:
    return lambda: searcher.ask(search, vectors, k, where, rows_of)


def test_what_waits_is_asked_in_one_pass_and_each_gets_its_own(searcher: Searcher, metrics: Metrics) -> None:
    index = Index(gated=True)
    questions = [asking(searcher, index.search, query(row), 1 + row % 2) for row in range(4)]
    answers = asyncio.run(behind_a_pass(searcher, index, questions))
    assert [[line[0] for line in answer] for answer in answers] == [[0], [1], [2], [3]]
    assert [len(answer[0]) for answer in answers] == [1, 2, 1, 2], "each has as many neighbours as it asked for"
    assert index.passes == [(1, 1), (4, 2)]
    assert metrics.registry.get_sample_value("sightline_search_batch_queries_sum") == 5


def test_filters_other_indexes_and_large_ks_have_passes_of_their_own(searcher: Searcher) -> None:
    index, other = Index(gated=True), Index()
    questions = [
        asking(searcher, index.search, query(0), 1),
        asking(searcher, index.search, query(1), 1, FILTER),
        asking(searcher, other.search, query(2), 1),
        asking(searcher, index.search, query(3), 1000),
        asking(searcher, index.search, query(2), 1),
    ]
    answers = asyncio.run(behind_a_pass(searcher, index, questions))
    assert [answer[0][0] for answer in answers] == [0, 1, 2, 3, 2]
    assert sorted(index.passes) == [(1, 1), (1, 1), (1, 1000), (2, 1)]
    assert other.passes == [(1, 1)]


def test_one_bad_question_fails_alone(searcher: Searcher) -> None:
    index = Index(gated=True)
    bad = np.full((1, DIM), np.nan, dtype=np.float32)  # [1, D]
    questions = [asking(searcher, index.search, vectors, 1) for vectors in (query(1), bad, query(2))]
    first, second, third = asyncio.run(behind_a_pass(searcher, index, questions))
    assert (first, third) == ([[1]], [[2]])
    assert isinstance(second, QueryError)


def test_an_answer_that_cannot_be_built_fails_alone(searcher: Searcher) -> None:
    index = Index(gated=True)

    def without_memory(hits: Hits) -> None:
        raise MemoryError

    questions = [
        asking(searcher, index.search, query(1), 1),
        lambda: searcher.ask(index.search, query(2), 1, None, without_memory),
    ]
    first, second = asyncio.run(behind_a_pass(searcher, index, questions))
    assert first == [[1]]
    assert isinstance(second, NotReady)


def test_a_cancelled_question_is_not_asked(searcher: Searcher) -> None:
    index = Index(gated=True)

    async def play() -> None:
        first = asyncio.ensure_future(searcher.ask(index.search, query(0), 1, None, rows_of))
        assert await asyncio.to_thread(index.entered.wait, WAIT_SECONDS)
        second = asyncio.ensure_future(searcher.ask(index.search, query(1), 1, None, rows_of))
        await asyncio.sleep(0)
        second.cancel()
        await asyncio.wait({second})
        index.gate.set()
        await first
        assert await searcher.ask(index.search, query(2), 1, None, rows_of) == [[2]]

    asyncio.run(play())
    assert index.passes == [(1, 1), (1, 1)]


def test_many_questions_are_cut_into_passes(searcher: Searcher) -> None:
    index = Index(gated=True)
    many = np.repeat(query(1), 100, axis=0)  # [100, D]
    answers = asyncio.run(behind_a_pass(searcher, index, [asking(searcher, index.search, many, 1) for _ in range(5)]))
    assert all(answer == [[1]] * 100 for answer in answers)
    assert [size for size, _ in index.passes] == [1, 200, 200, 100]


def test_whoever_waits_at_the_end_is_told(searcher: Searcher) -> None:
    index = Index(gated=True)

    async def play() -> None:
        first = asyncio.ensure_future(searcher.ask(index.search, query(0), 1, None, rows_of))
        assert await asyncio.to_thread(index.entered.wait, WAIT_SECONDS)
        searcher.close()
        index.gate.set()
        assert await first == [[0]]
        with pytest.raises(ShuttingDown):
            await searcher.ask(index.search, query(1), 1, None, rows_of)

    asyncio.run(play())


def test_a_thread_that_dies_leaves_nobody_waiting(searcher: Searcher, monkeypatch: pytest.MonkeyPatch) -> None:
    """The thread falls outside of what guards a pass: its questions hear of it, and the next ones are answered."""
    index = Index()

    def die(*_: object) -> None:
        raise MemoryError

    async def play() -> None:
        with monkeypatch.context() as broken:
            broken.setattr("service.searching._finish", die)
            with pytest.raises(NotReady):
                await asyncio.wait_for(searcher.ask(index.search, query(0), 1, None, rows_of), WAIT_SECONDS)
        assert await searcher.ask(index.search, query(1), 1, None, rows_of) == [[1]]

    asyncio.run(play())


@pytest.mark.parametrize("num_threads", [1, 3])
def test_hundreds_of_questions_from_many_tasks_all_end(metrics: Metrics, num_threads: int) -> None:
    searcher, index = Searcher(metrics, num_threads=num_threads), Index()

    async def play() -> list[list[list[int]]]:
        return await asyncio.gather(
            *(searcher.ask(index.search, query(number % DIM), 1, None, rows_of) for number in range(500))
        )

    answers = asyncio.run(play())
    searcher.close()
    assert [answer[0][0] for answer in answers] == [number % DIM for number in range(500)]
