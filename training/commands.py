"""``sightline world draw`` and ``sightline train``; the other commands of training register from here."""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sightline.command.console import Console, DeviceOption, JsonOption
from sightline.errors import SightlineError
from training import evaluation_commands, interpolation_commands, onnx_commands

if TYPE_CHECKING:
    from training.loop import StageBegun, Step
    from training.recipe import Recipe

_HELD_BACK_SECONDS = 10.0


def register(app: typer.Typer) -> None:
    """Add the commands of training."""
    group = typer.Typer(help="Draw a small world of captioned scenes.", no_args_is_help=True)
    group.callback()(_group)
    group.command("draw")(draw)
    app.add_typer(group, name="world")
    app.command("train")(train)
    evaluation_commands.register(app)
    interpolation_commands.register(app)
    onnx_commands.register(app)


def _group() -> None:
    """Draw a small world of captioned scenes."""


def draw(
    out: Annotated[Path, typer.Option(help="The folder to write the tars into.")],
    seed: Annotated[int, typer.Option(help="Another seed draws another world.")] = 0,
    num_train: Annotated[int, typer.Option(min=0, help="How many training scenes.")] = 20_000,
    num_held_out: Annotated[int, typer.Option(min=0, help="How many held-out scenes.")] = 1_000,
    as_json: JsonOption = False,
) -> None:
    """Draw scenes of coloured shapes with captions: WebDataset tars, the same bytes for the same seed.

    Example: `sightline world draw --out world`
    """
    from sightline.storage import storage_errors
    from training.world.shards import World, draw_world

    console = Console(as_json=as_json)
    world = World(seed=seed, num_train=num_train, num_held_out=num_held_out)
    with (
        storage_errors(f"write {out}"),
        console.progress("drawing", num_train + num_held_out) as advance,
    ):
        done = 0

        def moved(written: int, _: int) -> None:
            nonlocal done
            advance(written - done)
            done = written

        shards = draw_world(world, out, progress=moved)
    console.result(
        {
            "out": str(out),
            "seed": seed,
            "num_train": num_train,
            "num_held_out": num_held_out,
            "shards": [path.name for path in shards],
        },
        f"Drew {num_train:,} training and {num_held_out:,} held-out scenes into {len(shards)} tars in {out}.",
    )


@contextlib.contextmanager
def _first_speaks() -> Iterator[None]:
    """Errors are said once on a machine: torchrun ends its other processes when the first one has ended.

    The others hold theirs back until then. One that is alive after that has an error of its own, and says it.
    """
    try:
        yield
    except SightlineError:
        if os.environ.get("LOCAL_RANK", "0") != "0":
            time.sleep(_HELD_BACK_SECONDS)
        raise


@_first_speaks()
def train(
    recipe: Annotated[str, typer.Argument(help="A recipe in TOML, or a built-in one by its name, as drawn-world.")],
    data: Annotated[str, typer.Option(help="Captioned pictures: a folder, tars, captions.jsonl or tables.")],
    out: Annotated[Path, typer.Option(help="The bundle to write; log, trace and checkpoints go to OUT.training.")],
    encoder: Annotated[
        str | None, typer.Option(help="The encoder to start from, in place of the one that the recipe names.")
    ] = None,
    held_out: Annotated[
        str | None,
        typer.Option(help="Captioned pictures to watch the run with; by default the split held-out of the data."),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint.")] = False,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Train or fine-tune an encoder on captioned pictures and export it as a bundle.

    Where the data have splits (train-*.tar or a folder train), the split train is used. On several GPUs, or on CPUs
    of several sockets: `torchrun --nproc-per-node 2 -m sightline train …`

    Example: `sightline train drawn-world --data world --out encoder`
    """
    from training.recipe import read_recipe, starting_from

    console = Console(as_json=as_json, silent=os.environ.get("RANK", "0") != "0")  # torchrun's first process speaks
    chosen = read_recipe(recipe) if encoder is None else starting_from(read_recipe(recipe), encoder)
    from training.run import train_bundle  # after the recipe is known to be sound

    with (
        console.progress("reading", None) as read,
        console.progress("training", chosen.num_steps) as advance,
    ):
        told = _Told(chosen, console.say, advance)
        finished = train_bundle(
            chosen,
            data,
            out,
            held_out=held_out,
            resume=resume,
            device=device,
            on_data=read,
            on_step=told.moved,
            on_stage=told.began,
            say=console.say,
            warn=console.warn,
        )
    console.result(
        {
            "bundle": str(out),
            "fingerprint": finished.manifest.fingerprint,
            "num_pictures": finished.num_pictures,
            "num_captions": finished.num_captions,
            "rejected": finished.rejected,
            "num_steps": finished.last.step,
            "last_loss": finished.last.loss,
            "stages": [
                {"name": stage.settings.name, "num_trained": stage.num_trained, "num_frozen": stage.num_frozen}
                for stage in finished.stages
            ],
            "log": str(finished.folder / "log.jsonl"),
        },
        f"Trained {chosen.name} for {finished.last.step:,} steps on {finished.num_pictures:,} pictures "
        f"(loss {finished.last.loss:.3f}); the bundle is {out}, log and explorer are in {finished.folder}.",
    )


class _Told:
    """Says how a run goes: a line for each stage, and ten for the steps."""

    def __init__(self, recipe: Recipe, say: Callable[[str], None], advance: Callable[[int], None]) -> None:
        self._recipe, self._say, self._advance = recipe, say, advance
        self._every = max(1, math.ceil(recipe.num_steps / 10))
        self._done = 0
        self._since: list[float] = []  # seconds of the steps since the last line

    def began(self, stage: StageBegun) -> None:
        """A stage begins: what it trains."""
        settings = stage.settings
        self._say(
            f"Stage {settings.name}: {settings.num_steps:,} steps train {stage.num_trained:,} parameters "
            f"({', '.join(settings.train)}); {stage.num_frozen:,} stay as they are."
        )

    def moved(self, step: Step) -> None:
        """A step is done."""
        self._advance(step.step - self._done)
        self._done = step.step
        self._since.append(step.seconds)
        if step.step % self._every == 0 or step.step == self._recipe.num_steps:
            rate = self._recipe.training.batch_size * len(self._since) / max(sum(self._since), 1e-9)
            self._since.clear()
            self._say(
                f"step {step.step:,} of {self._recipe.num_steps:,}: loss {step.loss:.3f}, "
                f"logit scale {step.logit_scale:.1f}, {rate:,.0f} pairs/s"
            )
