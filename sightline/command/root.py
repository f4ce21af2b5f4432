"""The root of the command line: collects the commands and turns errors into one sentence and an exit code."""

from __future__ import annotations

import importlib.metadata
import json
import sys
from typing import Annotated

import typer
from rich.console import Console as RichConsole

from sightline import __version__, errors
from sightline.command import demo, doctor, encoder, search
from sightline.command.console import quiet_libraries
from sightline.command.exit_codes import exit_code_of


def build_app() -> typer.Typer:
    """The command with every subcommand that is installed."""
    app = typer.Typer(
        name="sightline",
        help="Find pictures with words, words with pictures, and name what a picture shows.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode="markdown",
    )

    @app.callback()
    def root(
        version: Annotated[bool, typer.Option("--version", help="Print the version and exit.", is_eager=True)] = False,
    ) -> None:
        if version:
            typer.echo(f"sightline {__version__}")
            raise typer.Exit

    for module in (demo, doctor, encoder, search):
        module.register(app)
    _add_installed_commands(app)
    return app


def main(arguments: list[str] | None = None) -> None:
    """Run a command and exit with its code; expected errors end in one line on stderr, never in a traceback."""
    given = sys.argv[1:] if arguments is None else arguments
    quiet_libraries()
    try:
        build_app()(args=given)
    except errors.SightlineError as error:
        _report(error, as_json="--json" in given)
        sys.exit(exit_code_of(type(error)))


def _add_installed_commands(app: typer.Typer) -> None:
    for entry in sorted(importlib.metadata.entry_points(group="sightline.commands"), key=lambda entry: entry.name):
        try:
            add_commands = entry.load()
        except ModuleNotFoundError as error:
            if (error.name or "").split(".")[0] != entry.name:
                raise
            continue  # an image may leave a package out, and then lacks its commands
        add_commands(app)


def _report(error: errors.SightlineError, *, as_json: bool) -> None:
    RichConsole(stderr=True, highlight=False, soft_wrap=True).print(
        f"error: {error.message}", style="bold red", markup=False
    )
    if as_json:
        body = {"code": error.code, "message": error.message, **error.details}
        typer.echo(json.dumps({"error": body}, ensure_ascii=False))
