"""``sightline search``: ask a collection without a server."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from sightline.command.console import AcceptLicenceOption, Console, DeviceOption, JsonOption, PrecisionOption
from sightline.errors import QueryError, SourceError


def register(app: typer.Typer) -> None:
    """Add the ``search`` command."""
    app.command("search")(search)


def search(
    collection: Annotated[Path, typer.Option(help="The collection to search.")],
    text: Annotated[str | None, typer.Argument(help="What to look for.")] = None,
    image: Annotated[Path | None, typer.Option(help="Look for pictures like this one.")] = None,
    captions: Annotated[bool, typer.Option("--captions", help="Find captions instead of pictures.")] = False,
    k: Annotated[int, typer.Option("--k", "-k", min=1, max=1000, help="How many results.")] = 10,
    encoder: Annotated[
        str | None, typer.Option(help="The encoder, if it has moved since the collection was built.")
    ] = None,
    device: DeviceOption = "auto",
    precision: PrecisionOption = "auto",
    accept_licence: AcceptLicenceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Find pictures with words or with a picture, straight from disk, live changes included.

    Example: `sightline search --collection photos "a dog on a beach"`
    """
    from sightline.collection import open_collection
    from sightline.collection.live_log import open_live_log
    from sightline.encoder import load_encoder
    from sightline.index.opening import open_index
    from sightline.live_state import lay_over

    if (text is None) == (image is None):
        raise QueryError('Give either a text or --image FILE, like: sightline search --collection C "a dog".')
    generation = open_collection(collection)
    recorded = generation.manifest.encoder
    engine = load_encoder(
        encoder or recorded.spec,
        device=device,
        precision=precision,
        accept_licence=accept_licence or recorded.licence,
    )
    generation.require_encoder(engine.fingerprint)
    query = _encode(engine, text, image)
    index = open_index(generation, "captions" if captions else "images")
    log = open_live_log(collection)
    live = None if log is None else lay_over(generation, log).state
    if live is None:
        hits = index.search(query, k)
    else:
        hits = (live.search_captions if captions else live.search_items)(index, query, k)
    whole = live or generation
    results: list[dict[str, Any]] = []
    for score, row in zip(hits.scores[0], hits.rows[0], strict=True):
        caption, item_row = whole.caption(int(row)) if captions else (None, int(row))
        item = whole.item(item_row)
        results.append(
            {"id": item.item_id, "score": round(float(score), 6), "uri": item.uri,
             "caption": caption or (item.captions[0] if item.captions else None), "metadata": item.metadata}
        )  # fmt: skip
    lines = [f"{r['score']:7.4f}  {r['uri']}" + (f"  {r['caption']}" if r["caption"] else "") for r in results]
    Console(as_json=as_json).result({"results": results, "generation": generation.generation}, "\n".join(lines))


def _encode(engine: Any, text: str | None, image: Path | None) -> Any:
    from sightline.images import ImageLimits, decode_image
    from sightline.texts import TextLimits, check_text

    if text is not None:
        return engine.encode_texts([check_text(text, TextLimits())])
    assert image is not None
    if not image.is_file():
        raise SourceError(f"There is no picture at {image}; check the path.")
    return engine.encode_images([decode_image(image.read_bytes(), ImageLimits())])
