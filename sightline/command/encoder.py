"""``sightline encoder pull`` and ``sightline encoder inspect``."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from sightline.command.console import AcceptLicenceOption, Console, JsonOption


def register(app: typer.Typer) -> None:
    """Add the ``encoder`` group."""
    group = typer.Typer(help="Turn any checkpoint into a bundle; look at an encoder.", no_args_is_help=True)
    group.command("pull")(pull)
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
