"""``sightline world draw``, ``sightline train`` and ``sightline evaluate``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sightline.command.console import (
    AcceptLicenceOption,
    Console,
    DeviceOption,
    JsonOption,
    PrecisionOption,
)

if TYPE_CHECKING:
    from training.loop import Step


def register(app: typer.Typer) -> None:
    """Add the commands of training."""
    group = typer.Typer(help="Draw a small world of captioned scenes.", no_args_is_help=True)
    group.callback()(_group)
    group.command("draw")(draw)
    app.add_typer(group, name="world")
    app.command("train")(train)
    app.command("evaluate")(evaluate)


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


def train(
    recipe: Annotated[str, typer.Argument(help="A recipe in TOML, or a built-in one: drawn-world.")],
    data: Annotated[str, typer.Option(help="Captioned pictures: a folder, tars, captions.jsonl or tables.")],
    out: Annotated[Path, typer.Option(help="The bundle to write; log and checkpoints go to OUT.training.")],
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint.")] = False,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Train or fine-tune an encoder on captioned pictures and export it as a bundle.

    Where the data have splits (train-*.tar or a folder train), the split train is used.

    Example: `sightline train drawn-world --data world --out encoder`
    """
    from training.recipe import read_recipe

    console = Console(as_json=as_json)
    chosen = read_recipe(recipe)
    from training.run import train_bundle  # after the recipe is known to be sound: torch takes seconds to load

    with (
        console.progress("reading", None) as read,
        console.progress("training", chosen.training.num_steps) as advance,
    ):
        done = 0

        def moved(step: Step) -> None:
            nonlocal done
            advance(step.step - done)
            done = step.step

        finished = train_bundle(
            chosen, data, out, resume=resume, device=device, on_data=read, on_step=moved, say=console.say
        )
    left_out = sum(finished.rejected.values())
    if left_out:
        reasons = ", ".join(f"{reason} {count:,}" for reason, count in sorted(finished.rejected.items()))
        console.warn(f"{left_out:,} samples were left out ({reasons}).")
    console.result(
        {
            "bundle": str(out),
            "fingerprint": finished.manifest.fingerprint,
            "num_pictures": finished.num_pictures,
            "num_captions": finished.num_captions,
            "rejected": finished.rejected,
            "num_steps": finished.last.step,
            "last_loss": finished.last.loss,
            "log": str(finished.folder / "log.jsonl"),
        },
        f"Trained {chosen.name} for {finished.last.step:,} steps on {finished.num_pictures:,} pictures "
        f"(loss {finished.last.loss:.3f}); the bundle is {out}.",
    )


def evaluate(
    encoder: Annotated[str, typer.Option(help="A bundle, MODEL:TAG, MODEL:/path/to.safetensors or MODEL:random.")],
    data: Annotated[str, typer.Option(help="Captioned pictures: a folder, tars, captions.jsonl or tables.")],
    split: Annotated[
        str | None,
        typer.Option(help="SPLIT-*.tar or a folder SPLIT; by default held-out where there is one, else all."),
    ] = None,
    device: DeviceOption = "auto",
    precision: PrecisionOption = "auto",
    accept_licence: AcceptLicenceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Measure an encoder on captioned pictures: retrieval both ways; on the drawn world also naming and
    word order.

    Example: `sightline evaluate --encoder encoder --data world`
    """
    from sightline.encoder import load_encoder
    from training.data import read_captioned, split_source
    from training.evaluate import evaluate as measure

    console = Console(as_json=as_json)
    source = split_source(data, split or "held-out", required=split is not None)
    loaded = load_encoder(encoder, device=device, precision=precision, accept_licence=accept_licence)
    if loaded.identity.untrained:
        console.warn("these weights are untrained: the figures say nothing about any trained encoder.")
    console.say(f"Reading {source} …")
    with console.progress("reading", None) as advance:
        pairs = read_captioned(source, loaded.identity.pixels, progress=advance)
    total = len(pairs) + sum(len(several) for several in pairs.captions)
    with console.progress("encoding", total) as advance:
        report = measure(loaded, pairs, progress=advance)
    values = report.values()
    width = max(map(len, values))
    console.result(
        {"encoder": encoder, "fingerprint": loaded.fingerprint, "data": data, "rejected": pairs.rejected, **values},
        "\n".join(f"{name:{width}}  {value:g}" for name, value in values.items()),
    )
