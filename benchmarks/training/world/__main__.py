"""``python -m benchmarks.training.world --out DIR``: published shapes of contrastive training on a small drawn world.

Every finished run is a line in ``DIR/full/runs.jsonl``: a call that was cut off goes on, and ``--seeds`` and ``--only``
may grow from call to call. ``--again NAME`` forgets an experiment first. Writes ``world.json`` and ``world.md`` beside
it. A shape that does not come out is a finding and not a failure: exit code 0 once everything asked for is measured, 3
when something failed.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path

from benchmarks.machine import describe_machine
from benchmarks.training.world.experiments import EXPERIMENTS
from benchmarks.training.world.lab import QUICK, Size
from benchmarks.training.world.report import page, verdicts_of
from benchmarks.training.world.results import Results
from benchmarks.training.world.work import make_base, run_experiment

FAILED = 3


def main() -> int:
    options = _parser().parse_args()
    out: Path = options.out.resolve() / ("quick" if options.quick else "full")
    out.mkdir(parents=True, exist_ok=True)
    results = Results(out / "runs.jsonl")
    for name in options.again:
        _forget(out / "runs.jsonl", name)
    seeds, size = range(1 if options.quick else options.seeds), QUICK if options.quick else Size()
    names = [experiment.name for experiment in EXPERIMENTS if not options.only or experiment.name in options.only]
    try:
        if not options.page_only:
            _run(names, seeds, size, out, results, options.jobs)
    except Exception as error:  # a worker's; what is finished is kept
        print(f"An experiment failed: {error}", file=sys.stderr)
        return FAILED
    chosen = [experiment for experiment in EXPERIMENTS if experiment.name in names]
    verdicts = [verdict for experiment in chosen for verdict in verdicts_of(experiment, results)]
    machine = describe_machine()
    text = page(
        chosen, results, verdicts, "Machine: " + ", ".join(f"{key} {value}" for key, value in machine.items()) + "."
    )
    raw = {
        "machine": machine, "runs": [vars(one) for one in results.read()],
        "verdicts": [{"experiment": one.experiment, **one.bar.as_json(), "values": one.values} for one in verdicts],
    }  # fmt: skip
    (out / "world.json").write_text(json.dumps(raw, indent=1) + "\n", encoding="utf-8")
    (out / "world.md").write_text(text, encoding="utf-8")
    print(text)
    print(f"{sum(one.bar.met for one in verdicts)} of {len(verdicts)} shapes came out. Figures: {out}")
    return 0


def _run(names: list[str], seeds: range, size: Size, out: Path, results: Results, jobs: int) -> None:
    done = {(one.experiment, one.variant, one.seed) for one in results.read()}
    missing = [
        (experiment.name, seed, [v for v in experiment.variants if (experiment.name, v, seed) not in done])
        for seed in seeds
        for experiment in EXPERIMENTS
        if experiment.name in names
    ]
    missing = [task for task in missing if task[2]]
    # Spawned, because a fork of a process that has threads (torch) may hang.
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        # Bases first: the experiments of a seed share one, and two workers must not train it twice.
        bases = [pool.submit(make_base, seed, out, size) for seed in sorted({seed for _, seed, _ in missing})]
        for future in bases:
            future.result()
        futures = [pool.submit(run_experiment, name, seed, variants, out, size) for name, seed, variants in missing]
        for future in as_completed(futures):
            future.result()


def _forget(path: Path, name: str) -> None:
    if path.is_file():
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        path.write_text("".join(line for line in lines if json.loads(line)["experiment"] != name), encoding="utf-8")


def _parser() -> argparse.ArgumentParser:
    names = [experiment.name for experiment in EXPERIMENTS]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="everything is written below this folder")
    parser.add_argument("--seeds", type=int, default=3, help="seeds in all, those done before included")
    parser.add_argument("--only", nargs="+", choices=names, default=[], help="these experiments alone")
    parser.add_argument("--again", nargs="+", choices=names, default=[], help="forget these and run them again")
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)), help="runs at once, one core each")
    parser.add_argument("--page-only", action="store_true", help="run nothing: the page of what is finished")
    parser.add_argument("--quick", action="store_true", help="a few steps of everything: proves the path, says nothing")
    return parser


if __name__ == "__main__":
    sys.exit(main())
