"""``sightline index import`` and ``export``: vectors from other tools, and for them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sightline.command.console import AcceptLicenceOption, Console, DeviceOption, JsonOption, PrecisionOption
from sightline.errors import QueryError


def register(group: typer.Typer) -> None:
    """Add the commands to the ``index`` group."""
    group.command("import")(import_vectors)
    group.command("export")(export)


def import_vectors(
    encoder: Annotated[str, typer.Option(help="The encoder that made the vectors: it will encode the queries.")],
    source: Annotated[Path, typer.Option(help="A folder with img_emb/, or Parquet with a column embedding.")],
    out: Annotated[Path, typer.Option(help="The collection directory; a new generation is added when it exists.")],
    check: Annotated[int, typer.Option(min=0, max=10_000, help="Encode this many pictures again and compare.")] = 0,
    pictures: Annotated[Path | None, typer.Option(help="Where the pictures lie, for --check (else: --source).")] = None,
    device: DeviceOption = "auto",
    precision: PrecisionOption = "auto",
    accept_licence: AcceptLicenceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a collection from ready vectors, in clip-retrieval's layout or as Parquet, without encoding anything.

    Example: `sightline index import --encoder ViT-B-32:openai --source embeddings --out photos --check 20 --pictures .`
    """
    from indexer.build_commands import absolute_spec
    from indexer.importing import CheckPictures, encoder_record, import_collection
    from indexer.vector_sources import open_vectors
    from sightline.encoder import load_encoder
    from sightline.index import require_faiss

    console = Console(as_json=as_json)
    require_faiss()
    opened = open_vectors(source)
    console.say(f"Loading {encoder} …")
    engine = load_encoder(encoder, device=device, precision=precision, accept_licence=accept_licence)
    checking = CheckPictures(engine, pictures or (source if source.is_dir() else source.parent), check)
    record = encoder_record(engine, absolute_spec(encoder))
    with console.progress("importing", opened.num_rows) as advance:
        report = import_collection(opened, str(source), record, out, check=checking, advance=advance)
    if not report.num_checked:
        why = "no picture of them was found below --pictures" if check else "--check N with --pictures DIR would"
        console.warn(f"nobody has checked that {encoder} made these vectors ({why}); a wrong one gives wrong answers.")
    if report.num_normalised:
        console.say(f"{report.num_normalised} vectors did not have length 1 and were given it.")
    counts = report.manifest.counts
    values = {
        "collection": str(out),
        "generation": report.manifest.generation,
        "encoder": report.manifest.encoder.model_dump(),
        "counts": counts.model_dump(),
        "num_normalised": report.num_normalised,
        "num_checked": report.num_checked,
        "min_cosine": report.min_cosine,
    }
    console.result(
        values,
        f"{out} {report.manifest.generation}: {counts.indexed} of {counts.seen} pictures and "
        f"{counts.captions_indexed} captions imported"
        + "".join(f", {count} {reason}" for reason, count in counts.reasons.items())
        + (f"; {report.num_checked} checked, lowest cosine {report.min_cosine:.4f}." if report.num_checked else "."),
    )


def export(
    collection: Annotated[Path, typer.Option(help="The collection directory.")],
    out: Annotated[Path, typer.Option(help="A new directory for the files.")],
    format: Annotated[str, typer.Option(help="parquet: one file for each shard.")] = "parquet",
    as_json: JsonOption = False,
) -> None:
    """Write the current generation, vectors included, as Parquet that pandas, datasets and vector stores read.

    Example: `sightline index export --collection photos --out photos-parquet`
    """
    from indexer.exporting import export_parquet

    if format != "parquet":
        raise QueryError(f"There is no format '{format[:40]}'; --format takes parquet.")
    files = export_parquet(collection, out)
    Console(as_json=as_json).result(
        {"collection": str(collection), "files": [str(path) for path in files]},
        f"{collection} is in {out}: {len(files)} file{'s' if len(files) > 1 else ''}.",
    )
