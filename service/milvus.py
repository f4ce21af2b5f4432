"""Serving a collection that lies in Milvus: the same routes over the same methods, each a question to the server.

What a process on one machine does for itself, Milvus does here: it keeps changes durable, compacts, and holds several
versions. So there is no log of live changes, an alias takes the place of ``CURRENT``, and a write goes to the server.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass

import numpy as np

from service.compactor import Compacted, Compactor
from service.edge.problems import LiveWritesOff
from service.live import Live, Written
from service.metrics import Metrics
from service.served import Change, Served, State
from service.settings import Settings
from service.snapshot import Snapshot, index_generation
from service.threads import DaemonPool, run_apart
from sightline.collection import Generation, Item
from sightline.collection.live_log import LiveChange
from sightline.errors import GenerationUnknown, NotFound, QueryError, ShuttingDown, SightlineError
from sightline.filters import Filter
from sightline.index import Hits, Scores
from sightline.milvus import MilvusGeneration, open_version, parse_address
from sightline.milvus.client import MilvusServer
from sightline.milvus.generation import served_version, version_before
from sightline.milvus.token import read_token
from sightline.milvus.writing import MilvusWriter

logger = logging.getLogger(__name__)

NUM_SEARCH_THREADS = 8
"""They wait for a network, not for a core."""


@dataclass(frozen=True)
class MilvusSnapshot(Snapshot):
    """A version in Milvus. Thread-safe.

    Other than a snapshot of a generation on disk it is not frozen in time: a change that this or another process writes
    is in the next search.
    """

    generation: MilvusGeneration

    @property
    def local(self) -> bool:
        return False

    @property
    def tag(self) -> str:
        """Another value for another version; within one, rows are never used again."""
        return f"{self.generation.version}-{self.generation.manifest.created}-{self.encoder[:12]}"

    def shows(self, row: int) -> bool:
        """Whether there is a picture at a row."""
        return self.generation.has_row(row)

    def search_images(self, queries: Scores, k: int, where: Filter | None) -> Hits:
        """float32 ``[B, D]`` → the k nearest pictures. Blocking: call it off the event loop."""
        return self.generation.search_images(queries, k, where)

    def search_captions(self, queries: Scores, k: int, where: Filter | None) -> Hits:
        """float32 ``[B, D]`` → the k nearest captions (of pictures the filter keeps)."""
        if not self.num_captions:
            raise QueryError("This collection has no captions to find; build it from a source with captions.")
        return self.generation.search_captions(queries, k, where)


def milvus_snapshot(generation: MilvusGeneration, fingerprint: str) -> MilvusSnapshot:
    """A version to serve. Raises EncoderMismatch when another encoder than that of ``fingerprint`` made it."""
    generation.require_encoder(fingerprint)
    return MilvusSnapshot(generation, generation.images, generation.captions)


def snapshot_of(generation: Generation, fingerprint: str) -> Snapshot:
    """A generation made searchable, wherever it lies. Raises what ``index_generation`` raises."""
    if isinstance(generation, MilvusGeneration):
        return milvus_snapshot(generation, fingerprint)
    return index_generation(generation, fingerprint)


def open_milvus(settings: Settings) -> MilvusGeneration:
    """The version that the setting ``milvus`` names. Raises SettingError, MilvusUnreachable, GenerationUnknown, …"""
    assert settings.milvus is not None
    address = parse_address(settings.milvus)
    token = read_token(settings.milvus_token_file)
    return open_version(MilvusServer(address, token, timeout_seconds=settings.default_timeout_seconds))


class MilvusServed(Served):
    """Serves the version that the alias names, and another when it is asked to or the alias moves."""

    def __init__(self, snapshot: Snapshot, **options: object) -> None:
        self._server = _version_of(snapshot).server
        self._seen: State = (_version_of(snapshot).version, 0, 0)
        self._asking = threading.Lock()
        super().__init__(snapshot, **options)  # type: ignore[arg-type]

    def reload(self, name: str | None = None) -> Change:
        """Serve the version that the alias names, or the newest that holds the generation of this name."""
        return self._change(lambda: self._version(name))

    def state(self) -> State:
        """The version that the alias named when it was last asked; asking goes on in a thread of its own, because the
        caller looks after more than this."""
        if self._asking.acquire(blocking=False):
            run_apart(self._ask, "milvus")
        return self._seen

    def _ask(self) -> None:
        try:
            version = served_version(self._server)
            self._seen = None if version is None else (version, 0, 0)
        except SightlineError as error:
            logger.warning("The alias could not be read: %s", error.message)
        finally:
            self._asking.release()

    def _version(self, name: str | None) -> str:
        current, before = served_version(self._server), version_before(self._server)
        if name is None and current is not None:
            return current
        for version in dict.fromkeys((current, _version_of(self.snapshot).version, before)):
            if version is not None and open_version(self._server, version).generation == name:
                return version
        raise GenerationUnknown(f"Milvus holds no version with the generation {name}; push it.")

    def _replace(self, name: str) -> bool:
        self._check_open()
        if name == _version_of(self.snapshot).version:
            return False
        fresh = milvus_snapshot(open_version(self._server, name), self.snapshot.encoder)
        self._require_dim(fresh)
        self._prove()
        self._check_open()
        self._install(fresh)
        return True

    def _install(self, fresh: Snapshot) -> None:
        before = _version_of(self.snapshot).version
        super()._install(fresh)
        self.previous = before

    def _describe(self, fresh: Snapshot, old: Snapshot | None = None) -> None:
        super()._describe(fresh, old)
        metrics, generation = self._metrics, _version_of(fresh)
        for gauge in (
            metrics.index_plan_info,
            metrics.index_recall,
            metrics.index_curve_recall,
            metrics.index_curve_seconds,
        ):
            gauge.clear()  # what the manifest says is of the index on disk
        for kind, vectors in (("image", generation.images), ("caption", generation.captions)):
            metrics.index_plan_info.labels(kind, f"milvus {vectors.plan.index_type}").set(1)


class MilvusLive(Live):
    """Changes go to the server, which makes them durable; nothing lies over a version here."""

    def __init__(self, metrics: Metrics, *, writes: bool = False) -> None:
        self._metrics = metrics
        self._writes = writes
        self._pool = DaemonPool(1, "live", metrics.worker_restarts.labels("live").inc)
        self._closed = False
        self._writer: MilvusWriter | None = None
        self._num_written = 0
        self.broken = None
        self.log = None

    @property
    def num_changes(self) -> int:
        """None wait to be built into a generation."""
        return 0

    def bind(self, get: Callable[[], Snapshot], put: Callable[[Snapshot], None]) -> None:
        self._get, self._set = get, put

    def prepare(self, snapshot: Snapshot) -> None:
        """There is nothing to read."""

    def discard(self) -> None:
        """There is nothing to let go of."""

    def install(self, snapshot: Snapshot) -> None:
        self._set(snapshot)
        self._writer = MilvusWriter(_version_of(snapshot))

    def look(self, interval_seconds: float) -> None:
        """What others write is found by the next search."""

    def prune(self) -> int:
        return 0

    def check_usable(self) -> None:
        """Raise LiveWritesOff or ShuttingDown."""
        if not self._writes:
            raise LiveWritesOff("Items cannot be changed here; start the service with --set live_writes=true.")
        if self._closed:
            raise ShuttingDown("The service is shutting down; send the request again later.")

    def check_writable(self) -> None:
        self.check_usable()

    def submit(self, change: LiveChange) -> Future[Written]:
        """Write a change. Fails with NotFound, QueryError, MilvusFailed or ShuttingDown."""
        outcome: Future[Written] = Future()
        self._pool.submit(self._write_one, change, outcome)
        return outcome

    def close(self) -> None:
        self._closed = True
        self._pool.shutdown()

    def _write_one(self, change: LiveChange, outcome: Future[Written]) -> None:
        if not outcome.set_running_or_notify_cancel():
            return
        try:
            outcome.set_result(self._written(change))
        except Exception as error:
            outcome.set_exception(error)

    def _written(self, change: LiveChange) -> Written:
        self.check_usable()
        snapshot, writer = self._get(), self._writer
        assert writer is not None
        if change.kind == "put":
            item = Item(change.item_id, change.uri, change.captions, change.width_px, change.height_px, change.metadata)
            vectors = np.asarray(change.caption_vectors, np.float16)  # [C, D]
            existed = writer.upsert(item, np.asarray(change.vector, np.float16), vectors, change.thumbnail)
        else:
            existed = writer.delete(change.item_id)
            if not existed:
                raise NotFound("There is no item with this id in the collection; take ids from search results.")
        self._num_written += 1
        self._metrics.live_writes.labels(change.kind).inc()
        return Written(self._num_written, existed, snapshot)


class MilvusCompactor(Compactor):
    """Milvus compacts by itself."""

    def look(self) -> None:
        """There is nothing to do."""

    def run(self) -> Compacted:
        raise LiveWritesOff("A collection in Milvus is compacted by its server; there is nothing to do here.")


def _version_of(snapshot: Snapshot) -> MilvusGeneration:
    assert isinstance(snapshot, MilvusSnapshot)
    return snapshot.generation
