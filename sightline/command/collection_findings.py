"""What ``sightline doctor`` looks at in a collection and an encoder: what a start of the service would refuse."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from sightline.command.exit_codes import exit_code_of
from sightline.command.finding import Finding, warning, wrong
from sightline.errors import SightlineError
from sightline.memory import available_bytes

if TYPE_CHECKING:
    from sightline.collection import Generation

_GIB = 2**30
_MIB = 2**20


def collection(path: Path, encoder: str | None) -> list[Finding]:
    """Its files against their SHA-256, its encoder, the memory it takes, the room for the next generation.

    ``encoder`` stands in for the spec that the collection records.
    """
    from sightline.collection import needed_bytes, verify_collection

    try:
        generation = verify_collection(path)
    except SightlineError as error:
        return [_of_error("collection", path, error)]
    manifest = generation.manifest
    says = (
        f"{generation.name} ({generation.generation}): {manifest.num_items:,} pictures, "
        f"{manifest.num_captions:,} captions, every file as its manifest says"
    )
    facts = {
        "generation": generation.generation,
        "num_items": manifest.num_items,
        "num_captions": manifest.num_captions,
    }
    return [
        Finding("collection", says, facts=facts),
        _memory(needed_bytes(generation.directory, manifest), available_bytes()),
        disk(path, sum(record.num_bytes for record in manifest.files.values())),
        *_live(path, generation),
        *encoder_findings(encoder or manifest.encoder.spec, manifest.encoder.fingerprint),
    ]


def _live(path: Path, generation: Generation) -> list[Finding]:
    from sightline.live_state import verify_live

    try:
        live = verify_live(generation)
    except SightlineError as error:
        return [_of_error("live changes", path, error)]
    if live is None:
        return []
    says = f"{live.num_changes:,} over {generation.generation}, each as it was written"
    return [Finding("live changes", says, facts={"num_changes": live.num_changes})]


def _memory(needed: int, free: int | None) -> Finding:
    says = f"opening the collection takes up to {needed / _MIB:,.0f} MiB"
    facts = {"needed_bytes": needed, "free_bytes": free}
    if free is None:
        return Finding("room", says, facts=facts)
    if needed > free:
        return wrong(
            "room", f"{says} and {free / _MIB:,.0f} MiB can be had",
            "Give it more memory, or another index: sightline index plan shows what each takes.", 4, **facts,
        )  # fmt: skip
    if 2 * needed > free:
        return warning(
            "room", f"{says}, and a reload holds two generations",
            "Give it twice the memory, or restart instead of reloading.", **facts,
        )  # fmt: skip
    return Finding("room", says, facts=facts)


def disk(path: Path, needed: int) -> Finding:
    """Whether a generation of the same size fits beside this one."""
    free = shutil.disk_usage(path).free
    says = f"{free / _GIB:,.1f} GiB are free beside the collection"
    if free < needed:
        return warning(
            "disk", f"{says} and another generation takes {needed / _GIB:,.1f} GiB",
            "Free some space or remove old generations before the next build.", free_bytes=free,
        )  # fmt: skip
    return Finding("disk", says, facts={"free_bytes": free})


def encoder_findings(spec: str, fingerprint: str | None) -> list[Finding]:
    """A bundle is read whole and compared with what the collection wants; other specs are only looked up."""
    from sightline.bundle import verify_bundle
    from sightline.encoder.spec import parse_spec
    from sightline.licences import licence_of

    try:
        parsed = parse_spec(spec)
    except SightlineError as error:
        return [_of_error("encoder", spec, error)]
    if parsed.path is None or parsed.kind != "bundle":
        if parsed.kind == "random":
            return [warning("encoder", f"{spec} is untrained: its answers mean nothing", "Use trained weights.")]
        if parsed.kind == "file":
            return [Finding("encoder", f"{spec}: weights from a file, compared when they are loaded")]
        return [
            warning(
                "encoder", f"{spec} is downloaded at the first start, and needed at every start",
                f"Keep it on disk: sightline encoder pull {spec} --out BUNDLE, then --encoder BUNDLE.",
            )
        ]  # fmt: skip
    try:
        manifest = verify_bundle(parsed.path)
    except SightlineError as error:
        return [_of_error("encoder", spec, error)]
    says = (
        f"{manifest.name}, {manifest.licence}, fingerprint {manifest.fingerprint[:12]}, every file as its manifest says"
    )
    if fingerprint is not None and fingerprint != manifest.fingerprint:
        return [
            wrong(
                "encoder", f"{says}; the collection was made with {fingerprint[:12]}",
                "Name the encoder that made the collection, or build the collection anew with this one.",
            )
        ]  # fmt: skip
    if manifest.licence == licence_of("", "random"):
        return [warning("encoder", f"{says}; untrained: its answers mean nothing", "Use trained weights.")]
    return [Finding("encoder", says, facts={"name": manifest.name, "fingerprint": manifest.fingerprint})]


def _of_error(about: str, what: object, error: SightlineError) -> Finding:
    """An error's sentence and its fix, which stands after the last semicolon, and its exit code."""
    sentence, _, fix = error.message.rpartition("; ")
    return wrong(
        about,
        f"{what}: {sentence or error.message}",
        fix[:1].upper() + fix[1:],
        exit_code_of(type(error)),
        code=error.code,
    )
