"""Building a generation: what is missing of the job is encoded into segments, then the segments are published.

A build that was killed or interrupted goes on where it stopped, and gives the same bytes as one that was not. Exact
duplicates (same bytes) are indexed once.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from indexer.encoding import CHUNK_INPUTS
from indexer.job import Building, Job, building_locked, now
from indexer.ledger import too_many_failures
from indexer.pipeline import SEGMENT_SECONDS, Pipeline, PipelineOptions
from indexer.publication import Publication
from indexer.reading import Span
from indexer.segments import SegmentStore
from indexer.stages import StageClock, StageTimes
from sightline.collection import CollectionManifest, EncoderRecord
from sightline.errors import SourceError, TooManyFailures
from sightline.images import ImageLimits
from sightline.memory import give_back
from sightline.sources import Source
from sightline.texts import TextLimits

if TYPE_CHECKING:
    from indexer.indexing import IndexOptions
    from sightline.encoder import Encoder

NEAR_DUPLICATE_COSINE = 0.96


@dataclass(frozen=True)
class BuildOptions:
    """``thumbnail_px`` is the longer side of thumbnails (0: none); ``max_error_rate`` a share of pictures, 0 to 1;
    ``near_duplicates`` the cosine from which a picture is noted as nearly the same as an earlier one (0: never).

    ``index`` says how it will be searched (None: as ``auto`` does). It, the numbers of threads, ``segment_seconds`` and
    ``max_error_rate`` do not change what is encoded; the others do.
    """

    batch_size: int = 32
    num_decode_threads: int = 0
    num_encoders: int = 0
    thumbnail_px: int = 256
    max_error_rate: float = 0.05
    near_duplicates: float = NEAR_DUPLICATE_COSINE
    chunk_inputs: int = CHUNK_INPUTS
    segment_seconds: float = SEGMENT_SECONDS
    image_limits: ImageLimits = field(default_factory=ImageLimits)
    text_limits: TextLimits = field(default_factory=TextLimits)
    index: IndexOptions | None = None

    def result_options(self) -> dict[str, Any]:
        """What the bytes of the result depend on, as the job notes it."""
        values = dataclasses.asdict(self)
        for name in ("num_decode_threads", "num_encoders", "max_error_rate", "segment_seconds", "index"):
            del values[name]
        values["image_limits"]["formats"] = list(self.image_limits.formats)
        return values

    def pipeline_options(self) -> PipelineOptions:
        """What the pipeline needs of them."""
        names = {one.name for one in dataclasses.fields(PipelineOptions)} & {
            one.name for one in dataclasses.fields(self)
        }
        return PipelineOptions(**{name: getattr(self, name) for name in names})


@dataclass(frozen=True)
class BuildReport:
    """What was built, and where the time went. ``num_resumed``: inputs that an earlier run had done."""

    manifest: CollectionManifest
    times: StageTimes
    num_resumed: int
    failure: TooManyFailures | None


class BuildInterrupted(Exception):
    """The run was asked to stop and has: everything encoded is committed, and the same command goes on."""

    def __init__(self, num_done: int) -> None:
        super().__init__(f"interrupted after {num_done} inputs")
        self.num_done = num_done


class AlreadyPublished(Exception):
    """The current generation is what the whole build would give: the shard has nothing to do."""

    def __init__(self, generation: str) -> None:
        super().__init__(f"published as {generation}")
        self.generation = generation


@dataclass(frozen=True)
class Shard:
    """Part ``index`` of ``count`` (0 ≤ index < count): the chunks k with k % count == index."""

    index: int
    count: int

    def __str__(self) -> str:
        return f"{self.index}-of-{self.count}"


def build_collection(
    encoder: Encoder,
    encoder_spec: str,
    source: Source,
    source_name: str,
    out: Path,
    options: BuildOptions,
    advance: Callable[[int], None] = lambda steps: None,
    *,
    stopping: Callable[[], bool] = lambda: False,
    clock: Callable[[], str] = now,
    say: Callable[[str], None] = lambda line: None,
    executor: Callable[[SegmentStore], bool] | None = None,
) -> BuildReport:
    """Encode a source into a new generation of the collection at ``out`` and make it current.

    Goes on with an unfinished build of the same job. ``advance`` is called with the number of inputs finished;
    ``stopping`` is asked after each batch; ``clock`` gives the time as the manifest says it; ``executor``
    encodes what a store lacks in this process's stead (False: it was asked to stop). Nothing is published when
    an error ends the run, and what was encoded stays for the next one.
    Raises StorageError, EncodingFailed, CollectionCorrupt, BuildInterrupted, InputError when the unfinished build is
    another one, or SourceError when not one picture could be indexed.
    """
    stages = StageClock()
    pipeline_options = options.pipeline_options()
    wanted = make_job(encoder, encoder_spec, source, source_name, options, clock())
    with building_locked(out) as building:
        job = building.begin(wanted)
        store = building.segments(job)
        progress = store.progress()
        advance(progress.num_done)
        if executor is None:
            pipeline = Pipeline(encoder, source, store, pipeline_options, stages, advance=advance, stopping=stopping)
            encoded = progress.complete or pipeline.encode(progress.spans())
        else:
            encoded = progress.complete or executor(store)
        if not encoded:
            raise BuildInterrupted(store.progress().num_done)
        give_back()  # what encoding took, before publication takes its own
        with stages.measure("publish"):
            manifest = Publication(building, job, index_builder(job, options.index, say)).publish()
    return BuildReport(
        manifest,
        stages.times(pipeline_options.decode_threads, pipeline_options.encoders),
        progress.num_done,
        too_many_failures(manifest.counts, options.max_error_rate),
    )


def encode_shard(
    encoder: Encoder,
    encoder_spec: str,
    source: Source,
    source_name: str,
    out: Path,
    options: BuildOptions,
    shard: Shard,
    advance: Callable[[int], None] = lambda steps: None,
    *,
    stopping: Callable[[], bool] = lambda: False,
    clock: Callable[[], str] = now,
) -> StageTimes:
    """Encode the chunks of a shard and publish nothing: ``publish_collection`` does, when all shards are done.

    The shards of one build may run at the same time and on several machines that share ``out``.
    Raises what ``build_collection`` does, and AlreadyPublished when a shard comes after the publication.
    """
    stages = StageClock()
    pipeline_options = options.pipeline_options()
    wanted = make_job(encoder, encoder_spec, source, source_name, options, clock())
    published = Building(out).published(wanted)
    if published:
        Building(out).leave()
        raise AlreadyPublished(published)
    with building_locked(out, shard=str(shard)) as building:
        store = building.segments(building.begin(wanted))
        pipeline = Pipeline(encoder, source, store, pipeline_options, stages, advance=advance, stopping=stopping)
        for span in _spans_of(store, shard):
            if not pipeline.encode([span]):
                raise BuildInterrupted(store.progress().num_done)
    return stages.times(pipeline_options.decode_threads, pipeline_options.encoders)


def publish_collection(
    out: Path, max_error_rate: float, index: IndexOptions | None = None, say: Callable[[str], None] = lambda line: None
) -> tuple[CollectionManifest, TooManyFailures | None]:
    """Publish an unfinished build whose chunks are all done. Raises SourceError when there is none or chunks lack."""
    missing = SourceError(f"{out} has no unfinished build; start one with `sightline index build --out {out}`.")
    if Building(out).job is None:
        raise missing
    with building_locked(out) as building:
        job = building.job
        if job is None:
            raise missing
        manifest = Publication(building, job, index_builder(job, index, say)).publish()
    return manifest, too_many_failures(manifest.counts, max_error_rate)


def make_job(
    encoder: Encoder, encoder_spec: str, source: Source, source_name: str, options: BuildOptions, created: str
) -> Job:
    """The job that these arguments ask for."""
    identity = encoder.identity
    record = EncoderRecord(
        spec=encoder_spec,
        name=identity.name,
        fingerprint=identity.fingerprint,
        dim=identity.dim,
        precision=identity.precision,
        licence=identity.licence,
        untrained=identity.untrained,
    )
    return Job(
        created=created,
        encoder=record,
        source=source_name,
        source_identity=source.identity,
        options=options.result_options(),
    )


def index_builder(
    job: Job, options: IndexOptions | None, say: Callable[[str], None]
) -> Callable[[Path], dict[str, Any]]:
    """What builds the index of a job's generation."""

    def build_index(directory: Path) -> dict[str, Any]:
        from indexer.indexing import IndexOptions, build_indexes  # heavy, and not needed before publication

        return build_indexes(directory, job.encoder.dim, options or IndexOptions(), say)

    return build_index


def _spans_of(store: SegmentStore, shard: Shard) -> Iterator[Span]:
    """The spans of a shard's chunks that are missing, until one of its chunks holds the source's end."""
    size = store.chunk_inputs
    chunk = shard.index
    while True:
        end = store.end_of(chunk)
        if end is None:
            return
        if end < (chunk + 1) * size:
            yield end, (chunk + 1) * size
            if store.end_of(chunk) is None:
                return
        chunk += shard.count
