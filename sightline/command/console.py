"""How commands talk: results to stdout, everything for people to stderr, one JSON object for machines."""

from __future__ import annotations

import contextlib
import json
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any, Literal

import typer
from rich.console import Console as RichConsole
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

JsonOption = Annotated[
    bool, typer.Option("--json", help="Print one JSON object on stdout; text for people goes to stderr.")
]
AcceptLicenceOption = Annotated[
    str | None, typer.Option(metavar="LICENCE", help="Accept non-commercial weights by naming their licence.")
]
DeviceOption = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
PrecisionOption = Annotated[Literal["auto", "fp32", "bf16"], typer.Option(help="auto, fp32 or bf16.")]


class Console:
    """What a command prints. Progress bars appear on a terminal only; a ``silent`` console prints nothing at all."""

    def __init__(self, *, as_json: bool = False, silent: bool = False) -> None:
        self.as_json = as_json and not silent
        self._people = RichConsole(stderr=True, highlight=False, soft_wrap=True, quiet=silent)
        self._out = RichConsole(highlight=False, soft_wrap=True, quiet=silent)

    def say(self, text: str) -> None:
        """A line for people."""
        self._people.print(text, markup=False)

    def warn(self, text: str) -> None:
        """A line for people that should not be missed."""
        self._people.print(f"warning: {text}", style="bold yellow", markup=False)

    def result(self, values: Mapping[str, Any], text: str) -> None:
        """The command's answer: ``values`` as one JSON object with ``--json``, else ``text``; both on stdout."""
        if self.as_json:
            typer.echo(json.dumps(values, ensure_ascii=False))
        else:
            self._out.print(text, markup=False)

    @contextlib.contextmanager
    def progress(self, what: str, total: int | None) -> Iterator[Callable[[int], None]]:
        """A progress bar; yields ``advance(steps)``. ``total`` None: counted, without an end in sight."""
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        with Progress(
            *columns, console=self._people, disable=not self._people.is_terminal or self._people.quiet
        ) as bar:
            task = bar.add_task(what, total=total)
            yield lambda steps: bar.advance(task, steps)


def quiet_libraries() -> None:
    """Silence what third-party libraries print on their own; our commands say what matters."""
    for name in ("httpx", "huggingface_hub", "timm", "transformers", "urllib3"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module=r"(open_clip|timm|torch|transformers|huggingface_hub|PIL)(\..*)?")
