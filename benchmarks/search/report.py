"""Bars and the Markdown page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.search.clip_world import Shape
from benchmarks.search.measured import Figures
from benchmarks.serving.bars import Bar, spread, table
from sightline.index.planner import Decision

YARDSTICK = "FAISS Flat fp32"


def bars(figures: Sequence[Figures], decision: Decision) -> list[Bar]:
    """The targets at one million, for the plan that the planner chose, at the setting it was tuned to."""
    flat = next(f for f in figures if f.name == YARDSTICK)
    chosen = next((f for f in figures if f.name == decision.chosen and (f.predicted or not f.setting)), None)
    if chosen is None:
        return []
    return [
        Bar("recall@10 on text-like queries", spread([chosen.recalls["text"]]), 0.95, "at least"),
        Bar(
            "times as fast as exact fp32, single queries",
            spread([flat.times.single_p50_ms / chosen.times.single_p50_ms]),
            20.0,
            "at least",
        ),
        Bar("index memory", spread([chosen.memory_bytes / 1e9]), 0.6, "at most", " GB"),
        *_predictions([f for f in figures if f.predicted]),
    ]


def _predictions(figures: Sequence[Figures]) -> list[Bar]:
    """How far off each prediction was, as a factor of at least 1."""
    found = []
    for entry in figures:
        pairs = {
            "latency": (entry.predicted["latency_ms"], entry.times.single_p50_ms),
            "memory": (entry.predicted["memory_bytes"], float(entry.memory_bytes)),
        }
        if entry.predicted["build_seconds"] >= 1:
            pairs["build time"] = (entry.predicted["build_seconds"], entry.build_seconds)
        for what, (said, was) in pairs.items():
            factor = max(said, was) / max(min(said, was), 1e-9)
            found.append(Bar(f"planner's {what} for {entry.name}, off by", spread([factor]), 2.0, "at most", " times"))
    return found


def page(
    results: Mapping[int, tuple[Sequence[Figures], Decision]],
    shapes: Mapping[str, Shape],
    machine: Mapping[str, Any],
    busy: str,
) -> str:
    """Everything of one run."""
    described = ", ".join(f"{key} {value}" for key, value in machine.items())
    parts = ["# Search: recall against latency", f"Machine: {described}.", busy, _shapes(shapes)]
    for rows, (figures, decision) in results.items():
        parts += [f"## {rows:,} vectors", f"The planner chose {decision.chosen}: {decision.reason}."]
        if rows >= 10**6:
            parts.append(table(bars(figures, decision)))
        parts.append(_figures(figures))
    return "\n\n".join(parts) + "\n"


def _shapes(shapes: Mapping[str, Shape]) -> str:
    lines = ["| pairs | " + " | ".join(vars(shapes["real"])) + " |", "|---" * (len(vars(shapes["real"])) + 1) + "|"]
    lines += [
        f"| {name} | " + " | ".join(str(v) for v in vars(shape).values()) + " |" for name, shape in shapes.items()
    ]
    return "\n".join(["500 real pairs and 500 drawn ones:", "", *lines])


def _figures(figures: Sequence[Figures]) -> str:
    flat = next(f for f in figures if f.name == YARDSTICK)
    lines = [
        "| index | setting | recall@10 text | recall@10 image | one query, ms | p95, ms | faster than Flat "
        "| in a batch of 64, ms | memory, MB | built, s | predicted ms | predicted s |",
        "|---" * 12 + "|",
    ]
    for f in figures:
        latency = f"{f.predicted['latency_ms']:.2f}" if f.predicted else ""
        build = f"{f.predicted['build_seconds']:.0f}" if f.predicted else ""
        lines.append(
            f"| {f.name} | {f.setting} | {f.recalls['text']:.3f} | {f.recalls['image']:.3f} "
            f"| {f.times.single_p50_ms:.2f} | {f.times.single_p95_ms:.2f} "
            f"| {flat.times.single_p50_ms / f.times.single_p50_ms:.1f} | {f.times.batch_ms:.2f} "
            f"| {f.memory_bytes / 1e6:.0f} | {f.build_seconds:.0f} "
            f"| {latency} | {build} |"
        )
    return "\n".join(lines)
