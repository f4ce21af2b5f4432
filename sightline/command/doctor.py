"""``sightline doctor``: what this machine has, what Sightline will use of it, and what is wrong or slow."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sightline.command.console import Console, JsonOption

if TYPE_CHECKING:
    from sightline.command.finding import Finding

_MARKS = {"ok": "ok", "warning": "mind", "wrong": "WRONG"}


def register(app: typer.Typer) -> None:
    """Add the ``doctor`` command."""
    app.command("doctor")(doctor)


def doctor(
    collection: Annotated[
        Path | None, typer.Option(help="A collection to prove, as the service would at start.")
    ] = None,
    encoder: Annotated[str | None, typer.Option(help="An encoder to look at; default: the collection's.")] = None,
    host: Annotated[str, typer.Option(help="The address to serve on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="The port to serve on.")] = 8000,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 1 on warnings too.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Say what this machine has, what will be used of it, and what will be slow or wrong, each with its fix.

    Takes some seconds; measures decoding for under a second. Exits with 0 when nothing is wrong, else with the code of
    the first thing that is: 78 set-up, 5 damaged files, 4 no room, 2 nothing there.

    Example: `sightline doctor --collection photos`
    """
    console = Console(as_json=as_json)
    console.say("Looking at this machine…")
    findings = examine(collection, encoder, host, port)
    counts = {level: sum(one.level == level for one in findings) for level in _MARKS}
    console.result(
        {"healthy": counts["wrong"] == 0, "counts": counts, "findings": [one.as_json() for one in findings]},
        _table(findings, counts),
    )
    code = next((one.exit_code for one in findings if one.exit_code), 0)
    if code or (strict and counts["warning"]):
        raise typer.Exit(code or 1)


def examine(collection: Path | None, encoder: str | None, host: str, port: int) -> list[Finding]:
    """Every finding, of the machine first."""
    from sightline.command import collection_findings, machine_findings

    torch = machine_findings.torch()
    findings = [
        machine_findings.python(),
        torch,
        machine_findings.threads(os.environ),
        machine_findings.arithmetic(),
        machine_findings.faiss(has_gpu=torch.facts.get("device") == "cuda"),
        machine_findings.extras(),
        machine_findings.memory(),
        machine_findings.decoding(),
        machine_findings.files(),
        machine_findings.environment(os.environ),
        machine_findings.port(host, port),
    ]
    if collection is not None:
        findings += collection_findings.collection(collection, encoder)
    elif encoder is not None:
        findings += collection_findings.encoder_findings(encoder, None)
    return findings


def _table(findings: list[Finding], counts: dict[str, int]) -> str:
    width = max(len(one.about) for one in findings)
    lines = []
    for one in findings:
        lines.append(f"{_MARKS[one.level]:<6} {one.about:<{width}}  {one.says}.")
        if one.fix:
            lines.append(f"{'':<6} {'':<{width}}  → {one.fix}")
    wrong, slow = counts["wrong"], counts["warning"]
    end = "Nothing is wrong" if not wrong else f"{wrong} {'thing is' if wrong == 1 else 'things are'} wrong"
    lines.append(f"\n{end}; {slow or 'no'} {'warning' if slow == 1 else 'warnings'}.")
    return "\n".join(lines)
