"""``sightline index build`` and ``publish``."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from sightline.command.console import AcceptLicenceOption, Console, DeviceOption, JsonOption, PrecisionOption
from sightline.errors import QueryError

if TYPE_CHECKING:
    from indexer.build import Shard
    from indexer.stages import StageTimes
    from sightline.collection import CollectionManifest
    from sightline.errors import TooManyFailures

EncoderOption = Annotated[str, typer.Option(help="A bundle, MODEL:TAG, MODEL:/path/to.safetensors or MODEL:random.")]
OutOption = Annotated[Path, typer.Option(help="The collection directory; a new generation is added when it exists.")]
BatchSizeOption = Annotated[int, typer.Option(min=1, max=4096, help="Pictures encoded at once.")]
ThumbnailOption = Annotated[int, typer.Option(min=0, max=1024, help="Longer side of thumbnails; 0: none.")]
ErrorRateOption = Annotated[
    float, typer.Option(min=0.0, max=1.0, help="Exit 3 when a larger share of pictures cannot be read.")
]
NearDuplicatesOption = Annotated[
    str, typer.Option(metavar="COSINE|off", help="Note pictures that are as near as this to an earlier one.")
]

IndexOption = Annotated[str, typer.Option("--index", help="auto or a plan of `sightline index plan`.")]
RecallOption = Annotated[
    float, typer.Option(min=0.01, max=1.0, help="Recall@10 on text queries that an approximate index is tuned to.")
]


def register(group: typer.Typer) -> None:
    """Add the commands to the ``index`` group."""
    group.command("build")(build)
    group.command("publish")(publish)


def build(
    encoder: EncoderOption,
    source: Annotated[str, typer.Option(help="A folder, captions.jsonl, tars, CSV or Parquet ({00..09} and globs).")],
    out: OutOption,
    batch_size: BatchSizeOption = 32,
    thumbnail_px: ThumbnailOption = 256,
    max_error_rate: ErrorRateOption = 0.05,
    near_duplicates: NearDuplicatesOption = "0.96",
    index: IndexOption = "auto",
    recall_target: RecallOption = 0.95,
    restart: Annotated[bool, typer.Option("--restart", help="Throw an unfinished build away first.")] = False,
    shard: Annotated[
        str, typer.Option(metavar="I/N", help="Encode part I (from 0) of N and publish nothing; see index publish.")
    ] = "",
    executor: Annotated[
        Literal["local", "ray"], typer.Option(help="Encode in this process, or by workers under Ray.")
    ] = "local",
    ray_address: Annotated[str, typer.Option(help="The Ray cluster; without it one is started on this machine.")] = "",
    workers: Annotated[int, typer.Option(min=0, help="Encoders under Ray; 0: as many as the cluster fits.")] = 0,
    device: DeviceOption = "auto",
    precision: PrecisionOption = "auto",
    accept_licence: AcceptLicenceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Encode pictures and captions into a new generation of a collection, with thumbnails and a ledger.

    A build that was ended goes on when the same command is given again, and loses at most 30 seconds of work.

    Example: `sightline index build --encoder ViT-B-32-SigLIP2-256:webli --source ~/Pictures --out photos`
    """
    from indexer.build import AlreadyPublished, BuildInterrupted, BuildOptions, build_collection, encode_shard
    from indexer.indexing import IndexOptions
    from indexer.interrupt import interruptible
    from indexer.job import Building
    from indexer.ray_executor import ChunkWork, RayOptions, encode_with_ray
    from sightline.encoder import load_encoder
    from sightline.index import require_faiss
    from sightline.sources import open_source

    console = Console(as_json=as_json)
    part = parse_shard(shard) if shard else None
    plan = IndexOptions(plan=index, recall_target=recall_target)
    plan.check()
    options = BuildOptions(
        batch_size=batch_size,
        thumbnail_px=thumbnail_px,
        max_error_rate=max_error_rate,
        near_duplicates=parse_near_duplicates(near_duplicates),
        index=plan,
    )
    require_faiss()
    building = Building(out)
    if part is None or restart:
        building.prepare(restart=restart)
    resumed = building.job is not None
    with building.unless_begun() if part is None else contextlib.nullcontext():
        opened = open_source(source, listing=building.listing)
        console.say(f"Loading {encoder} …")
        engine = load_encoder(encoder, device=device, precision=precision, accept_licence=accept_licence)
    if engine.identity.untrained:
        console.warn(
            "this encoder is untrained: search results will be meaningless; use it for structure and speed only."
        )
    if resumed:
        console.say(f"Going on with the unfinished build of {out} …")
    with interruptible() as interrupt, console.progress("indexing", opened.num_inputs) as advance:
        try:
            if part is not None:
                times = encode_shard(
                    engine, absolute_spec(encoder), opened, source, out, options, part, advance,
                    stopping=interrupt.requested,
                )  # fmt: skip
            else:
                spec = absolute_spec(encoder)
                load = functools.partial(
                    load_encoder, spec, device=device, precision=precision, accept_licence=accept_licence
                )
                cluster = RayOptions(ray_address, workers, worker_gpus=float(engine.device.type == "cuda"))
                work = ChunkWork(load, _absolute_source(source), out.resolve(), options)
                report = build_collection(
                    engine, spec, opened, source, out, options, advance, stopping=interrupt.requested, say=console.say,
                    executor=None if executor == "local" else (
                        lambda store: encode_with_ray(work, store, cluster, advance, interrupt.requested)
                    ),
                )  # fmt: skip
        except BuildInterrupted as stopped:
            report_interrupted(console, out, stopped.num_done)
            raise typer.Exit(interrupt.exit_code) from None
        except AlreadyPublished as late:
            console.result(
                {"collection": str(out), "shard": str(part), "generation": late.generation},
                f"Shard {part} of {out} has nothing to do: the build is published as {late.generation}.",
            )
            return
    if part is not None:
        console.result(
            {"collection": str(out), "shard": str(part), "seconds": times.as_dict(), "bound_by": times.bound_by},
            f"Shard {part} of {out} is encoded in {times.total:.2f} s; "
            f"when all are: sightline index publish --out {out}",
        )
        return
    finish(console, out, report.manifest, report.failure, report.times, report.num_resumed)


def publish(
    out: OutOption,
    max_error_rate: ErrorRateOption = 0.05,
    index: IndexOption = "auto",
    recall_target: RecallOption = 0.95,
    as_json: JsonOption = False,
) -> None:
    """Publish a build whose shards are all encoded; says which chunks are missing otherwise.

    Example: `sightline index publish --out photos`
    """
    from indexer.build import publish_collection
    from indexer.indexing import IndexOptions

    console = Console(as_json=as_json)
    options = IndexOptions(plan=index, recall_target=recall_target)
    options.check()
    manifest, failure = publish_collection(out, max_error_rate, options, console.say)
    finish(console, out, manifest, failure)


def report_interrupted(console: Console, out: Path, num_done: int) -> None:
    """Say what is kept of a run that was asked to stop."""
    console.result(
        {"collection": str(out), "interrupted": True, "inputs_done": num_done},
        f"Stopped after {num_done} inputs, which are kept; the same command goes on from there.",
    )


def finish(
    console: Console,
    out: Path,
    manifest: CollectionManifest,
    failure: TooManyFailures | None,
    times: StageTimes | None = None,
    num_resumed: int = 0,
    more: Mapping[str, Any] | None = None,
) -> None:
    """Report what was published, ``more`` beside it, then raise the failure if there is one."""
    counts = manifest.counts
    values: dict[str, Any] = {
        "collection": str(out),
        "generation": manifest.generation,
        "encoder": manifest.encoder.model_dump(),
        "counts": counts.model_dump(),
        "index": manifest.index,
        "resumed_inputs": num_resumed,
        **(more or {}),
    }
    text = (
        f"{out} {manifest.generation}: {counts.indexed} of {counts.seen} pictures and {counts.captions_indexed} "
        f"captions indexed{''.join(f', {count} {reason}' for reason, count in counts.reasons.items())}."
    )
    if times is not None:
        rate = (counts.seen - num_resumed) / times.total
        values |= {"seconds": times.as_dict(), "bound_by": times.bound_by, "images_per_second": round(rate, 2)}
        text += (
            f"\n{times.total:.1f} s, {rate:.1f} inputs/s; busy: read {times.read:.1f} s, decode {times.decode:.1f} s "
            f"in {times.num_decode_threads} threads, encode {times.encode_images + times.encode_texts:.1f} s "
            f"in {times.num_encoders}, write "
            f"{times.write:.1f} s; then publish {times.publish:.1f} s. The stage that bounds it: {times.bound_by}."
        )
    if num_resumed:
        text += f"\n{num_resumed} inputs were done by an earlier run."
    console.result(values, text)
    if failure is not None:
        raise failure


def parse_near_duplicates(text: str) -> float:
    """``off`` or a cosine above 0 and up to 1, as a number: 0 for off."""
    if text == "off":
        return 0.0
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0.0 < value <= 1.0:
        raise QueryError("--near-duplicates takes a cosine above 0 and up to 1, such as 0.96, or off.")
    return value


def parse_shard(text: str) -> Shard:
    """``I/N`` with 0 ≤ I < N."""
    from indexer.build import Shard

    index, _, count = text.partition("/")
    if not (index.isascii() and index.isdigit() and count.isascii() and count.isdigit() and int(index) < int(count)):
        raise QueryError("--shard takes I/N with I from 0 to N - 1, such as 0/4, 1/4, 2/4 and 3/4.")
    return Shard(int(index), int(count))


def absolute_spec(spec: str) -> str:
    """The spec as the manifest keeps it: paths absolute, so that serving works from any folder."""
    from sightline.encoder.spec import parse_spec

    parsed = parse_spec(spec)
    if parsed.path is None:
        return spec
    path = str(parsed.path.resolve())
    return path if parsed.kind == "bundle" else f"{parsed.model}:{path}"


def _absolute_source(source: str) -> str:
    """The source as a worker finds it, from whatever folder it runs in; patterns stay patterns."""
    return str(Path(source).expanduser().absolute())
