"""``sightline index plan`` and ``optimise``: which index, before and after a collection is built."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sightline.command.console import Console, JsonOption
from sightline.errors import QueryError

if TYPE_CHECKING:
    from sightline.index.planner import Candidate, Decision

_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}
TargetOption = Annotated[float, typer.Option(min=0.01, help="Stay exact while one query takes at most this long, ms.")]
MemoryOption = Annotated[str | None, typer.Option(help="What the index may count on, like 4GB; else what is free.")]


def register(group: typer.Typer) -> None:
    """Add the commands to the ``index`` group."""
    group.command("plan")(plan)
    group.command("optimise")(optimise)


def plan(
    count: Annotated[int | None, typer.Option(min=1, help="How many vectors.")] = None,
    dim: Annotated[int | None, typer.Option(min=2, max=16384, help="How many dimensions.")] = None,
    collection: Annotated[Path | None, typer.Option(help="Take count and dimension from a collection.")] = None,
    memory: MemoryOption = None,
    target_ms: TargetOption = 25.0,
    as_json: JsonOption = False,
) -> None:
    """Compare the kinds of index for a collection on this machine, whose speed is measured for about a second.

    Example: `sightline index plan --count 1000000 --dim 512 --memory 4GB`
    """
    from sightline.collection.manifest import current_generation, read_manifest
    from sightline.index.calibration import measure, this_machine
    from sightline.index.planner import plan as compare

    if collection is not None:
        manifest = read_manifest(current_generation(collection))
        count, dim = count or max(manifest.num_items, 1), dim or manifest.encoder.dim
    if count is None or dim is None:
        raise QueryError("Say how many vectors of how many dimensions: --count N --dim D, or --collection C.")
    machine = this_machine(None if memory is None else num_bytes(memory))
    decision = compare(count, dim, machine, measure(dim), target_ms)
    values: dict[str, Any] = {
        "count": count,
        "dim": dim,
        "machine": vars(machine),
        "candidates": [candidate.as_json() for candidate in decision.candidates],
        "chosen": decision.chosen,
        "reason": decision.reason,
    }
    Console(as_json=as_json).result(values, _table(decision, count, dim))


def optimise(
    collection: Annotated[Path, typer.Option(help="The collection; it gets a new generation.")],
    plan: Annotated[str, typer.Option(help="auto, or a name that `sightline index plan` prints.")] = "auto",
    recall_target: Annotated[float, typer.Option(help="recall@10 to reach on text queries.")] = 0.95,
    memory: MemoryOption = None,
    target_ms: TargetOption = 25.0,
    as_json: JsonOption = False,
) -> None:
    """Build another kind of index for a collection and tune it to a recall measured on its captions as queries.

    The vectors are shared with the generation before, which stays for a rollback; a service takes the new by a reload.

    Example: `sightline index optimise --collection photos --plan auto --recall-target 0.95`
    """
    from indexer.indexing import IndexOptions
    from indexer.indexing import optimise as make

    console = Console(as_json=as_json)
    budget = None if memory is None else num_bytes(memory)
    manifest = make(collection, IndexOptions(plan, recall_target, target_ms, budget), console.say)
    lines = [f"{collection} {manifest.generation} is current."]
    for which in ("images", "captions"):
        record = manifest.index[which]
        points = [p for p in record["curve"] if p["setting"] == record["setting"]]
        told = ", ".join(f"recall@10 {p['recall_at_10']:.3f} on {p['queries']} queries" for p in points)
        lines.append(f"  {which}: {record['plan']}{f', {told}' if told else ''} ({record['reason']})")
    values = {"collection": str(collection), "generation": manifest.generation, "index": manifest.index}
    console.result(values, "\n".join(lines))


def num_bytes(text: str) -> int:
    """``4GB``, ``512 MiB`` or ``1000`` as a number of bytes. Raises QueryError."""
    match = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([KMGT]?I?B?)\s*", text.upper())
    unit = "" if match is None else match[2]
    if match is None or unit not in _UNITS or float(match[1]) * _UNITS[unit] < 1:
        raise QueryError("An amount of memory is a number with a unit, like 4GB or 512MiB.")
    return int(float(match[1]) * _UNITS[unit])


def _table(decision: Decision, count: int, dim: int) -> str:
    lines = [
        f"{count:,} vectors of {dim} dimensions",
        f"  {'plan':<10} {'memory':>9} {'on disk':>9} {'build':>9} {'one query':>11}  why",
    ]
    for candidate in decision.candidates:
        mark = "*" if candidate.plan == decision.chosen else " "
        lines.append(f"{mark} {_row(candidate)}")
    return "\n".join([*lines, f"Choose {decision.chosen}: {decision.reason}."])


def _row(candidate: Candidate) -> str:
    why = candidate.why if candidate.fits else f"not here: {candidate.why}"
    build = (
        f"{candidate.build_seconds:.0f} s"
        if candidate.build_seconds < 600
        else f"{candidate.build_seconds / 60:.0f} min"
    )
    return (
        f"{candidate.plan:<10} {_size(candidate.memory_bytes):>9} {_size(candidate.disk_bytes):>9} {build:>9} "
        f"{candidate.latency_ms:>8.2f} ms  {why}"
    )


def _size(amount: int) -> str:
    return f"{amount / 1e9:.2f} GB" if amount >= 1e9 else f"{amount / 1e6:.1f} MB"
