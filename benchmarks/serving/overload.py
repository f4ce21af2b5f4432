"""``python -m benchmarks.serving.overload --out DIR``: ten times what the service can do, and damaged pictures.

Capacity is what a closed loop reaches, taken before and after; then an open loop at 80 % of it for the tail that users
see, then ten times as much. With ``--corrupt 0.01`` instead: the same load with and without damaged pictures, in turns.
Writes ``overload.json`` (or ``corrupt.json``) and a Markdown page beside it; exits 1 when a bar is missed,
3 when something could not be started.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.machine import describe_machine
from benchmarks.serving.bars import Bar, Spread, ratios, spread, table
from benchmarks.serving.generator import APART, GeneratorFailed, generate
from benchmarks.serving.neighbours import Neighbours
from benchmarks.serving.pictures import NUM_PICTURES, open_pool, write_source
from benchmarks.serving.requests import SHAPES
from benchmarks.serving.servers import Server, ServerFailed, build_collection, end_servers_on_sigterm, sightline_server

MIB = 2**20


def main() -> int:
    options = _parser().parse_args()
    end_servers_on_sigterm()
    try:
        return _benchmark(options)
    except (ServerFailed, GeneratorFailed) as error:
        print(error, file=sys.stderr)
        return 3


def _benchmark(options: argparse.Namespace) -> int:
    out: Path = options.out
    (out / "logs").mkdir(parents=True, exist_ok=True)
    data = os.environ.get("SIGHTLINE_TEST_DATA")
    folder = out / f"pool-{NUM_PICTURES}"
    pool = open_pool(folder, Path(data) if data else None)
    write_source(pool, out / "source")
    name = "int8" if options.encoder else options.model
    spec = options.encoder or f"{options.model}:random"
    collection = out / f"{name}-collection"
    build_collection(spec, out / "source", collection, options.device, out / "logs" / f"{name}-index.log")
    with sightline_server(collection, out / "logs" / "overload.log", device=options.device, encoder=spec) as server:
        neighbours = Neighbours(server.pid)
        if options.corrupt:
            title, result, bars = "Damaged pictures", *_corrupt(server, folder, options)
        else:
            title, result, bars = "Overload", *_overload(server, folder, options)
        usage = neighbours.usage()
    machine = describe_machine()
    described = "Machine: " + ", ".join(f"{key} {value}" for key, value in machine.items())
    described += f". Load: {options.shape}. Other work took {usage.other_cores:.2f} cores, "
    described += f"other machines on the host {usage.stolen_cores:.2f}."
    if "overload" in result:
        over = result["overload"]
        described += (
            f" Generator: {over['num_connections']} connections, {over['generator_cores']:.2f} cores, and "
            f"{over['generator_lag']['p99_ms']:.0f} ms late at the 99th percentile."
        )
    text = f"## {title}\n\n{described}\n\n{table(bars)}\n"
    stem = out / ("corrupt" if options.corrupt else "overload")
    record = {"machine": machine, **asdict(usage), **result, "bars": [bar.as_json() for bar in bars]}
    stem.with_suffix(".json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    stem.with_suffix(".md").write_text(text, encoding="utf-8")
    print(text)
    print(f"{sum(bar.met for bar in bars)} of {len(bars)} bars met. Figures: {stem.with_suffix('.json')}")
    return 0 if options.quick or all(bar.met for bar in bars) else 1


def _overload(server: Server, pool: Path, options: argparse.Namespace) -> tuple[dict[str, Any], list[Bar]]:
    seconds = 4.0 if options.quick else options.seconds

    def load(number: int, *arguments: str | float) -> dict[str, Any]:
        return generate(server, options.shape, pool, "--seconds", seconds, "--first", APART * number, *arguments)

    before = load(0, "--clients", options.clients)
    rate = before["throughput_per_second"]
    usual = load(1, "--rate", 0.8 * rate)
    watcher = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.serving.probe", server.url, "--pid", str(server.pid), "--seconds",
         str(seconds + 4)],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        over = load(2, "--rate", options.factor * rate)
        watched: dict[str, Any] = json.loads(watcher.communicate(timeout=seconds + 60)[0])
    finally:
        watcher.kill()
        watcher.wait()
    after = load(3, "--clients", options.clients)
    result = {"capacity_before": before, "usual": usual, "overload": over, "capacity_after": after, "watched": watched}
    return result, overload_bars(before, usual, over, after, watched)


def overload_bars(
    before: dict[str, Any], usual: dict[str, Any], over: dict[str, Any], after: dict[str, Any], watched: dict[str, Any]
) -> list[Bar]:
    """The targets under overload, from the figures of the four loads and of the watcher.

    Refusals are timed from when they were sent: the generator has to share the cores with a service that uses them all,
    and its own lag is no answer time. Answers are timed from when they were due.
    """
    capacity = (before["throughput_per_second"] + after["throughput_per_second"]) / 2
    tail, refusals = over["latency"]["p99_ms"], over["refusal_response"]
    memory = watched["rss_bytes"]
    probes = [probe["latency"]["max_ms"] for probe in watched["probes"].values()]
    unready = sum(
        count for probe in watched["probes"].values() for status, count in probe["statuses"].items() if status != "200"
    )
    return [
        Bar("goodput of capacity", ratios([over["goodput_per_second"]], [capacity]), 0.9, "at least"),
        Bar("p99 of the accepted against 80 % load", ratios([tail], [usual["latency"]["p99_ms"]]), 2, "at most"),
        Bar("slowest refusal, from when it was sent", _one(refusals["max_ms"]), 50, "at most", " ms"),
        Bar("p99 of refusals, from when they were sent", _one(refusals["p99_ms"]), 50, "at most", " ms"),
        Bar("refusals without Retry-After", _one(over["num_refused_without_retry_after"]), 0, "at most"),
        Bar("answers of 500 and above", _one(over["num_server_errors"]), 0, "at most"),
        Bar("requests lost or unanswered", _one(over["num_lost"]), 0, "at most"),
        Bar("failures other than 429", _one(over["num_healthy_failed"]), 0, "at most"),
        Bar(
            "growth of resident memory",
            _one((max(memory) - memory[0]) / MIB if memory else None),
            100,
            "at most",
            " MiB",
        ),
        Bar("slowest probe", _one(None if None in probes else max(probes)), 200, "at most", " ms"),
        Bar("probes not answered with 200", _one(unready), 0, "at most"),
    ]


def _corrupt(server: Server, pool: Path, options: argparse.Namespace) -> tuple[dict[str, Any], list[Bar]]:
    seconds = 4.0 if options.quick else options.seconds
    runs: dict[str, list[dict[str, Any]]] = {"clean": [], "damaged": []}
    for repetition in range(2 if options.quick else options.repetitions):
        for number, (name, share) in enumerate((("clean", 0.0), ("damaged", options.corrupt))):
            first = APART * (2 * repetition + number)
            arguments = ["--clients", options.clients, "--corrupt", share, "--first", first]
            runs[name].append(generate(server, options.shape, pool, "--seconds", seconds, *arguments))
    return runs, corrupt_bars(runs["clean"], runs["damaged"])


def corrupt_bars(clean: list[dict[str, Any]], damaged: list[dict[str, Any]]) -> list[Bar]:
    """The targets with damaged pictures among the load."""
    rates = [[one["throughput_per_second"] for one in runs] for runs in (damaged, clean)]
    refused = [one["damaged_statuses"].get("422", 0) / one["num_damaged"] for one in damaged if one["num_damaged"]]
    return [
        Bar("throughput of healthy pictures against a clean load", ratios(*rates), 0.95, "at least"),
        Bar("healthy requests that failed", _one(sum(one["num_healthy_failed"] for one in damaged)), 0, "at most"),
        Bar("share of damaged pictures answered with 422", spread(refused), 1, "at least"),
    ]


def _one(value: float | None) -> Spread | None:
    return None if value is None else Spread(value, value, value)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--shape", choices=SHAPES, default="openai-image")
    parser.add_argument("--model", default="ViT-B-32")
    parser.add_argument("--encoder", help="a bundle in place of untrained weights, such as the int8 engine's")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--factor", type=float, default=10.0, help="overload, in capacities")
    parser.add_argument("--corrupt", type=float, default=0.0, help="share of damaged pictures; measures only that")
    parser.add_argument("--repetitions", type=int, default=3, help="of the damaged and the clean load")
    parser.add_argument("--quick", action="store_true", help="short: proves the path")
    return parser


if __name__ == "__main__":
    sys.exit(main())
