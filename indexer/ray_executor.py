"""Encoding under Ray: a task is "encode chunk k", and what it writes are the segments that a local run would write.

Nothing but the numbers of chunks travels through Ray: pictures are read, and segments written, by the workers, in
folders that all machines share under the same paths. A worker that is killed is replaced, and its chunk goes on behind
the segments that it had committed.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from indexer.build import BuildOptions
from indexer.job import Building
from indexer.pipeline import Pipeline
from indexer.segments import Progress, SegmentStore
from indexer.stages import StageClock
from sightline.errors import DependencyMissing, EncoderMismatch, EncodingFailed, SightlineError
from sightline.sources import open_source

if TYPE_CHECKING:
    from sightline.encoder import Encoder

MAX_ATTEMPTS = 5
"""How often a chunk is begun: one that kills its worker each time must not be tried for ever."""
_WAIT_SECONDS = 1.0


@dataclass(frozen=True)
class RayOptions:
    """``address`` of a cluster (empty: a local one is started). ``num_workers`` encoders, each with ``worker_cpus`` and
    ``worker_gpus`` of the cluster; 0 workers: as many as fit."""

    address: str = ""
    num_workers: int = 0
    worker_cpus: float = 1.0
    worker_gpus: float = 0.0
    max_attempts: int = MAX_ATTEMPTS


@dataclass(frozen=True)
class ChunkWork:
    """What a worker needs to encode any chunk; it is pickled. ``encoder`` loads the encoder on the worker's machine;
    ``source`` and ``out`` are paths that lead to the same files there."""

    encoder: Callable[[], Encoder]
    source: str
    out: Path
    options: BuildOptions


class ChunkWorker:
    """A process that encodes chunks, one at a time."""

    def __init__(self, work: ChunkWork) -> None:
        self._work = work
        building = Building(work.out)
        job = building.job
        assert job is not None, "the driver begins the job before its workers"
        self._store = building.segments(job)
        self._source = open_source(work.source, listing=building.listing)
        self._encoder = work.encoder()
        if self._encoder.identity.fingerprint != job.encoder.fingerprint:
            raise EncoderMismatch("A worker has loaded another encoder; give all machines the same bundle or weights.")

    def encode(self, chunk: int) -> tuple[int, bool]:
        """Encode what is missing of a chunk. Returns where it is done up to, and whether the source ends there."""
        size = self._store.chunk_inputs
        start = self._store.end_of(chunk)
        if start is not None and start < (chunk + 1) * size:
            pipeline = Pipeline(
                self._encoder, self._source, self._store, self._work.options.pipeline_options(), StageClock()
            )
            pipeline.encode([(start, (chunk + 1) * size)])
        end = self._store.end_of(chunk)
        return (chunk + 1) * size if end is None else end, end is None

    def process_id(self) -> int:
        """For whoever wants to see it die."""
        return os.getpid()


def encode_with_ray(
    work: ChunkWork,
    store: SegmentStore,
    options: RayOptions,
    advance: Callable[[int], None] = lambda steps: None,
    stopping: Callable[[], bool] = lambda: False,
    started: Callable[[list[Any]], None] = lambda workers: None,
) -> bool:
    """Encode every missing chunk of a job that has begun; False when ``stopping`` asked for an end before.

    As many chunks are on their way as there are workers. ``started`` is told their handles.
    Raises DependencyMissing, EncodingFailed when a chunk kills its worker again and again, and what encoding raises.
    """
    ray = _ray()
    own = not ray.is_initialized()
    if own:
        ray.init(address=options.address or None, include_dashboard=False, log_to_driver=False, logging_level="error")
    try:
        cluster = _Cluster(ray, work, options)
        started(cluster.workers)
        return cluster.encode(store.progress(), advance, stopping)
    finally:
        if own:
            ray.shutdown()


class _Cluster:
    """The workers and what each of them is at."""

    def __init__(self, ray: Any, work: ChunkWork, options: RayOptions) -> None:
        self._ray = ray
        self._options = options
        self._work = work
        # no restarts by Ray: while it restarts a worker, calls fail that were never made
        self._actor = ray.remote(num_cpus=options.worker_cpus, num_gpus=options.worker_gpus, max_restarts=0)(
            ChunkWorker
        )
        self.workers = [self._actor.remote(work) for _ in range(options.num_workers or _fitting(ray, options))]
        self._running: dict[Any, tuple[Any, int]] = {}
        self._attempts: dict[int, int] = {}
        self._ended = False

    def encode(self, progress: Progress, advance: Callable[[int], None], stopping: Callable[[], bool]) -> bool:
        chunks = self._chunks(progress)
        idle = list(self.workers)
        while True:
            while idle and not stopping():
                chunk = next(chunks, None)
                if chunk is None:
                    break
                self._begin(idle.pop(), chunk)
            if not self._running:
                return not stopping()
            if stopping():
                for worker in self.workers:  # what they have committed stays
                    self._ray.kill(worker)
                return False
            done, _ = self._ray.wait(list(self._running), num_returns=1, timeout=_WAIT_SECONDS)
            for task in done:
                worker, chunk = self._running.pop(task)
                if self._finished(task, worker, chunk, progress, advance):
                    idle.append(worker)

    def _chunks(self, progress: Progress) -> Iterator[int]:
        yield from (chunk for chunk, _ in progress.missing)
        chunk = len(progress.chunks)
        while not progress.ended and not self._ended:
            yield chunk
            chunk += 1

    def _begin(self, worker: Any, chunk: int) -> None:
        self._attempts[chunk] = self._attempts.get(chunk, 0) + 1
        self._running[worker.encode.remote(chunk)] = worker, chunk

    def _replaced(self, worker: Any) -> Any:
        """A new worker in the place of one that is gone, or that cannot be reached."""
        self._ray.kill(worker)
        place = next(number for number, one in enumerate(self.workers) if one is worker)
        self.workers[place] = self._actor.remote(self._work)
        return self.workers[place]

    def _finished(self, task: Any, worker: Any, chunk: int, progress: Progress, advance: Callable[[int], None]) -> bool:
        """Whether the worker is free again; else it has begun the chunk again."""
        try:
            stop, ended = self._ray.get(task)
        except self._ray.exceptions.RayTaskError as error:
            cause = getattr(error, "cause", None)
            raise cause if isinstance(cause, SightlineError) else error from None
        except self._ray.exceptions.RayActorError as error:
            if self._attempts[chunk] >= self._options.max_attempts:
                raise EncodingFailed(
                    f"Chunk {chunk} has ended its worker {self._attempts[chunk]} times; see the worker's log, and "
                    "whether its machine has enough memory."
                ) from error
            self._begin(self._replaced(worker), chunk)
            return False
        self._ended = self._ended or ended
        advance(stop - chunk * progress.chunk_inputs if not ended else 0)
        return True


def _fitting(ray: Any, options: RayOptions) -> int:
    """How many workers the cluster has room for, at least one."""
    resources = ray.cluster_resources()
    cpus = resources.get("CPU", 1.0) / options.worker_cpus if options.worker_cpus else float("inf")
    gpus = resources.get("GPU", 0.0) / options.worker_gpus if options.worker_gpus else float("inf")
    return max(int(min(cpus, gpus)), 1)


def _ray() -> Any:
    try:
        return importlib.import_module("ray")
    except ModuleNotFoundError as error:
        raise DependencyMissing("--executor ray needs Ray; install it with: pip install 'sightline[ray]'.") from error
