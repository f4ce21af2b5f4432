"""Rounds: each side trains once with the same seed, in turns, and every finished training is a line in a file."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.indexing.watch import Watched
from benchmarks.training.photos import ours, peer
from benchmarks.training.photos.plan import Place, Plan, Say, epochs_for, peer_job
from benchmarks.training.photos.score import R_AT_10, bundle_of_peer, score

OURS, PEER = "Sightline", "open_clip"
RUNS_NAME = "runs.jsonl"
SWEEP_SHARE = 1 / 3
Entry = dict[str, Any]


def read_runs(path: Path) -> list[Entry]:
    """Finished trainings, oldest first."""
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def run_rounds(place: Place, plan: Plan, num_rounds: int, say: Say) -> list[Entry]:
    """Train and score what is missing of ``num_rounds``; the side that begins changes from round to round.

    Raises CommandFailed; what was finished before is kept.
    """
    path = place.out / RUNS_NAME
    for number in range(num_rounds):
        for side in (OURS, PEER) if number % 2 == 0 else (PEER, OURS):
            if any(entry["round"] == number and entry["side"] == side for entry in read_runs(path)):
                continue
            say(f"round {number + 1}/{num_rounds}: {side}")
            entry = train_ours(place, plan, number) if side == OURS else train_peer(place, plan, number)
            with path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(entry) + "\n")
            say(
                f"  {entry['pairs']:,} pairs in {entry['seconds']:.0f} s, R@10 {entry[R_AT_10]:.4f}, other work on "
                f"{entry['other_cores']:.2f} cores"
            )
    return read_runs(path)


def train_ours(place: Place, plan: Plan, number: int) -> Entry:
    """One training by ``sightline train``, scored. Raises CommandFailed."""
    recipe = ours.write_recipe(place.recipe_path, place.out / "recipe.toml", num_steps=plan.our_steps, seed=number)
    bundle = place.out / f"ours-{number}"
    watched = ours.run_ours(recipe, place.data, bundle, place.out / f"ours-{number}.log")
    batch_size = place.recipe.training.batch_size
    rate = ours.pairs_per_second(ours.log_of(bundle), batch_size)
    scores = score(bundle, place.data, place.out / f"score-ours-{number}.log")
    return entry_of(OURS, number, plan.our_steps * batch_size, watched, rate, scores)


def train_peer(place: Place, plan: Plan, number: int, name: str = "") -> Entry:
    """One training by open_clip's trainer, its weights exported to a bundle and scored. Raises CommandFailed."""
    name = name or f"peer-{number}"
    job = peer_job(place, plan.settings, plan.peer_rows, plan.peer_epochs, number, name, log_every=1)
    log = place.out / f"{name}.log"
    watched = peer.run_peer(place.recipe, plan.settings, job, place.out, log)
    text = log.read_text(encoding="utf-8", errors="replace")
    rate = peer.pairs_per_second(text, plan.settings.batch_size)
    bundle = place.out / name
    bundle_of_peer(place.recipe, peer.checkpoint_of(job, place.out), bundle)
    shutil.rmtree(place.out / "logs" / name, ignore_errors=True)
    scores = score(bundle, place.data, place.out / f"score-{name}.log")
    return entry_of(PEER, number, plan.peer_pairs, watched, rate, scores)


def entry_of(side: str, number: int, pairs: int, watched: Watched, loop_rate: float, scores: dict[str, float]) -> Entry:
    """One line of the file. The rate counts the whole command, from starting Python to its end."""
    return {
        "side": side, "round": number, "pairs": pairs, "seconds": round(watched.seconds, 2),
        "pairs_per_second": round(pairs / watched.seconds, 2), "loop_pairs_per_second": round(loop_rate, 2),
        "peak_group_bytes": watched.peak_group_bytes, "other_cores": watched.usage.other_cores,
        "stolen_cores": watched.usage.stolen_cores, **scores,
    }  # fmt: skip


def sweep(place: Place, plan: Plan, learning_rates: list[float], crop_scales: list[float], say: Say) -> Plan:
    """The peer's learning rate and crop with the best R@10 on the very photos that the rounds are judged by.

    Each is tried for ``SWEEP_SHARE`` of a round's pairs. Finished trainings are kept in ``sweep.jsonl``.
    """
    path = place.out / "sweep.jsonl"
    batch_size = plan.settings.batch_size
    rows, epochs = epochs_for(round(SWEEP_SHARE * plan.peer_pairs), len(place.photos.pairs), batch_size)
    short = replace(plan, peer_rows=rows, peer_epochs=epochs)
    for rate in learning_rates:
        for crop in crop_scales:
            if any(entry["learning_rate"] == rate and entry["crop_scale"] == crop for entry in read_runs(path)):
                continue
            tried = replace(short, settings=replace(plan.settings, learning_rate=rate, crop_scale=crop))
            entry = train_peer(place, tried, 0, "sweep") | {"learning_rate": rate, "crop_scale": crop}
            with path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(entry) + "\n")
            say(f"open_clip, learning rate {rate:g}, crop from {crop:g}: R@10 {entry[R_AT_10]:.4f}")
    best = max(read_runs(path), key=lambda entry: float(entry[R_AT_10]))
    settings = replace(plan.settings, learning_rate=best["learning_rate"], crop_scale=best["crop_scale"])
    return replace(plan, settings=settings)
