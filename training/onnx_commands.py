"""``sightline encoder onnx``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sightline.command.console import AcceptLicenceOption, Console, JsonOption
from training.interpolation_commands import encoder_group


def register(app: typer.Typer) -> None:
    """Add the command to the group ``encoder``."""
    encoder_group(app).command("onnx")(onnx)


def onnx(
    spec: Annotated[str, typer.Argument(help="A bundle, MODEL:TAG, MODEL:/path/to.safetensors or MODEL:random.")],
    out: Annotated[Path, typer.Option(help="The folder to write.")],
    accept_licence: AcceptLicenceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write both towers of an encoder as ONNX: pixels or token ids in, unit vectors out.

    The graphs are run once and compared with the encoder before the folder gets its name.

    Example: `sightline encoder onnx my-encoder --out my-encoder-onnx`
    """
    from training.onnx_export import export_onnx, require_onnx

    require_onnx()
    from sightline.encoder.checkpoint import load_checkpoint
    from sightline.encoder.spec import parse_spec

    console = Console(as_json=as_json)
    console.say(f"Loading {spec} …")
    about = export_onnx(load_checkpoint(parse_spec(spec), accept_licence=accept_licence), out)
    worst = max(about["max_difference"].values())
    console.result(
        {"out": str(out), **about},
        f"{out} holds both towers of {spec} as ONNX; the largest difference to its vectors is {worst:.1g}.",
    )
