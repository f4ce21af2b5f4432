"""Hostile clients against a real process: slow ones, many of them, and what their requests cost."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from tests.e2e.running import command, serving

pytestmark = pytest.mark.fault

NUM_SLOW = 500
PER_SECOND = 250
"""New connections a second: the clients share two cores with the service that they attack."""
DEADLINE_SECONDS = 3.0
PROBE_SECONDS = 0.2
HEAD = b"POST /v1/text-to-image HTTP/1.1\r\nHost: test\r\nContent-Type: application/json\r\n"
SLOW_HEADERS = HEAD + b"X-Slow: "
SLOW_BODY = HEAD + b"Content-Length: 100000\r\n\r\n"


@pytest.fixture(scope="module")
def url(collection: Path) -> Iterator[str]:
    short = [f"header_timeout_seconds={DEADLINE_SECONDS}", f"receive_timeout_seconds={DEADLINE_SECONDS}"]
    limits = ["max_connections=600", "max_inflight_requests=100", "log_level=error"]
    settings = [part for one in short + limits for part in ("--set", one)]
    with serving(collection, *settings, watchdog_seconds=900.0) as address:
        yield address


@dataclass
class Probes:
    """How long each probe took, on a connection of its own, while something else went on."""

    seconds: list[float] = field(default_factory=list)
    statuses: set[int] = field(default_factory=set)


@contextlib.asynccontextmanager
async def probing(url: str) -> AsyncIterator[Probes]:
    """Poll the probes and ask a real question, every 50 ms, until the block ends."""
    probes, end = Probes(), asyncio.Event()

    async def poll() -> None:
        while not end.is_set():
            for path in ("/livez", "/readyz", "/metrics"):
                started = time.perf_counter()
                status = await ask(url, f"GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n".encode())
                probes.seconds.append(time.perf_counter() - started)
                probes.statuses.add(status)
            body = b'{"text": "a picture", "k": 1}'
            probes.statuses.add(await ask(url, HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body))
            await asyncio.sleep(0.05)

    polling = asyncio.create_task(poll())
    try:
        yield probes
    finally:
        end.set()
        await polling


async def ask(url: str, request: bytes) -> int:
    """The status of an answer; 0 when the connection was closed without one."""
    reader, writer = await asyncio.open_connection(*address_of(url))
    try:
        writer.write(request)
        line = await reader.readline()
        return int(line.split()[1]) if line else 0
    except ConnectionError:
        return 0
    finally:
        writer.close()


def address_of(url: str) -> tuple[str, int]:
    parts = urlsplit(url)
    assert parts.hostname and parts.port
    return parts.hostname, parts.port


async def slow_client(url: str, start: bytes, delay_seconds: float) -> tuple[bytes, float]:
    """Send a start, then a byte a second; returns what came back until the end, and after how many seconds it ended."""
    await asyncio.sleep(delay_seconds)
    reader, writer = await asyncio.open_connection(*address_of(url))
    began = time.perf_counter()

    async def trickle() -> None:
        with contextlib.suppress(ConnectionError):
            writer.write(start)
            while True:
                await asyncio.sleep(1.0)
                writer.write(b"x")
                await writer.drain()

    sending = asyncio.create_task(trickle())
    answer = b""
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(65536):
            answer += data
    sending.cancel()
    writer.close()
    return answer, time.perf_counter() - began


def attack(url: str, start: bytes, count: int) -> list[tuple[bytes, float]]:
    """Many slow clients, ``PER_SECOND`` new ones a second, until all have been cut."""

    async def all_of_them() -> list[tuple[bytes, float]]:
        return await asyncio.gather(*(slow_client(url, start, number / PER_SECOND) for number in range(count)))

    return asyncio.run(all_of_them())


def under_attack(url: str, start: bytes, count: int) -> tuple[list[tuple[bytes, float]], Probes]:
    """What became of the attackers, and of others meanwhile. They have a process of their own, lest the times that are
    measured here be theirs."""

    async def scenario() -> tuple[list[tuple[bytes, float]], Probes]:
        with ProcessPoolExecutor(1, get_context("spawn")) as pool:
            loop = asyncio.get_running_loop()
            await loop.run_in_executor(pool, abs, 0)  # started
            async with probing(url) as probes:
                return await loop.run_in_executor(pool, attack, url, start, count), probes

    return asyncio.run(scenario())


def check_probes(probes: Probes) -> None:
    """R7."""
    assert probes.statuses == {200}
    assert len(probes.seconds) >= 30
    slowest = sorted(probes.seconds)[-5:]
    assert slowest[-1] < PROBE_SECONDS


@pytest.mark.parametrize("start", [SLOW_HEADERS, SLOW_BODY], ids=["headers", "bodies"])
def test_slow_connections_are_cut_and_nobody_else_notices(url: str, start: bytes) -> None:
    """B19, R7: 500 connections that send a byte a second."""
    ended, probes = under_attack(url, start, NUM_SLOW)
    assert all(answer.startswith(b"HTTP/1.1 408 ") for answer, _ in ended)
    assert max(seconds for _, seconds in ended) < DEADLINE_SECONDS + 4.0, "the deadline, 2 s to read the answer, slack"
    check_probes(probes)
    assert metric(url, "sightline_open_connections") <= 5
    assert metric(url, "sightline_buffered_body_bytes") == 0


@pytest.mark.parametrize("start", [b"", SLOW_HEADERS, SLOW_BODY], ids=["silent", "headers", "bodies"])
def test_more_connections_than_may_be_open_do_not_shut_out_the_probes(url: str, start: bytes) -> None:
    """B19, R7: 1,500 connections where 600 may be open."""
    _, probes = under_attack(url, start, 1500)
    check_probes(probes)


def metric(url: str, name: str) -> float:
    """The sum of a metric's series."""
    lines = httpx.get(f"{url}/metrics").text.splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.split("{")[0].split(" ")[0] == name)


def part(name: str, more: bytes = b"") -> bytes:
    return b'--b\r\nContent-Disposition: form-data; name="' + name.encode() + b'"' + more + b"\r\n\r\nx\r\n"


def form(body: bytes) -> bytes:
    head = b"POST /v1/zero-shot HTTP/1.1\r\nHost: test\r\nContent-Type: multipart/form-data; boundary=b\r\n"
    return head + b"Content-Length: %d\r\n\r\n" % len(body) + body


HOSTILE: dict[str, tuple[Callable[[], bytes], set[int]]] = {
    "200 KB header": (lambda: b"GET / HTTP/1.1\r\nHost: t\r\nX: " + b"x" * 200_000 + b"\r\n\r\n", {431}),
    "5,000 headers": (lambda: b"GET / HTTP/1.1\r\nHost: t\r\n" + b"A: b\r\n" * 5000 + b"\r\n", {200, 431}),
    "10,000 fields": (lambda: form(b"".join(part(f"f{n}") for n in range(10_000)) + b"--b--\r\n"), {400}),
    "5,000 part headers": (
        lambda: form(part("image", b"".join(b"\r\nX-%d: y" % n for n in range(5000))) + b"--b--\r\n"),
        {400},
    ),
    "negative length": (lambda: HEAD + b"Content-Length: -1\r\n\r\n", {400}),
    "two lengths": (lambda: HEAD + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", {400}),
    "chunks of one byte": (
        lambda: HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * 2000 + b"0\r\n\r\n",
        {400},
    ),
    "deep JSON": (lambda: HEAD + b"Content-Length: 50000\r\n\r\n" + b"[" * 50_000, {400}),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_a_hostile_request_costs(url: str, name: str) -> None:
    """B18: at most 100 ms of CPU each, measured over twenty."""
    make, statuses = HOSTILE[name]
    request = make()
    asyncio.run(ask(url, request))
    before = metric(url, "process_cpu_seconds_total")
    for _ in range(20):
        assert asyncio.run(ask(url, request)) in statuses
    spent = (metric(url, "process_cpu_seconds_total") - before) / 20
    assert spent < 0.1, f"{spent * 1000:.0f} ms"


@pytest.mark.parametrize(("signal_sent", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_second_signal_exits_at_once(collection: Path, signal_sent: signal.Signals, code: int) -> None:
    """R14."""
    process = subprocess.Popen(
        [sys.executable, "-m", "sightline", "serve", "--collection", str(collection), "--port", "0", "--json",
         "--set", "drain_delay_seconds=60"],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        url = json.loads(process.stdout.readline())["url"]
        with socket.create_connection(address_of(url)) as busy:  # a request that never ends holds the first one up
            busy.sendall(SLOW_BODY)
            time.sleep(0.3)
            process.send_signal(signal_sent)
            time.sleep(0.3)
            assert process.poll() is None
            started = time.perf_counter()
            process.send_signal(signal_sent)
            assert process.wait(timeout=10) == code
            assert time.perf_counter() - started < 1.0
    finally:
        process.kill()
        process.wait()


def test_wrong_set_ups_exit_with_78_and_one_line(collection: Path, tmp_path: Path) -> None:
    """R19: port in use, no collection, unknown settings, keys that are none, open to others without keys."""
    (tmp_path / "keys").write_text("short\n")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        for arguments, said in (
            (["--port", port], "in use"),
            (["--set", "prot=1"], "did you mean port"),
            (["--set", f"api_keys_file={tmp_path / 'keys'}"], "shorter than 16"),
            (["--host", "0.0.0.0"], "allow_unauthenticated"),
            (["--encoder", "nothing"], "nothing"),
        ):
            done = command("serve", "--collection", collection, *arguments)
            assert done.code == 78, done.err
            errors = [line for line in done.err.splitlines() if line.startswith("error: ")]
            assert len(errors) == 1
            assert said in errors[0]
            assert "Traceback" not in done.err
