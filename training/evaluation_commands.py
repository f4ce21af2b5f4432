"""``sightline evaluate``."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sightline.command.console import AcceptLicenceOption, Console, DeviceOption, JsonOption, PrecisionOption

if TYPE_CHECKING:
    from sightline.encoder import Encoder
    from training.data import Captioned
    from training.evaluation import Report
    from training.evaluation.labelled import Labelled
    from training.evaluation.text_pairs import PairSuite


def register(app: typer.Typer) -> None:
    """Add ``evaluate``."""
    app.command("evaluate")(evaluate)


def evaluate(
    encoder: Annotated[str, typer.Option(help="A bundle, MODEL:TAG, MODEL:/path/to.safetensors or MODEL:random.")],
    data: Annotated[str, typer.Option(help="Captioned pictures: a folder, tars, captions.jsonl or tables.")],
    split: Annotated[
        str | None,
        typer.Option(help="SPLIT-*.tar or a folder SPLIT; by default held-out where there is one, else all."),
    ] = None,
    classes: Annotated[
        Path | None, typer.Option(help="Name pictures: JSON with classes, templates and the metadata key of the label.")
    ] = None,
    classes_data: Annotated[
        str | None, typer.Option(help="Labelled pictures to name, without captions; by default those of --data.")
    ] = None,
    pairs: Annotated[
        list[Path] | None, typer.Option(help="A suite of text pairs in SugarCrepe's JSON format; may be repeated.")
    ] = None,
    pairs_images: Annotated[Path | None, typer.Option(help="The folder of the suites' pictures.")] = None,
    typographic: Annotated[
        bool, typer.Option("--typographic", help="Write wrong classes on the pictures and see what flips.")
    ] = False,
    base: Annotated[str | None, typer.Option(help="An encoder to compare nearest neighbours with.")] = None,
    report: Annotated[Path | None, typer.Option(help="Write the report for people, one HTML file.")] = None,
    trace: Annotated[
        Path | None,
        typer.Option(help="The folder of a training run whose trace goes into the report; by default BUNDLE.training."),
    ] = None,
    bootstrap: Annotated[int, typer.Option(min=0, help="Resamples for the 95 % intervals; 0 leaves them out.")] = 1000,
    device: DeviceOption = "auto",
    precision: PrecisionOption = "auto",
    accept_licence: AcceptLicenceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Measure an encoder on captioned pictures: retrieval both ways with intervals, similarities, and what the data
    allow besides: naming, word order, writing on pictures, what was kept of a base encoder.

    Example: `sightline evaluate --encoder encoder --data world --report report.html`
    """
    from sightline.encoder import load_encoder
    from sightline.errors import SourceError
    from training.data import read_captioned, split_source
    from training.evaluation import Bootstrap, read_classes, read_pairs
    from training.evaluation import evaluate as measure
    from training.evaluation.labelled import labelled_among, read_labelled

    console = Console(as_json=as_json)
    if classes_data is not None and classes is None:
        raise SourceError("--classes-data needs --classes FILE.json, which says what the classes are.")
    scratch = Path(tempfile.gettempdir())  # where pixels go that do not fit into memory
    source = split_source(data, split or "held-out", required=split is not None)
    named = None if classes is None else read_classes(classes)
    suites = [read_pairs(path, pairs_images) for path in pairs or ()]
    explorer = "" if report is None else _explorer(encoder, trace)  # a wrong path is said before anything is encoded
    loaded = load_encoder(encoder, device=device, precision=precision, accept_licence=accept_licence)
    if loaded.identity.untrained:
        console.warn("these weights are untrained: the figures say nothing about any trained encoder.")
    console.say(f"Reading {source} …")
    with console.progress("reading", None) as advance:
        read = read_captioned(source, loaded.identity.pixels, progress=advance, folder=scratch)
    labelled = None
    if named is not None:
        labelled = (
            labelled_among(read, named)
            if classes_data is None
            else read_labelled(classes_data, loaded.identity.pixels, named, folder=scratch)
        )
    compared: tuple[Encoder, Captioned] | None = None
    if base is not None:
        other = load_encoder(base, device=device, precision=precision, accept_licence=accept_licence)
        same = other.identity.pixels == loaded.identity.pixels
        compared = (other, read if same else read_captioned(source, other.identity.pixels, folder=scratch))
    total = (1 if base is None else 2) * (len(read) + sum(len(several) for several in read.captions))
    total += 0 if labelled is None or labelled.pixels is read.pixels else len(labelled.pixels)
    with console.progress("encoding", total) as advance:
        found = measure(
            loaded,
            read,
            classes=named,
            labelled=labelled,
            suites=suites,
            spec=loaded.identity.pixels,
            typographic=typographic,
            base=compared,
            bootstrap=Bootstrap(num_resamples=bootstrap) if bootstrap else None,
            progress=advance,
        )
    _warn(console, found, labelled, suites)
    if report is not None:
        _write_report(report, found, read, (encoder, loaded.fingerprint, data, base or ""), explorer)
        console.say(f"Wrote {report}.")
    values = found.values()
    console.result(
        {
            "encoder": encoder,
            "fingerprint": loaded.fingerprint,
            "data": data,
            "rejected": read.rejected,
            **values,
            **found.details(),
            **({} if report is None else {"report": str(report)}),
        },
        _lines(found),
    )


def _lines(report: Report) -> str:
    values, intervals = report.values(), report.intervals()
    width = max(map(len, values))
    return "\n".join(
        f"{name:{width}}  {value:g}" + ("  [{:g}, {:g}]".format(*intervals[name]) if name in intervals else "")
        for name, value in values.items()
    )


def _warn(console: Console, report: Report, labelled: Labelled | None, suites: list[PairSuite]) -> None:
    if labelled is not None and labelled.num_left_out:
        console.warn(f"pictures left out of naming, without a known class or unreadable: {labelled.num_left_out:,}.")
    for suite, score in zip(suites, report.suites, strict=True):
        if suite.folder is None:
            console.warn(f"{suite.name}: without --pairs-images only its texts are compared.")
        elif score.num_missing:
            console.warn(f"{suite.name}: {score.num_missing:,} pairs were left out, their pictures cannot be read.")


def _explorer(encoder: str, trace: Path | None) -> str:
    """The alignment explorer of a run as HTML, or nothing where there is no trace."""
    path = (Path(f"{encoder}.training") if trace is None else trace) / "trace.jsonl"
    if trace is None and not path.is_file():
        return ""
    from training.watching import explorer_html, read_trace

    return explorer_html(read_trace(path))


def _write_report(path: Path, report: Report, data: Captioned, names: tuple[str, str, str, str], explorer: str) -> None:
    from sightline.storage import replace_file, storage_errors
    from training.evaluation import Heading, report_page

    encoder, fingerprint, source, base = names
    heading = Heading(encoder=encoder, data=source, fingerprint=fingerprint, base=base)
    page = report_page(report, data.pixels, heading, explorer=explorer)
    with storage_errors(f"write {path}"):
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, page.encode())
