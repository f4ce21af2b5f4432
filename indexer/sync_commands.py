"""``sightline index sync``."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import typer

from indexer.build_commands import (
    BatchSizeOption,
    ErrorRateOption,
    IndexOption,
    NearDuplicatesOption,
    RecallOption,
    ThumbnailOption,
    absolute_spec,
    finish,
    parse_near_duplicates,
    report_interrupted,
)
from sightline.command.console import AcceptLicenceOption, Console, DeviceOption, JsonOption, PrecisionOption


def register(group: typer.Typer) -> None:
    """Add the command to the ``index`` group."""
    group.command("sync")(sync)


def sync(
    collection: Annotated[Path, typer.Option(help="The collection directory.")],
    source: Annotated[str, typer.Option(help="What the collection is to hold: the source as it is now.")],
    encoder: Annotated[
        str | None, typer.Option(help="Where the encoder is now, if not where the collection says.")
    ] = None,
    batch_size: BatchSizeOption = 32,
    thumbnail_px: ThumbnailOption = 256,
    max_error_rate: ErrorRateOption = 0.05,
    near_duplicates: NearDuplicatesOption = "0.96",
    index: IndexOption = "auto",
    recall_target: RecallOption = 0.95,
    restart: Annotated[bool, typer.Option("--restart", help="Throw an unfinished build away first.")] = False,
    device: DeviceOption = "auto",
    precision: PrecisionOption = "auto",
    accept_licence: AcceptLicenceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Bring additions, changes, deletions and renames of a source into a new generation; encode only what is new.

    A service with `watch_collection_seconds` takes it without a restart.

    Example: `sightline index sync --collection photos --source ~/Pictures`
    """
    from indexer.build import BuildInterrupted, BuildOptions
    from indexer.indexing import IndexOptions
    from indexer.interrupt import interruptible
    from indexer.job import Building
    from indexer.sync import sync_collection
    from sightline.collection import current_name, generation_directory, read_manifest
    from sightline.encoder import load_encoder
    from sightline.sources import open_source

    console = Console(as_json=as_json)
    plan = IndexOptions(plan=index, recall_target=recall_target)
    plan.check()
    options = BuildOptions(
        batch_size=batch_size,
        thumbnail_px=thumbnail_px,
        max_error_rate=max_error_rate,
        near_duplicates=parse_near_duplicates(near_duplicates),
        index=plan,
    )
    manifest = read_manifest(generation_directory(collection, current_name(collection)))
    building = Building(collection)
    building.prepare(restart=restart)
    spec = encoder or manifest.encoder.spec
    with building.unless_begun():
        opened = open_source(source, listing=building.listing)
        console.say(f"Loading {spec} …")
        engine = load_encoder(spec, device=device, precision=precision, accept_licence=accept_licence)
    with interruptible() as interrupt, console.progress("syncing", opened.num_inputs) as advance:
        try:
            report = sync_collection(
                engine, absolute_spec(spec), opened, source, collection, options, advance,
                stopping=interrupt.requested, say=console.say,
            )  # fmt: skip
        except BuildInterrupted as stopped:
            report_interrupted(console, collection, stopped.num_done)
            raise typer.Exit(interrupt.exit_code) from None
    changes: dict[str, Any] = dataclasses.asdict(report.changes)
    if report.build is None:
        console.result(
            {"collection": str(collection), "generation": manifest.generation, "changes": changes, "published": False},
            f"Nothing has changed: {collection} {manifest.generation} holds what {source} holds.",
        )
        return
    shown = ", ".join(f"{count} {name}" for name, count in changes.items())
    console.say(f"Pictures of {source}: {shown}.")
    built = report.build
    finish(
        console, collection, built.manifest, built.failure, built.times, built.num_resumed,
        more={"changes": changes, "published": True},
    )  # fmt: skip
