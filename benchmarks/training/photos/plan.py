"""How long each side trains: its rate and what it spends before and after, measured once, give steps for the clock."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.training.photos import ours, peer
from benchmarks.training.photos.data import Photos, write_table, write_tars
from benchmarks.training.photos.peer import PeerJob, PeerSettings
from training.recipe import Recipe, read_recipe

PROBE_STEPS = 30
Say = Callable[[str], None]


@dataclass(frozen=True)
class Place:
    """Where a run happens and on what: fixed for all of its parts."""

    out: Path
    data: str
    recipe_path: Path
    recipe: Recipe
    photos: Photos


@dataclass(frozen=True)
class Plan:
    """Equal seconds for both, as steps of one and rows and epochs of the other."""

    seconds: float
    our_steps: int
    peer_rows: int
    peer_epochs: int
    settings: PeerSettings

    @property
    def peer_pairs(self) -> int:
        """Pairs that the peer trains on: it leaves out what does not fill a batch."""
        return self.peer_epochs * (self.peer_rows // self.settings.batch_size) * self.settings.batch_size


def steps_for(seconds: float, around: float, rate: float, batch_size: int) -> int:
    """Steps that fill what is left of ``seconds`` after ``around``, what a command does besides its steps."""
    return max(1, math.floor((seconds - around) * rate / batch_size))


def epochs_for(pairs: int, num_rows: int, batch_size: int) -> tuple[int, int]:
    """(rows of the table, epochs) for a number of pairs; an epoch shows every row, and some twice where need be."""
    epochs = max(1, pairs // num_rows)
    return max(pairs // epochs // batch_size, 1) * batch_size, epochs


def make_plan(place: Place, settings: PeerSettings, seconds: float, num_cores: int, say: Say) -> Plan:
    """Try the peer's settings and our recipe for ``PROBE_STEPS`` each, choose its fastest, and fill the seconds.

    The measured rates go to ``plan.json`` beside the plan. Raises CommandFailed.
    """
    rates: list[tuple[PeerSettings, float]] = []
    around: dict[str, float] = {}
    for candidate in peer.candidates(settings, num_cores):
        name = candidate.name()
        job = peer_job(place, candidate, PROBE_STEPS * candidate.batch_size, 1, 0, f"probe-{len(rates)}", 1)
        watched = peer.run_peer(place.recipe, candidate, job, place.out, place.out / f"{job.name}.log")
        text = (place.out / f"{job.name}.log").read_text(encoding="utf-8", errors="replace")
        rate = peer.pairs_per_second(text, candidate.batch_size)
        around[name] = watched.seconds - job.num_rows / rate
        rates.append((candidate, rate))
        shutil.rmtree(place.out / "logs" / job.name, ignore_errors=True)
        say(f"open_clip, {name}: {rate:.0f} pairs/s, {around[name]:.1f} s around it")
    chosen = peer.fastest(rates)
    peer_rate = {one.name(): rate for one, rate in rates}[chosen.name()]
    our_rate, our_around = _probe_ours(place)
    say(f"sightline train: {our_rate:.0f} pairs/s, {our_around:.1f} s around it")
    batch_size = place.recipe.training.batch_size
    peer_steps = steps_for(seconds, around[chosen.name()], peer_rate, chosen.batch_size)
    rows, epochs = epochs_for(peer_steps * chosen.batch_size, len(place.photos.pairs), chosen.batch_size)
    plan = Plan(seconds, steps_for(seconds, our_around, our_rate, batch_size), rows, epochs, chosen)
    figures = {
        "peer": [
            {**one.as_json(), "pairs_per_second": rate, "around_seconds": around[one.name()]} for one, rate in rates
        ],
        "ours": {"pairs_per_second": our_rate, "around_seconds": our_around},
    }  # fmt: skip
    write_plan(plan, place.out / "plan.json", figures)
    return plan


def write_plan(plan: Plan, path: Path, probed: dict[str, Any]) -> None:
    """Keep a plan for the rounds to come."""
    path.write_text(json.dumps({**asdict(plan), "probed": probed}, indent=1) + "\n", encoding="utf-8")


def read_plan(path: Path) -> Plan | None:
    """The plan made before, None when there is none."""
    if not path.is_file():
        return None
    found = json.loads(path.read_text(encoding="utf-8"))
    found.pop("probed")
    return Plan(**{**found, "settings": PeerSettings(**found["settings"])})


def peer_job(
    place: Place, settings: PeerSettings, rows: int, epochs: int, seed: int, name: str, log_every: int = 100
) -> PeerJob:
    """Write the table or the tars of a training of the peer and say what it is to do."""
    shutil.rmtree(place.out / "logs" / name, ignore_errors=True)  # the peer refuses a name that is taken
    pairs = place.photos.table_of(rows, seed)
    if settings.dataset == "csv":
        table = place.out / f"{name}.csv"
        write_table(pairs, table)
        data = str(table)
    else:
        data = write_tars(pairs, place.out / f"{name}-tars", seed)
    return PeerJob(data, len(pairs), epochs, seed, name, log_every)


def open_place(out: Path, data: str, recipe_path: Path, photos: Photos) -> Place:
    """The place of a run; raises RecipeError for a wrong recipe."""
    return Place(out, data, recipe_path, read_recipe(str(recipe_path)), photos)


def _probe_ours(place: Place) -> tuple[float, float]:
    recipe = ours.write_recipe(place.recipe_path, place.out / "probe.toml", num_steps=PROBE_STEPS, seed=0)
    bundle = place.out / "probe"
    watched = ours.run_ours(recipe, place.data, bundle, place.out / "probe-ours.log")
    rate = ours.pairs_per_second(ours.log_of(bundle), place.recipe.training.batch_size)
    return rate, watched.seconds - PROBE_STEPS * place.recipe.training.batch_size / rate
