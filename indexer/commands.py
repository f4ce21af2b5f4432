"""``sightline index build``, ``verify`` and ``inspect``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from sightline.command.console import AcceptLicenceOption, Console, DeviceOption, JsonOption, PrecisionOption

CollectionArgument = Annotated[Path, typer.Argument(help="The collection directory.")]


def register(app: typer.Typer) -> None:
    """Add the ``index`` group."""
    group = typer.Typer(help="Build a searchable collection, prove it, look at it.", no_args_is_help=True)
    group.command("build")(build)
    group.command("verify")(verify)
    group.command("inspect")(inspect)
    app.add_typer(group, name="index")


def build(
    encoder: Annotated[str, typer.Option(help="A bundle, MODEL:TAG, MODEL:/path/to.safetensors or MODEL:random.")],
    source: Annotated[str, typer.Option(help="A folder, tars ({00000..00009} and globs) or captions.jsonl.")],
    out: Annotated[Path, typer.Option(help="The collection directory; a new generation is added when it exists.")],
    batch_size: Annotated[int, typer.Option(min=1, max=4096, help="Pictures encoded at once.")] = 32,
    thumbnail_px: Annotated[int, typer.Option(min=0, max=1024, help="Longer side of thumbnails; 0: none.")] = 256,
    max_error_rate: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Exit 3 when a larger share of pictures cannot be read.")
    ] = 0.05,
    device: DeviceOption = "auto",
    precision: PrecisionOption = "auto",
    accept_licence: AcceptLicenceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Encode pictures and captions into a new generation of a collection, with thumbnails and a ledger.

    Example: `sightline index build --encoder ViT-B-32-SigLIP2-256:webli --source ~/Pictures --out photos`
    """
    from indexer.build import BuildOptions, build_collection
    from sightline.encoder import load_encoder
    from sightline.index import require_faiss
    from sightline.sources import open_source

    console = Console(as_json=as_json)
    require_faiss()
    opened = open_source(source)
    console.say(f"Loading {encoder} …")
    engine = load_encoder(encoder, device=device, precision=precision, accept_licence=accept_licence)
    if engine.identity.untrained:
        console.warn(
            "this encoder is untrained: search results will be meaningless; use it for structure and speed only."
        )
    options = BuildOptions(batch_size=batch_size, thumbnail_px=thumbnail_px, max_error_rate=max_error_rate)
    with console.progress("indexing", opened.num_inputs) as advance:
        report = build_collection(engine, _absolute(encoder), opened, source, out, options, advance)
    counts = report.manifest.counts
    values = {
        "collection": str(out),
        "generation": report.manifest.generation,
        "encoder": report.manifest.encoder.model_dump(),
        "counts": counts.model_dump(),
        "index": report.manifest.index,
        "seconds": {
            "total": round(report.seconds, 2),
            "encode_images": round(report.encode_images_seconds, 2),
            "encode_texts": round(report.encode_texts_seconds, 2),
            "wait_for_decoding": round(report.wait_seconds, 2),
        },
        "images_per_second": round(counts.indexed / report.seconds, 2),
    }
    console.result(values, _summary(values, counts))
    if report.failure is not None:
        raise report.failure


def verify(collection: CollectionArgument, as_json: JsonOption = False) -> None:
    """Prove that the current generation is what its manifest says: hashes, shapes, lengths, references, thumbnails.

    Example: `sightline index verify photos`
    """
    from sightline.collection import verify_collection

    generation = verify_collection(collection)
    values = {
        "collection": str(collection),
        "generation": generation.generation,
        "num_items": generation.num_items,
        "num_captions": generation.num_captions,
        "num_files": len(generation.manifest.files),
        "verified": True,
    }
    Console(as_json=as_json).result(
        values,
        f"{collection} {generation.generation} is intact: {generation.num_items} pictures, "
        f"{generation.num_captions} captions, {len(generation.manifest.files)} files.",
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


def _absolute(spec: str) -> str:
    """The spec as the manifest keeps it: paths absolute, so that serving works from any folder."""
    from sightline.encoder.spec import parse_spec

    parsed = parse_spec(spec)
    if parsed.path is None:
        return spec
    path = str(parsed.path.resolve())
    return path if parsed.kind == "bundle" else f"{parsed.model}:{path}"


def _summary(values: dict[str, Any], counts: Any) -> str:
    reasons = "".join(f", {count} {reason}" for reason, count in counts.reasons.items())
    return (
        f"{values['collection']} {values['generation']}: {counts.indexed} of {counts.seen} pictures and "
        f"{counts.captions_indexed} captions indexed in {values['seconds']['total']} s "
        f"({values['images_per_second']} pictures/s{reasons})."
    )
