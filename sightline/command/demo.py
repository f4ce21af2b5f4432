"""``sightline demo``: the whole loop on a drawn world, or on your own pictures, with the commands you would type.

Each step is another ``sightline`` command in its own process, printed before it runs; the demo knows nothing that they
do not. A finished step is remembered in the work directory, so a second run goes straight to serving.
"""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from sightline.command.console import Console, JsonOption
from sightline.errors import SourceError, StorageError
from sightline.storage import replace_file, storage_errors

_FIGURES = (
    ("words find their picture among 1,000 at first place", "text_to_image_recall_at_1"),
    ("... among the first 10", "text_to_image_recall_at_10"),
    ("a picture finds one of its captions at first place", "image_to_text_recall_at_1"),
    ("colours named rightly", "zero_shot_colour"),
    ("shapes named rightly", "zero_shot_shape"),
    ("captions with exchanged words told apart", "swaps_ranked_rightly"),
)


def register(app: typer.Typer) -> None:
    """Add the ``demo`` command."""
    app.command("demo")(demo)


def demo(
    workdir: Annotated[Path, typer.Option(help="Where everything is written.")] = Path("sightline-demo"),
    encoder: Annotated[
        str | None, typer.Option(help="Use this encoder instead of training one (needs --source).")
    ] = None,
    source: Annotated[
        str | None, typer.Option(help="Your pictures: a folder, tars or captions.jsonl (needs --encoder).")
    ] = None,
    serve: Annotated[bool, typer.Option("--serve/--no-serve", help="Serve at the end, or stop before.")] = True,
    host: Annotated[str, typer.Option(help="The address to serve on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="The port to serve on.")] = 8000,
    seed: Annotated[int, typer.Option(help="Another seed draws another world.")] = 0,
    as_json: JsonOption = False,
) -> None:
    """Draw a small world, train an encoder on it, evaluate, index and serve it: everything offline.

    With a network and your own photos: `sightline demo --encoder ViT-B-32-SigLIP2-256:webli --source ~/Pictures`
    """
    console = Console(as_json=as_json)
    if (encoder is None) != (source is None):
        raise SourceError("--encoder and --source go together: name both, or neither for the drawn world.")
    steps = _Steps(workdir, console)
    if encoder is not None and source is not None:
        figures = _own_pictures(steps, encoder, source)
    else:
        figures = _drawn_world(steps, seed)
    figures["seconds"] = steps.seconds
    console.result(figures, _summary(figures))
    if serve:
        _serve(steps, host, port)


class _Steps:
    """Runs commands and keeps their JSON answers."""

    def __init__(self, workdir: Path, console: Console) -> None:
        self.workdir = workdir
        self.console = console
        self.seconds: dict[str, float] = {}
        with storage_errors(f"write {workdir}"):
            (workdir / "steps").mkdir(parents=True, exist_ok=True)

    def run(self, name: str, *arguments: str, extra: list[str] | None = None) -> dict[str, Any]:
        """Run ``sightline ARGUMENTS EXTRA --json`` unless a step of these arguments has finished; return its answer."""
        record = self.workdir / "steps" / f"{name}.json"
        remembered = _remembered(record, arguments)
        if remembered is not None:
            self.console.say(f"{name}: done before, taken from {self.workdir}")
            self.seconds[name] = remembered["seconds"]
            return dict(remembered["answer"])
        given = [*arguments, *(extra or [])]
        self.console.say(f"\n$ sightline {shlex.join(given)}")
        started = time.monotonic()
        finished = subprocess.run(  # noqa: S603 - our own command line
            [sys.executable, "-m", "sightline", *given, "--json"], stdout=subprocess.PIPE, check=False
        )
        if finished.returncode:
            raise SystemExit(finished.returncode)  # the step has said why
        answer = json.loads(finished.stdout)
        self.seconds[name] = round(time.monotonic() - started, 1)
        entry = {"arguments": arguments, "seconds": self.seconds[name], "answer": answer}
        replace_file(record, json.dumps(entry).encode())
        return dict(answer)


def _remembered(record: Path, arguments: tuple[str, ...]) -> dict[str, Any] | None:
    if not record.is_file():
        return None
    entry: dict[str, Any] = json.loads(record.read_bytes())
    if entry["arguments"] != list(arguments):
        raise StorageError(
            f"{record.parent.parent} holds a demo with other options; remove it or choose another --workdir."
        )
    return entry


def _drawn_world(steps: _Steps, seed: int) -> dict[str, Any]:
    world, bundle, collection = (steps.workdir / name for name in ("world", "encoder", "collection"))
    held_out = str(world / "held-out-00000.tar")
    drawn = steps.run("draw", "world", "draw", "--out", str(world), "--seed", str(seed))
    unfinished = ["--resume"] if (steps.workdir / "encoder.training" / "checkpoint.pt").is_file() else []
    trained = steps.run("train", "train", "drawn-world", "--data", str(world), "--out", str(bundle), extra=unfinished)
    evaluated = steps.run("evaluate", "evaluate", "--encoder", str(bundle), "--data", str(world))
    indexed = steps.run(
        "index", "index", "build", "--encoder", str(bundle), "--source", held_out, "--out", str(collection)
    )
    return {"world": drawn, "training": trained, "evaluation": evaluated, "index": indexed}


def _own_pictures(steps: _Steps, encoder: str, source: str) -> dict[str, Any]:
    collection = str(steps.workdir / "collection")
    return {
        "index": steps.run("index", "index", "build", "--encoder", encoder, "--source", source, "--out", collection)
    }


def _serve(steps: _Steps, host: str, port: int) -> None:
    arguments = ["serve", "--collection", str(steps.workdir / "collection"), "--host", host, "--port", str(port)]
    steps.console.say(f"\n$ sightline {shlex.join(arguments)}")
    raise SystemExit(subprocess.run([sys.executable, "-m", "sightline", *arguments], check=False).returncode)  # noqa: S603


def _summary(figures: dict[str, Any]) -> str:
    lines = []
    measured = figures.get("evaluation", {})
    for words, key in _FIGURES:
        if key in measured:
            lines.append(f"  {words}: {measured[key]:.1%}")
    counts = figures["index"]["counts"]
    lines.append(f"  indexed: {counts['indexed']} of {counts['seen']} pictures, {counts['captions_indexed']} captions")
    lines.append(f"  seconds: {', '.join(f'{step} {value:g}' for step, value in figures['seconds'].items())}")
    return "\n".join(["", "Held-out figures and times:" if measured else "Figures:", *lines])
