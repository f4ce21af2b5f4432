"""``sightline index compact``: live changes into a generation, while no service runs."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from sightline.command.console import Console, JsonOption


def register(group: typer.Typer) -> None:
    """Add the command to the ``index`` group."""
    group.command("compact")(compact)


def compact(
    collection: Annotated[Path, typer.Option(help="The collection directory.")],
    keep_generations: Annotated[
        int, typer.Option(min=0, help="Generations made of live changes that are kept; 0 keeps all.")
    ] = 2,
    as_json: JsonOption = False,
) -> None:
    """Build the live changes of a collection into a new generation and make it current.

    A service with live_writes does this by itself and holds the log's lock; ask it with POST /v1/admin/compact.

    Example: `sightline index compact --collection photos`
    """
    from sightline.collection import current_name
    from sightline.collection.compaction import live_sequences, remove_compacted
    from sightline.collection.live_log import LIVE_LOG_NAME, open_live_log
    from sightline.compact import compact as build

    console = Console(as_json=as_json)
    before = current_name(collection)
    if not (collection / LIVE_LOG_NAME).is_file():
        console.result(
            {"collection": str(collection), "changed": False, "before": before, "now": before},
            f"{collection} {before}: there are no live changes.",
        )
        return
    log = open_live_log(collection, writable=True)
    assert log is not None
    try:
        done = build(collection, log)
        if done is None:
            console.result(
                {"collection": str(collection), "changed": False, "before": before, "now": before},
                f"{collection} {before} contains every live change.",
            )
            return
        removed = remove_compacted(collection, keep=keep_generations, protected=[done.before])
        num_pruned = log.prune(min(live_sequences(collection).values(), default=0))
    finally:
        log.close()
    values = {"collection": str(collection), "changed": True, **asdict(done)}
    console.result(
        values | {"removed": removed, "num_pruned": num_pruned},
        f"{collection} {done.now}: {done.num_items} pictures and {done.num_captions} captions, with {done.num_put} put "
        f"and {done.num_deleted} deleted since {done.before}, in {done.seconds} s.",
    )
