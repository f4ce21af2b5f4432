"""``sightline encoder pull``, ``quantize`` and ``inspect``."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sightline.command.console import AcceptLicenceOption, Console, JsonOption

if TYPE_CHECKING:
    from sightline.images import Pixels, PixelSpec

_MIN_PICTURES = 40


def register(app: typer.Typer) -> None:
    """Add the ``encoder`` group."""
    group = typer.Typer(
        help="Turn any checkpoint into a bundle, in int8 if you like; look at an encoder.", no_args_is_help=True
    )
    group.command("pull")(pull)
    group.command("quantize")(quantize)
    group.command("inspect")(inspect)
    app.add_typer(group, name="encoder")


def pull(
    spec: Annotated[str, typer.Argument(help="MODEL:TAG, MODEL:/path/to.safetensors, MODEL:random or a bundle.")],
    out: Annotated[Path, typer.Option(help="The bundle directory to write.")],
    accept_licence: AcceptLicenceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write any encoder as a bundle, for machines without a network.

    Example: `sightline encoder pull ViT-B-32-SigLIP2-256:webli --out siglip2`
    """
    from sightline.encoder.checkpoint import load_checkpoint
    from sightline.encoder.export import write_bundle
    from sightline.encoder.spec import parse_spec

    console = Console(as_json=as_json)
    console.say(f"Loading {spec} …")
    checkpoint = load_checkpoint(parse_spec(spec), accept_licence=accept_licence)
    if checkpoint.untrained:
        console.warn("these weights are untrained: their vectors mean nothing; use them for structure and speed only.")
    manifest = write_bundle(checkpoint, out)
    console.result(
        {"bundle": str(out), "name": manifest.name, "fingerprint": manifest.fingerprint, "licence": manifest.licence},
        f"{manifest.name} is now the bundle {out} ({manifest.licence}, fingerprint {manifest.fingerprint[:12]}).",
    )


def quantize(
    spec: Annotated[str, typer.Argument(help="MODEL:TAG, MODEL:/path/to.safetensors, MODEL:random or a bundle.")],
    images: Annotated[str, typer.Option(help="Pictures like those to be encoded: a folder, tars or captions.jsonl.")],
    out: Annotated[Path, typer.Option(help="The bundle directory to write.")],
    num_images: Annotated[int, typer.Option(min=16, max=5000, help="How many pictures to look at.")] = 320,
    min_cosine: Annotated[
        float, typer.Option(min=0.5, max=1.0, help="Mean cosine to the original that the int8 tower must reach.")
    ] = 0.99,
    accept_licence: AcceptLicenceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write an encoder whose image tower runs in int8 on CPUs: faster, and another encoder.

    A fifth of the pictures is kept aside to measure the cosine to the original's vectors; below `--min-cosine` nothing
    is written. The bundle has a fingerprint of its own: build a collection with it before serving it.

    Example: `sightline encoder quantize ViT-B-32:laion2b_s34b_b79k --images photos/ --out vit-b-32-int8`
    """
    import numpy as np

    from sightline.encoder.checkpoint import load_checkpoint
    from sightline.encoder.export import write_int8_bundle
    from sightline.encoder.spec import parse_spec

    console = Console(as_json=as_json)
    console.say(f"Loading {spec} …")
    checkpoint = load_checkpoint(parse_spec(spec), accept_licence=accept_licence)
    with console.progress("looking at pictures", num_images) as advance:
        pixels = np.stack(list(_pixels(images, checkpoint.pixels, num_images, advance)))  # [N, H, W, 3]
    console.say("Quantising, which takes a minute or two …")
    apart = len(pixels) // 5
    with contextlib.redirect_stdout(sys.stderr):  # NNCF draws its progress on stdout, which is ours for --json
        manifest = write_int8_bundle(checkpoint, out, pixels[apart:], pixels[:apart], min_cosine=min_cosine)
    engine = manifest.image_engine
    assert engine is not None
    console.result(
        {"bundle": str(out), "name": manifest.name, "fingerprint": manifest.fingerprint, **engine.model_dump()},
        f"{manifest.name} is now the bundle {out} (fingerprint {manifest.fingerprint[:12]}). Over "
        f"{engine.num_held_out} pictures its cosine to the original is {engine.mean_cosine:.4f} in the mean and "
        f"{engine.min_cosine:.4f} at worst.",
    )


def inspect(
    spec: Annotated[str, typer.Argument(help="A bundle, MODEL:TAG, MODEL:/path/to.safetensors or MODEL:random.")],
    accept_licence: AcceptLicenceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show what an encoder is and how it sees.

    Example: `sightline encoder inspect ViT-B-32:random`
    """
    values = _describe(spec, accept_licence)
    width = max(map(len, values))
    Console(as_json=as_json).result(values, "\n".join(f"{key:{width}}  {value}" for key, value in values.items()))


def _describe(spec: str, accept_licence: str | None) -> dict[str, Any]:
    from sightline.bundle import verify_bundle
    from sightline.encoder.load import load_encoder
    from sightline.encoder.spec import parse_spec

    parsed = parse_spec(spec)
    if parsed.kind == "bundle" and parsed.path is not None:
        manifest = verify_bundle(parsed.path)
        values = manifest.model_dump(mode="json")
        values.pop("files")
        return values
    identity = load_encoder(spec, device="cpu", precision="fp32", accept_licence=accept_licence).identity
    values = asdict(identity)
    values["score_scale"] = identity.score_scale.model_dump()
    return values


def _pixels(source: str, spec: PixelSpec, most: int, advance: Callable[[int], None]) -> Iterator[Pixels]:
    """Up to ``most`` pictures of a source as pixels; those that cannot be decoded are passed over."""
    from sightline.errors import ImageError, SourceError
    from sightline.images import ImageLimits, decode_image, to_pixels
    from sightline.sources import Record, open_source

    found = 0
    for record in open_source(source):
        if not isinstance(record, Record):
            continue
        try:
            picture = decode_image(record.image, ImageLimits())
        except ImageError:
            continue
        yield to_pixels(picture, spec)
        advance(1)
        found += 1
        if found == most:
            return
    if found < _MIN_PICTURES:
        raise SourceError(f"{source} has {found} pictures that can be read and {_MIN_PICTURES} are needed; name more.")
