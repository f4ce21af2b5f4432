"""``sightline index verify`` and ``inspect``, and the group that all commands of the indexer belong to."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from indexer import build_commands, exchange_commands, index_commands, live_commands, milvus_commands, sync_commands
from sightline.command.console import Console, JsonOption

CollectionArgument = Annotated[Path, typer.Argument(help="The collection directory.")]


def register(app: typer.Typer) -> None:
    """Add the ``index`` group."""
    group = typer.Typer(help="Build a searchable collection, prove it, look at it.", no_args_is_help=True)
    build_commands.register(group)
    sync_commands.register(group)
    group.command("verify")(verify)
    group.command("inspect")(inspect)
    index_commands.register(group)
    live_commands.register(group)
    milvus_commands.register(group)
    exchange_commands.register(group)
    app.add_typer(group, name="index")


def verify(
    collection: CollectionArgument,
    live: Annotated[bool, typer.Option(help="Prove the log of live changes too, where there is one.")] = True,
    as_json: JsonOption = False,
) -> None:
    """Prove that the current generation is what its manifest says: hashes, shapes, lengths, references, thumbnails.

    Live changes over it are proven too: every one against its digest, and that none is missing.

    Example: `sightline index verify photos`
    """
    from sightline.collection import verify_collection
    from sightline.live_state import verify_live

    generation = verify_collection(collection)
    state = verify_live(generation) if live else None
    num_changes = 0 if state is None else state.num_changes
    values = {
        "collection": str(collection),
        "generation": generation.generation,
        "num_items": generation.num_items,
        "num_captions": generation.num_captions,
        "num_files": len(generation.manifest.files),
        "num_live_changes": num_changes,
        "verified": True,
    }
    Console(as_json=as_json).result(
        values,
        f"{collection} {generation.generation} is intact: {generation.num_items} pictures, "
        f"{generation.num_captions} captions, {len(generation.manifest.files)} files"
        f"{f'; so are {num_changes} live changes over it' if num_changes else ''}.",
    )


def inspect(collection: CollectionArgument, as_json: JsonOption = False) -> None:
    """Show what a collection holds and which encoder made it, without reading its vectors.

    Example: `sightline index inspect photos`
    """
    from sightline.collection.manifest import current_generation, read_manifest

    directory = current_generation(collection)
    manifest = read_manifest(directory)
    values: dict[str, Any] = manifest.model_dump(mode="json")
    files = values.pop("files")
    values["num_bytes"] = sum(record["num_bytes"] for record in files.values())
    values["generations"] = sorted(path.name for path in collection.glob("gen-*"))
    lines = [
        f"{collection} {manifest.generation}, made {manifest.created} from {manifest.source}",
        f"  {manifest.num_items} pictures, {manifest.num_captions} captions, {values['num_bytes']:,} bytes",
        f"  encoder {manifest.encoder.name} ({manifest.encoder.fingerprint[:12]}), {manifest.encoder.dim} dimensions",
        f"  index {manifest.index}",
        f"  counts {manifest.counts.model_dump()}",
    ]
    Console(as_json=as_json).result(values, "\n".join(lines))
