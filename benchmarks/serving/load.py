"""The two kinds of load. Closed: each client sends the next request when the last is answered, as a batch job does.
Open: requests arrive by a schedule that does not care how the server fares, as the public does."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from benchmarks.serving.connection import Connection, ConnectionLost, connect
from benchmarks.serving.requests import Prepared
from benchmarks.serving.summary import LOST, UNANSWERED, Sample

Arrivals = Literal["constant", "poisson"]
_PAUSE_AFTER_LOSS_SECONDS = 0.05


@dataclass(frozen=True)
class Target:
    """Who is asked, with what. ``first`` is the number to begin with, so that runs do not repeat each other."""

    host: str
    port: int
    requests: Sequence[Prepared]
    first: int = 0

    def pool(self) -> Iterator[tuple[Prepared, bytes]]:
        """Requests for ever, each with the bytes to send: numbered, so that no picture is sent twice."""
        for number in itertools.count(self.first):
            request = self.requests[number % len(self.requests)]
            yield request, request.numbered(number)


@dataclass(frozen=True)
class Recorded:
    """All samples of a load and the window that counts; ``cpu_seconds`` is what the generator itself used in it."""

    samples: list[Sample]
    start: float
    seconds: float
    cpu_seconds: float
    num_connections: int


async def closed_loop(
    target: Target, num_clients: int, seconds: float, warmup_seconds: float = 0.0, drain_seconds: float = 60.0
) -> Recorded:
    """``num_clients`` connections, each always with one request under way; the window begins after the warm-up. What is
    not answered ``drain_seconds`` after the end is counted as unanswered."""
    samples: list[Sample] = []
    pool = target.pool()
    begin = time.perf_counter()
    start, end = begin + warmup_seconds, begin + warmup_seconds + seconds

    async def client() -> None:
        connection: Connection | None = None
        try:
            while time.perf_counter() < end:
                request, wire = next(pool)
                sent = time.perf_counter()
                try:
                    if connection is None or connection.closed:
                        connection = await connect(target.host, target.port)
                        sent = time.perf_counter()
                    samples.append(await _ask(connection, request, wire, sent, sent))
                except ConnectionLost:
                    samples.append(Sample(sent, sent, time.perf_counter(), LOST, None, 0, request.healthy))
                    connection = None
                    await asyncio.sleep(_PAUSE_AFTER_LOSS_SECONDS)
                except asyncio.CancelledError:
                    samples.append(Sample(sent, sent, time.perf_counter(), UNANSWERED, None, 0, request.healthy))
                    raise
        finally:
            if connection is not None:
                connection.close()

    meter = asyncio.create_task(_cpu_seconds_between(start, end))
    clients = [asyncio.create_task(client()) for _ in range(num_clients)]
    _, pending = await asyncio.wait(clients, timeout=warmup_seconds + seconds + drain_seconds)
    for task in pending:
        task.cancel()
    await asyncio.gather(*clients, return_exceptions=True)
    return Recorded(samples, start, seconds, await meter, num_clients)


async def open_loop(
    target: Target, rate_per_second: float, seconds: float, *, arrivals: Arrivals = "poisson",
    warmup_seconds: float = 0.0, max_connections: int = 1024, drain_seconds: float = 15.0, seed: int = 0,
) -> Recorded:  # fmt: skip
    """Requests at the times of ``schedule``. Each takes an idle connection or opens one, up to ``max_connections``;
    beyond that it waits, and its latency runs from when it was due."""
    samples: list[Sample] = []
    idle: list[Connection] = []
    opened = 0
    slots = asyncio.Semaphore(max_connections)
    begin = time.perf_counter() + 0.05
    start = begin + warmup_seconds

    async def send(request: Prepared, wire: bytes, due: float) -> None:
        nonlocal opened
        sent = due
        connection: Connection | None = None
        try:
            async with slots:
                connection = _reusable(idle)
                if connection is None:
                    opened += 1
                    connection = await connect(target.host, target.port)
                sent = time.perf_counter()
                samples.append(await _ask(connection, request, wire, due, sent))
                if not connection.closed:
                    idle.append(connection)
        except ConnectionLost:
            samples.append(Sample(due, sent, time.perf_counter(), LOST, None, 0, request.healthy))
        except asyncio.CancelledError:
            if connection is not None:
                connection.close()
            samples.append(Sample(due, sent, time.perf_counter(), UNANSWERED, None, 0, request.healthy))

    meter = asyncio.create_task(_cpu_seconds_between(start, start + seconds))
    under_way: set[asyncio.Task[None]] = set()
    pool = target.pool()
    for offset in schedule(rate_per_second, warmup_seconds + seconds, arrivals, seed):
        request, wire = next(pool)
        wait = begin + offset - time.perf_counter()
        if wait > 0:
            await asyncio.sleep(wait)
        task = asyncio.create_task(send(request, wire, begin + offset))
        under_way.add(task)
        task.add_done_callback(under_way.discard)
    leftover = list(under_way)
    if leftover:
        _, pending = await asyncio.wait(leftover, timeout=drain_seconds)
        for late in pending:
            late.cancel()
        await asyncio.gather(*pending, return_exceptions=True)
    for connection in idle:
        connection.close()
    return Recorded(samples, start, seconds, await meter, opened)


def schedule(rate_per_second: float, seconds: float, arrivals: Arrivals, seed: int = 0) -> Iterator[float]:
    """Seconds from the beginning at which requests are due: evenly spaced, or exponential gaps with the same mean."""
    if rate_per_second <= 0:
        raise ValueError("the rate must be above 0")
    if arrivals == "constant":
        yield from itertools.takewhile(lambda due: due < seconds, (n / rate_per_second for n in itertools.count()))
        return
    gaps = random.Random(seed)
    due = gaps.expovariate(rate_per_second)
    while due < seconds:
        yield due
        due += gaps.expovariate(rate_per_second)


async def _ask(connection: Connection, request: Prepared, wire: bytes, due: float, sent: float) -> Sample:
    answer = await connection.exchange(wire)
    return Sample(due, sent, time.perf_counter(), answer.status, answer.retry_after, answer.num_bytes, request.healthy)


def _reusable(idle: list[Connection]) -> Connection | None:
    while idle:
        connection = idle.pop()
        if not connection.closed:
            return connection
    return None


async def _cpu_seconds_between(start: float, end: float) -> float:
    with contextlib.suppress(asyncio.CancelledError):
        await asyncio.sleep(max(start - time.perf_counter(), 0))
        before = time.process_time()
        await asyncio.sleep(max(end - time.perf_counter(), 0))
        return time.process_time() - before
    return 0.0
