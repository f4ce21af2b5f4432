"""Watching a service under load from a process of its own: how fast its probes answer, and how its memory grows.

``python -m benchmarks.serving.probe URL --pid PID --seconds 30`` prints one JSON object.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from benchmarks.serving.connection import Connection, ConnectionLost, connect
from benchmarks.serving.requests import get
from benchmarks.serving.summary import latency

PATHS = ("/livez", "/readyz", "/metrics")
INTERVAL_SECONDS = 0.1


async def watch(host: str, port: int, pid: int, seconds: float) -> dict[str, Any]:
    """Ask each probe every 100 ms, on a connection of its own, and read the resident memory twice a second."""
    end = time.perf_counter() + seconds
    memory: list[int] = []
    *probes, _ = await asyncio.gather(*(_poll(host, port, path, end) for path in PATHS), _remember(pid, memory, end))
    return {"probes": dict(zip(PATHS, probes, strict=True)), "rss_bytes": memory}


def resident_bytes(pid: int) -> int:
    """Resident memory of a process. Raises FileNotFoundError when it has ended."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace")
    line = next(line for line in status.splitlines() if line.startswith("VmRSS:"))
    return int(line.split()[1]) * 1024


async def _poll(host: str, port: int, path: str, end: float) -> dict[str, Any]:
    request = get(host, port, path)
    seconds: list[float] = []
    statuses: Counter[str] = Counter()
    connection: Connection | None = None
    due = time.perf_counter()
    while due < end:
        await asyncio.sleep(max(due - time.perf_counter(), 0))
        try:
            if connection is None or connection.closed:
                connection = await connect(host, port)
            answer = await connection.exchange(request)
            statuses[str(answer.status)] += 1
            seconds.append(time.perf_counter() - due)
        except ConnectionLost:
            statuses["lost"] += 1
            connection = None
        due += INTERVAL_SECONDS
    if connection is not None:
        connection.close()
    return {"statuses": dict(statuses), "latency": asdict(latency(seconds))}


async def _remember(pid: int, memory: list[int], end: float) -> None:
    while time.perf_counter() < end:
        memory.append(resident_bytes(pid))
        await asyncio.sleep(0.5)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url")
    parser.add_argument("--pid", type=int, required=True)
    parser.add_argument("--seconds", type=float, default=30.0)
    options = parser.parse_args()
    parts = urlsplit(options.url)
    print(json.dumps(asyncio.run(watch(parts.hostname or "127.0.0.1", parts.port or 80, options.pid, options.seconds))))


if __name__ == "__main__":
    main()
