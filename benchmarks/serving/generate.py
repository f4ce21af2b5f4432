"""The load generator as a process of its own: ``python -m benchmarks.serving.generate http://127.0.0.1:8000``.

Prints one JSON object. Start the service with its vector cache off, or the pool's second round measures the cache.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import tempfile
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from benchmarks.serving.load import Target, closed_loop, open_loop
from benchmarks.serving.pictures import NUM_PICTURES, open_pool
from benchmarks.serving.requests import INFINITY, SHAPES, SIGHTLINE, prepare
from benchmarks.serving.summary import summarise


def main() -> None:
    options = _parser().parse_args()
    parts = urlsplit(options.url)
    host, port = parts.hostname or "127.0.0.1", parts.port or 80
    data = os.environ.get("SIGHTLINE_TEST_DATA")
    pool = open_pool(options.pool, Path(data) if data else None, options.num_pictures)
    dialect = INFINITY if options.dialect == "infinity" else SIGHTLINE
    target = Target(host, port, prepare(options.shape, pool, host, port, dialect, options.corrupt), options.first)
    gc.freeze()
    print(json.dumps(_measure(target, options) | {"shape": options.shape, "pictures": pool.origin}))


def _measure(target: Target, options: argparse.Namespace) -> dict[str, Any]:
    if options.rate is None:
        load: dict[str, Any] = {"load": "closed", "clients": options.clients}
        run = closed_loop(target, options.clients, options.seconds, options.warmup_seconds)
    else:
        load = {"load": "open", "rate_per_second": options.rate, "arrivals": options.arrivals}
        run = open_loop(
            target, options.rate, options.seconds, arrivals=options.arrivals, seed=options.seed,
            warmup_seconds=options.warmup_seconds, max_connections=options.max_connections,
        )  # fmt: skip
    recorded = asyncio.run(run)
    return {
        **load,
        **summarise(recorded.samples, recorded.start, recorded.seconds),
        "generator_cpu_seconds": round(recorded.cpu_seconds, 3),
        "generator_cores": round(recorded.cpu_seconds / recorded.seconds, 3),
        "num_connections": recorded.num_connections,
    }


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url", help="the service, such as http://127.0.0.1:8000")
    parser.add_argument("--shape", choices=SHAPES, default="openai-image")
    parser.add_argument("--dialect", choices=("sightline", "infinity"), default="sightline")
    parser.add_argument("--clients", type=int, default=64, help="closed loop: connections, each with one request")
    parser.add_argument("--rate", type=float, help="open loop at this many requests a second")
    parser.add_argument("--arrivals", choices=("poisson", "constant"), default="poisson")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--warmup-seconds", type=float, default=2.0)
    parser.add_argument("--max-connections", type=int, default=1024)
    parser.add_argument("--corrupt", type=float, default=0.0, help="share of damaged pictures, 0 to 1")
    parser.add_argument("--first", type=int, default=0, help="number of the first request; pictures carry it")
    parser.add_argument("--seed", type=int, default=0, help="of the Poisson arrivals")
    parser.add_argument("--num-pictures", type=int, default=NUM_PICTURES)
    parser.add_argument(
        "--pool", type=Path, default=Path(tempfile.gettempdir()) / "sightline-bench-pool",
        help="folder of pictures and captions, made when missing",
    )  # fmt: skip
    return parser


if __name__ == "__main__":
    main()
