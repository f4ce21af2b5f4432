"""How long each side trains: its rate and what it spends before and after, measured once, give steps for the clock."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.indexing.watch import Watched
from benchmarks.training.photos import ours, peer
from benchmarks.training.photos.data import Photos, write_table, write_tars
from benchmarks.training.photos.peer import PeerJob, PeerSettings
from training.recipe import Recipe, read_recipe

PROBE_STEPS = 40
OURS = "sightline train"
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
class Probe:
    """Pairs/s in the steady state, and seconds of the command that are not steps."""

    rate: float
    around_seconds: float


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

    Finished probes are kept in ``probes.jsonl``, the plan in ``plan.json``. Raises CommandFailed.
    """
    tried = {one.name(): one for one in peer.candidates(settings, num_cores)}
    probes = {name: _probe(place, name, one, say) for name, one in tried.items()}
    mine = _probe(place, OURS, None, say)
    name = max(probes, key=lambda one: probes[one].rate)
    chosen, batch_size = tried[name], place.recipe.training.batch_size
    peer_steps = steps_for(seconds, probes[name].around_seconds, probes[name].rate, chosen.batch_size)
    rows, epochs = epochs_for(peer_steps * chosen.batch_size, len(place.photos.pairs), chosen.batch_size)
    plan = Plan(seconds, steps_for(seconds, mine.around_seconds, mine.rate, batch_size), rows, epochs, chosen)
    write_plan(
        plan, place.out / "plan.json", {**{name: asdict(one) for name, one in probes.items()}, OURS: asdict(mine)}
    )
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


def _probe(place: Place, name: str, settings: PeerSettings | None, say: Say) -> Probe:
    """The rate of one side (without settings: ours) and what it spends around its steps, measured once."""
    path = place.out / "probes.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    known = {line["name"]: Probe(line["rate"], line["around_seconds"]) for line in map(json.loads, lines)}
    if name not in known:
        rate, watched, num_pairs = _measure_ours(place) if settings is None else _measure_peer(place, settings)
        known[name] = Probe(round(rate, 1), round(watched.seconds - num_pairs / rate, 1))
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"name": name, **asdict(known[name])}) + "\n")
    say(f"{name}: {known[name].rate:.0f} pairs/s, {known[name].around_seconds:.1f} s around it")
    return known[name]


def _measure_peer(place: Place, settings: PeerSettings) -> tuple[float, Watched, int]:
    job = peer_job(place, settings, PROBE_STEPS * settings.batch_size, 1, 0, "probe", 1)
    log = place.out / "probe.log"
    watched = peer.run_peer(place.recipe, settings, job, place.out, log)
    shutil.rmtree(place.out / "logs" / job.name, ignore_errors=True)
    text = log.read_text(encoding="utf-8", errors="replace")
    return peer.pairs_per_second(text, settings.batch_size), watched, job.num_rows


def _measure_ours(place: Place) -> tuple[float, Watched, int]:
    recipe = ours.write_recipe(place.recipe_path, place.out / "probe.toml", num_steps=PROBE_STEPS, seed=0)
    watched = ours.run_ours(recipe, place.data, place.out / "probe-ours", place.out / "probe-ours.log")
    batch_size = place.recipe.training.batch_size
    return ours.pairs_per_second(ours.log_of(place.out / "probe-ours"), batch_size), watched, PROBE_STEPS * batch_size
