"""``sightline encoder interpolate``."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sightline.command.console import AcceptLicenceOption, Console, DeviceOption, JsonOption

if TYPE_CHECKING:
    from sightline.encoder.checkpoint import Checkpoint
    from training.interpolation import Measure, Sweep

_STEPS = tuple(step / 10 for step in range(11))


def register(app: typer.Typer) -> None:
    """Add the command to the group ``encoder``, or to a group of its own where there is none."""
    encoder_group(app).command("interpolate")(interpolate)


def encoder_group(app: typer.Typer) -> typer.Typer:
    """The group ``encoder`` of the root command."""
    for info in app.registered_groups:
        if info.name == "encoder" and info.typer_instance is not None:
            return info.typer_instance
    group = typer.Typer(no_args_is_help=True)
    app.add_typer(group, name="encoder")
    return group


def interpolate(
    base: Annotated[str, typer.Argument(help="The encoder before fine-tuning: a bundle or any other spec.")],
    tuned: Annotated[str, typer.Argument(help="The fine-tuned encoder.")],
    out: Annotated[Path, typer.Option(help="The bundle to write.")],
    alpha: Annotated[
        list[float] | None, typer.Option(help="0 is the base, 1 the tuned encoder. Several with --data are compared.")
    ] = None,
    data: Annotated[
        list[str] | None,
        typer.Option(help="Captioned pictures to measure on; the held-out split where there is one."),
    ] = None,
    metric: Annotated[
        str, typer.Option(help="The figure of `sightline evaluate` whose mean over the data decides.")
    ] = "any_text_to_image_recall_at_1",
    table: Annotated[Path | None, typer.Option(help="Write what was measured at each alpha as JSON.")] = None,
    device: DeviceOption = "auto",
    accept_licence: AcceptLicenceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write an encoder between another one and its fine-tuned self (WiSE-FT).

    With `--data`, every alpha (by default 0, 0.1 … 1) is measured on every data set and the best one is written: name
    the data that you tuned for and data that the encoder should still be good at.

    Example: `sightline encoder interpolate base tuned --data mine --data general --out between`
    """
    from sightline.encoder.checkpoint import load_checkpoint
    from sightline.encoder.export import write_bundle
    from sightline.encoder.spec import parse_spec
    from sightline.errors import SettingError
    from sightline.storage import replace_file
    from training import interpolation

    console = Console(as_json=as_json)
    if not data and len(alpha or ()) > 1:
        raise SettingError("Several alphas need something to compare them on; give --data, or one --alpha.")
    start = load_checkpoint(parse_spec(base), accept_licence=accept_licence)
    end = load_checkpoint(parse_spec(tuned), accept_licence=accept_licence)
    chosen = alpha[0] if alpha else 0.5
    found: Sweep | None = None
    if data:
        alphas = alpha or _STEPS
        interpolation.interpolate(start, end, min(alphas))  # they fit, before anything is read
        with console.progress("measuring", len(alphas) * len(data)) as advance:
            measures = {source: _measure(source, start, device, advance) for source in data}
            found = interpolation.sweep(start, end, alphas, measures, metric=metric)
        chosen = found.best.alpha
    if found is not None and table is not None:
        replace_file(table, (json.dumps(found.table(), indent=2) + "\n").encode())
    manifest = write_bundle(interpolation.interpolate(start, end, chosen), out)
    lines = [f"alpha {p.alpha:4.2f}  {metric} {p.mean:.4f}" for p in found.points] if found else []
    console.result(
        {
            "bundle": str(out),
            "alpha": chosen,
            "fingerprint": manifest.fingerprint,
            **({"sweep": found.table()} if found else {}),
        },
        "\n".join([*lines, f"The encoder at alpha {chosen:g} between {base} and {tuned} is the bundle {out}."]),
    )


def _measure(source: str, like: Checkpoint, device: str, advance: Callable[[int], None]) -> Measure:
    """Read the pictures of a source once; the measure encodes them with whatever checkpoint it is given."""
    from sightline.encoder.load import wrap_checkpoint
    from training.data import read_captioned, split_source
    from training.evaluation import evaluate

    pairs = read_captioned(split_source(source, "held-out"), like.pixels)

    def measure(checkpoint: Checkpoint) -> dict[str, float]:
        figures = evaluate(wrap_checkpoint(checkpoint, device=device, precision="fp32"), pairs).values()
        advance(1)
        return dict(figures)

    return measure
