"""``python -m benchmarks.training.costs --out DIR``: what gradient caching, cached features, evaluation and the loss
of a very large batch cost.

Writes ``costs.json`` and ``costs.md``; ``--only`` measures a part and keeps the others' figures. Exit codes: 0 every
bar is met (or ``--quick``, which only proves the path), 1 a bar is missed.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from benchmarks.machine import describe_machine
from benchmarks.serving.bars import Bar, table
from benchmarks.serving.neighbours import Neighbours
from benchmarks.training.costs.caching import caching_bar, caching_row, measure_caching
from benchmarks.training.costs.evaluating import evaluating_bars, evaluating_row, measure_evaluating
from benchmarks.training.costs.large_batch import (
    KINDS,
    NUM_PAIRS,
    large_batch_bar,
    large_batch_row,
    measure_large_batch,
)
from benchmarks.training.costs.locked import ARCHITECTURE, locked_bars, locked_row, measure_locked

LARGE = {f"large-{kind}": kind for kind in KINDS}
PARTS = ("caching", "locked", "evaluating", *LARGE)
MISSED = 1


def main() -> int:
    options = _parser().parse_args()
    out: Path = options.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    rounds = 1 if options.quick else options.rounds
    path = out / "costs.json"
    raw: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    raw["machine"] = describe_machine()
    neighbours = Neighbours()
    for part in options.only:
        print(f"measuring: {part}", file=sys.stderr, flush=True)
        raw[part] = _measure(part, options, rounds)
        path.write_text(json.dumps(raw, indent=1) + "\n", encoding="utf-8")
    bars, rows = _judge(raw)
    usage = neighbours.usage()
    rows.append(
        f"Other work took {usage.other_cores + usage.stolen_cores:.2f} cores while the last of them was measured."
    )
    machine = ", ".join(f"{key} {value}" for key, value in raw["machine"].items())
    text = "\n\n".join(["## What parts of training cost", f"Machine: {machine}.", table(bars), *rows]) + "\n"
    raw |= {"bars": [bar.as_json() for bar in bars], "other_cores": usage.other_cores + usage.stolen_cores}
    path.write_text(json.dumps(raw, indent=1) + "\n", encoding="utf-8")
    (out / "costs.md").write_text(text, encoding="utf-8")
    print(text)
    print(f"{sum(bar.met for bar in bars)} of {len(bars)} bars met. Figures: {out}")
    return 0 if options.quick or all(bar.met for bar in bars) else MISSED


def _measure(part: str, options: argparse.Namespace, rounds: int) -> Any:
    if part == "caching":
        batch_size, micro_batch = (16, 4) if options.quick else (options.batch_size, options.micro_batch)
        return measure_caching(batch_size, micro_batch, rounds)
    if part == "locked":
        return measure_locked(4 if options.quick else 64, rounds, "ViT-B-32" if options.quick else ARCHITECTURE)
    if part in LARGE:
        return measure_large_batch(LARGE[part], 4096 if options.quick else options.pairs)
    return measure_evaluating(rounds)


def _judge(raw: dict[str, Any]) -> tuple[list[Bar], list[str]]:
    """Bars and sentences of all parts that are measured, now or before."""
    bars: list[Bar] = []
    rows: list[str] = []
    if "caching" in raw:
        bars.append(caching_bar(raw["caching"]))
        rows.append(caching_row(raw["caching"]))
    if "locked" in raw:
        bars.extend(locked_bars(raw["locked"]))
        rows.append(locked_row(raw["locked"]))
    if "evaluating" in raw:
        bars += evaluating_bars(raw["evaluating"])
        rows.append(evaluating_row(raw["evaluating"]))
    for part in LARGE:
        if part in raw:
            bars.append(large_batch_bar(raw[part]))
            rows.append(large_batch_row(raw[part]))
    return bars, rows


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="everything is written below this folder")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, help="these parts alone")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch-size", type=int, default=256, help="of gradient caching")
    parser.add_argument("--micro-batch", type=int, default=64, help="of gradient caching")
    parser.add_argument("--pairs", type=int, default=NUM_PAIRS, help="of the large batch")
    parser.add_argument("--quick", action="store_true", help="tiny and once: proves the path, says nothing")
    return parser


if __name__ == "__main__":
    sys.exit(main())
