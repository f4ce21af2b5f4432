"""``python -m benchmarks.training.photos --data FOLDER --out DIR``: ``sightline train`` beside open_clip's own trainer.

FOLDER holds captioned photos with the splits ``train`` and ``dev`` (Flickr8k as WebDataset tars, for one). The first
call measures the rates of both and plans; with ``--sweep`` it then looks for the peer's best learning rate and crop.
Rounds are kept in ``DIR/runs.jsonl``: call again with more ``--rounds`` to add to them. Writes ``photos.json`` and
``photos.md``. Exit codes: 0 every bar is met (or ``--quick``, which only proves the path), 1 a bar is missed, 3
something failed.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.indexing.watch import CommandFailed
from benchmarks.machine import describe_machine
from benchmarks.serving.bars import Bar
from benchmarks.serving.servers import end_servers_on_sigterm
from benchmarks.training.photos import ours, peer
from benchmarks.training.photos.data import unpack
from benchmarks.training.photos.peer import PeerJob, PeerSettings
from benchmarks.training.photos.plan import Place, Plan, make_plan, open_place, read_plan, write_plan
from benchmarks.training.photos.report import bars_of, page
from benchmarks.training.photos.run import Entry, run_rounds, sweep
from sightline.errors import SightlineError

MISSED, FAILED = 1, 3
SECONDS, QUICK_SECONDS = 150.0, 30.0


def main() -> int:
    options = _parser().parse_args()
    end_servers_on_sigterm()
    out: Path = options.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    try:
        place = open_place(out, str(options.data), options.recipe, unpack(str(options.data), out / "pictures"))
        peer.ensure_requirements(out / "peer-packages")
        peer.write_architecture(place.recipe, out / "architecture")
        plan = _plan(options, place)
        rounds = 0 if options.plan_only else 1 if options.quick else options.rounds
        runs = run_rounds(place, plan, rounds, _say)
    except (CommandFailed, SightlineError) as error:
        print(error, file=sys.stderr)
        return FAILED
    bars = bars_of(runs)
    _write(place, plan, runs, bars)
    print(f"{sum(bar.met for bar in bars)} of {len(bars)} bars met. Figures: {out}")
    return 0 if options.quick or all(bar.met for bar in bars) else MISSED


def _plan(options: argparse.Namespace, place: Place) -> Plan:
    path = place.out / "plan.json"
    plan = read_plan(path)
    if plan is None:
        settings = PeerSettings(batch_size=place.recipe.training.batch_size)
        seconds = QUICK_SECONDS if options.quick else options.seconds
        plan = make_plan(place, settings, seconds, len(os.sched_getaffinity(0)), _say)
    if options.sweep:
        probed = json.loads(path.read_text(encoding="utf-8"))["probed"]
        plan = sweep(place, plan, options.sweep_learning_rates, options.sweep_crop_scales, _say)
        write_plan(plan, path, probed)
    return plan


def _write(place: Place, plan: Plan, runs: Sequence[Entry], bars: Sequence[Bar]) -> None:
    machine = describe_machine()
    described = ", ".join(f"{key} {value}" for key, value in machine.items())
    name = "csv" if plan.settings.dataset == "csv" else "tars"
    job = PeerJob(f"PAIRS.{name}", plan.peer_rows, plan.peer_epochs, 0, "peer-0")
    theirs = " ".join(peer.arguments(place.recipe, plan.settings, job, Path("LOGS")))
    commands = (
        f"sightline train {place.recipe_path.name} --data FLICKR8K --out BUNDLE    # num_steps = {plan.our_steps}",
        f"python -m open_clip_train.main {theirs}",
    )
    text = page(runs, bars, plan, f"Machine: {described}.", commands)
    written = json.loads((place.out / "plan.json").read_text(encoding="utf-8"))
    raw = {
        "machine": machine, "plan": written, "runs": list(runs), "bars": [bar.as_json() for bar in bars],
        "recipe": place.recipe_path.read_text(encoding="utf-8"),
    }  # fmt: skip
    (place.out / "photos.json").write_text(json.dumps(raw, indent=1) + "\n", encoding="utf-8")
    (place.out / "photos.md").write_text(text, encoding="utf-8")
    print(text)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="captioned photos with the splits train and dev")
    parser.add_argument("--out", type=Path, required=True, help="everything is written below this folder")
    parser.add_argument("--recipe", type=Path, default=ours.RECIPE, help="our recipe; the peer gets its architecture")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="whole command of each side")
    parser.add_argument("--rounds", type=int, default=3, help="rounds in all, those done before included")
    parser.add_argument("--plan-only", action="store_true", help="measure the rates, sweep if asked to, and stop")
    parser.add_argument("--sweep", action="store_true", help="look for the peer's best learning rate and crop first")
    parser.add_argument("--sweep-learning-rates", type=float, nargs="+", default=[5e-4, 1e-3, 2e-3])
    parser.add_argument("--sweep-crop-scales", type=float, nargs="+", default=[0.9, 0.5])
    parser.add_argument("--quick", action="store_true", help="half a minute each, once: proves the path, says nothing")
    return parser


if __name__ == "__main__":
    sys.exit(main())
