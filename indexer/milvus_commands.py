"""``sightline index push`` and ``rollback``: a collection in Milvus."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from sightline.command.console import Console, JsonOption

ToOption = Annotated[str, typer.Option("--to", help="http(s)://host:19530, milvus://host:19530/NAME, or a .db file.")]
NameOption = Annotated[str | None, typer.Option(help="The collection's name in Milvus; default: that of its folder.")]
TokenOption = Annotated[Path | None, typer.Option(help="File with the token that Milvus asks for.")]


def register(group: typer.Typer) -> None:
    """Add the commands to the ``index`` group."""
    group.command("push")(push)
    group.command("rollback")(rollback)


def push(
    collection: Annotated[Path, typer.Option(help="The collection; its current generation is pushed.")],
    to: ToOption,
    name: NameOption = None,
    index: Annotated[str, typer.Option(help="auto, FLAT, IVF_SQ8, HNSW, DISKANN or IVF_RABITQ.")] = "auto",
    thumbnails: Annotated[bool, typer.Option(help="Push thumbnails too, which take most of the room.")] = True,
    token_file: TokenOption = None,
    as_json: JsonOption = False,
) -> None:
    """Copy the current generation into Milvus and let it be what is served from there, in one step.

    The version before is kept for a rollback. A push that was ended goes on when the same command is given again.

    Example: `sightline index push --collection photos --to http://milvus.example.org:19530`
    """
    from sightline.collection import open_collection
    from sightline.milvus.address import name_for, parse_address
    from sightline.milvus.client import MilvusServer
    from sightline.milvus.pushing import push as send
    from sightline.milvus.token import read_token

    console = Console(as_json=as_json)
    address = parse_address(to, name or name_for(collection))
    server = MilvusServer(address, read_token(token_file))
    console.say(f"Opening {collection} and comparing its files with their hashes…")
    generation = open_collection(collection)
    done = {"images": 0, "captions": 0}
    with console.progress("pushing", generation.num_items + generation.num_captions) as advance:

        def tell(which: str, rows: int, total: int) -> None:
            advance(rows - done[which])
            done[which] = rows

        pushed = send(generation, server, index_type=index, thumbnails=thumbnails, on_progress=tell)
    server.close()
    lines = [
        f"{address} serves {generation.generation} as {pushed.version}: {pushed.num_items:,} pictures, "
        f"{pushed.num_captions:,} captions, index {pushed.index['images']}."
        if pushed.changed
        else f"{address} serves {generation.generation} already, as {pushed.version}."
    ]
    if pushed.resumed_rows:
        lines.append(f"  {pushed.resumed_rows:,} rows were there from a push that had been ended.")
    if pushed.changed and pushed.before:
        lines.append(f"  {pushed.before} is kept: sightline index rollback --to {to} --name {address.name}")
    lines.append(f"  sightline serve --collection {address}")
    values = {"address": str(address), "generation": generation.generation, **asdict(pushed)}
    console.result(values, "\n".join(lines))


def rollback(
    to: ToOption,
    name: NameOption = None,
    token_file: TokenOption = None,
    as_json: JsonOption = False,
) -> None:
    """Let the version before be what is served from Milvus; asked twice, it returns.

    Example: `sightline index rollback --to http://milvus.example.org:19530 --name photos`
    """
    from sightline.milvus.address import parse_address
    from sightline.milvus.client import MilvusServer
    from sightline.milvus.pushing import rollback as turn_back
    from sightline.milvus.token import read_token

    address = parse_address(to, name)
    server = MilvusServer(address, read_token(token_file))
    before, now = turn_back(server)
    server.close()
    Console(as_json=as_json).result(
        {"address": str(address), "before": before, "now": now}, f"{address} serves {now} again instead of {before}."
    )
