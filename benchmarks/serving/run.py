"""The interleaved run: every repetition starts each competitor in turn, alone, and measures its ceilings beside it."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.serving.connection import connect
from benchmarks.serving.generator import APART, generate, json_of
from benchmarks.serving.neighbours import Neighbours
from benchmarks.serving.pictures import Pool, open_pool
from benchmarks.serving.requests import INFINITY, SIGHTLINE, Shape, prepare
from benchmarks.serving.servers import Server
from benchmarks.serving.variants import Variant

_NUM_COMPARED = 32


@dataclass(frozen=True)
class Load:
    """One closed-loop measurement. ``own`` loads use a route that only Sightline has."""

    name: str
    shape: Shape
    clients: int
    own: bool = False


def loads_of(clients: int) -> tuple[Load, ...]:
    """The loads of a run."""
    return (
        Load("images, many clients", "openai-image", clients),
        Load("texts, many clients", "openai-text", clients),
        Load("images, one client", "openai-image", 1),
        Load("texts, one client", "openai-text", 1),
        Load("image search, many clients", "image-to-image", clients, own=True),
        Load("text search, many clients", "text-to-image", clients, own=True),
    )


@dataclass(frozen=True)
class Schedule:
    """How long and how often."""

    repetitions: int
    seconds: float
    warmup_seconds: float
    ceiling_seconds: float
    clients: int
    device: str


@dataclass
class Results:
    """Everything measured, by variant and load (or ceiling), one entry for each repetition."""

    figures: dict[str, dict[str, list[dict[str, Any]]]] = field(default_factory=dict)
    ceilings: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    vectors: dict[str, dict[str, npt.NDArray[np.float64]]] = field(default_factory=dict)

    def values(self, variant: str, load: str, *path: str) -> list[float | None]:
        """One figure of every repetition, such as ``"latency", "p50_ms"``."""
        return [_at(entry, path) for entry in self.figures.get(variant, {}).get(load, [])]

    def ceiling(self, variant: str, name: str) -> list[float | None]:
        return [entry[name] for entry in self.ceilings.get(variant, [])]

    def as_json(self) -> dict[str, Any]:
        return {"figures": self.figures, "ceilings": self.ceilings}


def run(variants: Sequence[Variant], schedule: Schedule, pool: Path, logs: Path, say: Callable[[str], None]) -> Results:
    """Measure. Raises ServerFailed or GeneratorFailed."""
    results = Results()
    opened = open_pool(pool)
    for repetition in range(schedule.repetitions):
        for variant in variants:
            say(f"repetition {repetition + 1}/{schedule.repetitions}: {variant.name}")
            if variant.kind == "sightline":
                results.ceilings.setdefault(variant.name, []).append(_ceilings(variant, schedule, pool))
            with variant.serve(logs / f"{_file_name(variant.name)}-{repetition}.log", schedule.device) as server:
                _measure(variant, server, schedule, pool, repetition, results, say)
                if variant.name not in results.vectors:
                    results.vectors[variant.name] = asyncio.run(_vectors(variant, server, opened))
    return results


def agreement(results: Results, one: str, other: str) -> dict[str, float]:
    """The lowest cosine between two competitors' vectors of the same input, for pictures and for texts."""
    agreed = {}
    for kind, mine in results.vectors[one].items():
        theirs = results.vectors[other][kind]
        products = (mine * theirs).sum(axis=1) / np.linalg.norm(mine, axis=1) / np.linalg.norm(theirs, axis=1)
        agreed[kind] = round(float(products.min()), 5)
    return agreed


def _measure(
    variant: Variant, server: Server, schedule: Schedule, pool: Path, repetition: int, results: Results,
    say: Callable[[str], None],
) -> None:  # fmt: skip
    for number, load in enumerate(loads_of(schedule.clients)):
        if load.own and variant.kind != "sightline":
            continue
        neighbours = Neighbours(server.pid)
        figures = generate(
            server, load.shape, pool, "--dialect", variant.kind, "--clients", load.clients, "--seconds",
            schedule.seconds, "--warmup-seconds", schedule.warmup_seconds, "--first", APART * (number + 7 * repetition),
        )  # fmt: skip
        figures |= asdict(neighbours.usage())
        results.figures.setdefault(variant.name, {}).setdefault(load.name, []).append(figures)
        say(
            f"  {load.name}: {figures['throughput_per_second']:.1f}/s, p50 {figures['latency']['p50_ms']} ms, "
            f"failed {figures['num_due'] - figures['num_ok']}, other work on {figures['other_cores']:.2f} cores"
        )


def _ceilings(variant: Variant, schedule: Schedule, pool: Path) -> dict[str, Any]:
    assert variant.encoder is not None
    neighbours = Neighbours()
    figures = json_of([
        sys.executable, "-m", "benchmarks.serving.ceilings", "--encoder", variant.encoder, "--device", schedule.device,
        "--precision", variant.precision, "--pool", str(pool), "--seconds", str(schedule.ceiling_seconds),
    ])  # fmt: skip
    return figures | asdict(neighbours.usage())


async def _vectors(variant: Variant, server: Server, pool: Pool) -> dict[str, npt.NDArray[np.float64]]:
    """Vectors float64 ``[B, D]`` of pictures and of texts that are short enough for both servers' tokenizers."""
    brief = tuple(caption for caption in pool.captions if len(caption) <= 60)
    few = Pool(pool.pictures[:_NUM_COMPARED], brief[:_NUM_COMPARED], pool.origin)
    dialect = INFINITY if variant.kind == "infinity" else SIGHTLINE
    connection = await connect(server.host, server.port, keep_body=True)
    found = {}
    shapes: dict[str, Shape] = {"images": "openai-image", "texts": "openai-text"}
    for kind, shape in shapes.items():
        rows = []
        for request in prepare(shape, few, server.host, server.port, dialect):
            answer = await connection.exchange(request.wire)
            rows.append(json.loads(answer.body)["data"][0]["embedding"])
        found[kind] = np.asarray(rows, np.float64)  # [B, D]
    connection.close()
    return found


def _at(entry: dict[str, Any], path: Sequence[str]) -> float | None:
    value: Any = entry
    for key in path:
        value = value[key]
    return None if value is None else float(value)


def _file_name(name: str) -> str:
    return "".join(letter if letter.isalnum() else "-" for letter in name)
