"""``sightline serve`` and ``sightline config``."""

from __future__ import annotations

import json
import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import quote

import typer

from sightline.command.console import AcceptLicenceOption, Console, JsonOption

if TYPE_CHECKING:
    from service.engine import Engine

SettingsFile = Annotated[
    Path | None, typer.Option("--settings", help="A TOML file with settings, such as: port = 8000.")
]
CollectionOption = Annotated[
    str | None, typer.Option(help="The collection to serve: a folder, or milvus://host:19530/NAME.")
]
EncoderOption = Annotated[str | None, typer.Option(help="The encoder, if it has moved since the collection was built.")]
HostOption = Annotated[str | None, typer.Option(help="Address to listen on [default: 127.0.0.1, this machine only].")]
PortOption = Annotated[int | None, typer.Option(help="Port to listen on, 0 for a free one [default: 8000].")]
DeviceOption = Annotated[str | None, typer.Option(help="auto, cpu or cuda [default: auto].")]
PrecisionOption = Annotated[str | None, typer.Option(help="auto, fp32 or bf16 [default: auto].")]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="NAME=VALUE", help="Any other setting; sightline config lists them."),
]


def register(app: typer.Typer) -> None:
    """Add the ``serve`` and ``config`` commands."""
    app.command("serve")(serve)
    app.command("config")(config)


def serve(
    collection: CollectionOption = None,
    encoder: EncoderOption = None,
    host: HostOption = None,
    port: PortOption = None,
    device: DeviceOption = None,
    precision: PrecisionOption = None,
    accept_licence: AcceptLicenceOption = None,
    settings_file: SettingsFile = None,
    other: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Serve a collection over HTTP: REST, metrics and a web page.

    Every option is also a `SIGHTLINE_…` variable and a key of the settings file; an option comes first.

    Example: `sightline serve --collection photos --port 8000`
    """
    from service import server
    from service.edge.keys import needs_key
    from service.edge.listener import is_loopback
    from service.edge.logs import logging_to
    from service.settings import load_settings
    from sightline.milvus.address import is_address

    remote = collection is not None and is_address(collection)
    flags = {
        "milvus" if remote else "collection": collection, "encoder": encoder, "host": host, "port": port,
        "device": device, "precision": precision, "accept_licence": accept_licence,
    }  # fmt: skip
    settings = load_settings(flags | _pairs(other), os.environ, settings_file)
    console = Console(as_json=as_json)
    if not (is_loopback(settings.host) or needs_key(settings)) and settings.allow_unauthenticated:
        console.warn(
            f"listening on {settings.host} without keys: everyone who reaches this address can search the collection; "
            "name a file of keys with --set api_keys_file=FILE."
        )

    def announce(engine: Engine, url: str) -> None:
        if engine.identity.untrained:
            console.warn("the encoder is untrained (random weights): its answers have no meaning.")
        console.result(_facts(engine, url), _welcome(engine, url))

    console.say("Opening the collection and loading its encoder…")
    with logging_to(sys.stderr, settings.log_format, settings.log_level):
        server.serve(settings, announce)
    console.say("Stopped.")


def config(
    settings_file: SettingsFile = None,
    other: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show the effective settings of the service and where each came from.

    Example: `SIGHTLINE_PORT=9000 sightline config`
    """
    from service.settings import load_settings

    effective = load_settings(_pairs(other), os.environ, settings_file).describe()
    values = {one.name: {"value": one.value, "origin": one.origin, "variable": one.variable} for one in effective}
    width = max(len(one.name) for one in effective)
    lines = [f"{one.name:<{width}}  {one.value!s:<12} {one.origin:<12} {one.description}" for one in effective]
    Console(as_json=as_json).result(values, "\n".join(lines))


def _pairs(given: list[str] | None) -> dict[str, Any]:
    from sightline.errors import SettingError

    pairs: dict[str, Any] = {}
    for pair in given or []:
        name, equals, value = pair.partition("=")
        if not equals:
            raise SettingError(f"--set takes NAME=VALUE and got '{pair}'; write it like --set max_batch_images=32.")
        pairs[name.strip()] = value
    return pairs


def _facts(engine: Engine, url: str) -> dict[str, Any]:
    generation = engine.snapshot.generation
    return {
        "url": url,
        "collection": generation.name,
        "generation": generation.generation,
        "num_items": engine.snapshot.num_items,
        "num_captions": engine.snapshot.num_captions,
        "encoder": engine.identity.name,
        "fingerprint": engine.identity.fingerprint,
    }


def _welcome(engine: Engine, url: str) -> str:
    """The address and commands that work as they are pasted: the picture they send is the collection's first."""
    generation = engine.snapshot.generation
    first, last = generation.samples()
    picture = f"curl -s {url}/v1/items/{quote(first.item_id, safe='')}/thumbnail"
    query = first.captions[0] if first.captions else "a dog on a beach"
    neighbours = "image-to-text" if generation.num_captions else "image-to-image"
    labels = dict.fromkeys([*first.captions[:1], *last.captions[:1], "a dog", "a bicycle"])
    forms = " ".join(f"--form-string {shlex.quote(f'labels={label}')}" for label in labels)
    body = shlex.quote(json.dumps({"text": query, "k": 3}, ensure_ascii=False))
    return f"""\
Serving {generation.name} ({generation.num_items:,} pictures, {generation.num_captions:,} captions) with \
{engine.identity.name} on {url}

  curl -s {url}/v1/text-to-image -H 'Content-Type: application/json' -d {body}
  {picture} | curl -s '{url}/v1/{neighbours}?k=3' -H 'Content-Type: image/webp' --data-binary @-
  {picture} | curl -s {url}/v1/zero-shot -F image=@- {forms}

Web page: {url}/   API: {url}/openapi.json   Metrics: {url}/metrics   Stop with Ctrl+C."""
