"""``python -m benchmarks.search --rows 100000 --rows 1000000 --dim 512 --out DIR``.

About 8 minutes and 4 GB on 2 cores, with nothing beside it. The pairs that shape the vectors are read from
``$SIGHTLINE_TEST_DATA/clip_pairs`` or ``--pairs``. All figures of a page come from one run.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

from benchmarks.machine import describe_machine
from benchmarks.search.clip_world import ClipWorld
from benchmarks.search.report import bars, page
from benchmarks.search.run import run_size

PLAN_NAMES = ("exact", "ivf-sq8", "codes", "ivf-codes", "hnsw")


def main() -> int:
    arguments = _arguments()
    arguments.out.mkdir(parents=True, exist_ok=True)
    world = ClipWorld(arguments.pairs)
    if world.dim != arguments.dim:
        sys.exit(f"The pairs have {world.dim} dimensions, not {arguments.dim}.")
    shapes = world.check()
    load_before = os.getloadavg()[0]
    results = {
        rows: run_size(world, rows, arguments.plan, arguments.out, _say, not arguments.no_graphs)
        for rows in arguments.rows
    }
    busy = f"Load average before the run: {load_before:.2f} (others' work; near 0 on a quiet machine)."
    text = page(results, shapes, describe_machine(), busy)
    content = {
        "machine": describe_machine(),
        "load_before": load_before,
        "shapes": {name: vars(shape) for name, shape in shapes.items()},
        "sizes": {
            str(rows): {
                "figures": [f.as_json() for f in figures],
                "candidates": [c.as_json() for c in decision.candidates],
                "chosen": decision.chosen,
                "bars": [bar.as_json() for bar in bars(figures, decision)] if rows >= 10**6 else [],
            }
            for rows, (figures, decision) in results.items()
        },
    }
    (arguments.out / "search.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    (arguments.out / "search.md").write_text(text, encoding="utf-8")
    print(text)
    return 0


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.search", description=__doc__)
    data = os.environ.get("SIGHTLINE_TEST_DATA")
    parser.add_argument("--rows", type=int, action="append", required=True, help="a size; may be given again")
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--plan", action="append", choices=PLAN_NAMES, help="only these plans; all otherwise")
    parser.add_argument("--no-graphs", action="store_true", help="leave HNSW out, which takes longest to build")
    parser.add_argument(
        "--pairs", type=Path, default=Path(data) / "clip_pairs" if data else None, required=data is None
    )
    arguments = parser.parse_args()
    arguments.plan = arguments.plan or list(PLAN_NAMES)
    return arguments


if __name__ == "__main__":
    sys.exit(main())
