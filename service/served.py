"""What is served, and putting another generation in its place while requests go on.

A change opens, verifies and indexes the new generation beside the old one, lets stored vectors find themselves, asks
the canary whether the encoder is still the one it was, and then swaps one reference. Requests that hold the old
snapshot end with it. Whatever is wrong with the new generation is an error with a code of its own, and the old one
stays.

Rolling back opens the generation before again, by its name, and proves it again: keeping it in memory instead would
double what the service needs all day for the sake of a minute once a year. So there is one generation in memory, two
during a change, and never three: a change waits until no request holds the one before the present one.
"""

from __future__ import annotations

import gc
import logging
import threading
import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from service.edge.problems import NothingBefore, ReloadRunning
from service.index_figures import describe_indexes
from service.live import Live
from service.metrics import Metrics
from service.snapshot import Snapshot, index_generation
from sightline.collection import (
    Generation,
    current_name,
    generation_directory,
    needed_bytes,
    open_collection,
    read_manifest,
)
from sightline.errors import MemoryShort, ShuttingDown, SightlineError, VectorsWrong
from sightline.memory import available_bytes

logger = logging.getLogger(__name__)


State = tuple[str, int, int] | None
"""What is current, and two numbers that change when the same name comes to hold something else; None: not readable."""


@dataclass(frozen=True)
class Change:
    """What a reload did. ``changed`` is false when the generation that was asked for is the one that is served."""

    before: str
    now: str
    changed: bool
    num_items: int
    num_captions: int
    seconds: float


class Served:
    """Holds the snapshot that requests take. ``snapshot`` may be read anywhere; changes block and come one at a time.

    ``prove`` raises when the encoder is not what it was. ``patience_seconds`` is how long a change waits for requests
    that hold the generation before the present one.
    """

    def __init__(
        self,
        snapshot: Snapshot,
        *,
        dim: int,
        metrics: Metrics,
        verify: bool = True,
        prove: Callable[[], None] = lambda: None,
        free_bytes: Callable[[], int | None] = available_bytes,
        patience_seconds: float = 10.0,
        live: Live | None = None,
    ) -> None:
        self.collection: Path = snapshot.generation.directory.parent
        self.previous: str | None = None
        self._dim = dim
        self._metrics = metrics
        self._verify = verify
        self._prove = prove
        self._free_bytes = free_bytes
        self._patience_seconds = patience_seconds
        self._changing = threading.Lock()
        self._closing = threading.Event()
        self._leaving: weakref.ref[Generation] | None = None
        self._live = live
        self._require_dim(snapshot)
        self.snapshot = snapshot
        if live is not None:
            live.bind(lambda: self.snapshot, self._set_snapshot)
            live.prepare(snapshot)
            live.install(snapshot)
        self._describe(snapshot)
        metrics.index_age_seconds.set_function(lambda: _age_seconds(self.snapshot))

    def reload(self, name: str | None = None) -> Change:
        """Serve the generation of this name, or the one that ``CURRENT`` names.

        Raises ReloadRunning, ShuttingDown, QueryError (no name of a generation), GenerationUnknown, SourceError,
        CollectionCorrupt with its kinds, EncoderMismatch, MemoryShort, and NotReady when the canary does not agree.
        """
        return self._change(lambda: name or current_name(self.collection))

    def rollback(self) -> Change:
        """Serve the generation that was served before this one. Raises NothingBefore, and what ``reload`` raises."""
        return self._change(self._name_before)

    def state(self) -> State:
        """What ``CURRENT`` names and which manifest that is. To be called often."""
        try:
            name = current_name(self.collection)
            found = (generation_directory(self.collection, name) / "manifest.json").stat()
        except (OSError, SightlineError):
            return None
        return name, found.st_ino, found.st_mtime_ns

    def close(self) -> None:
        """Let no further change begin, and none that is under way be installed."""
        self._closing.set()

    def _name_before(self) -> str:
        if self.previous is None:
            raise NothingBefore("No other generation has been served since the start; name the one to reload.")
        return self.previous

    def _change(self, choose: Callable[[], str]) -> Change:
        if not self._changing.acquire(blocking=False):
            raise ReloadRunning("Another generation is being loaded; try again when it is served.")
        started = time.monotonic()
        outcome = "failed"
        try:
            before = self.snapshot.generation.generation
            changed = self._replace(choose())
            outcome = "swapped" if changed else "unchanged"
            generation = self.snapshot.generation
        except SightlineError as error:
            outcome = "refused"
            logger.warning("The generation was not changed: %s", error.message)
            raise
        except MemoryError as error:
            outcome = "refused"
            raise _memory_short() from error
        except Exception:
            logger.exception("The generation was not changed.")
            raise
        finally:
            if self._live is not None:
                self._live.discard()
            self._metrics.reloads.labels(outcome).inc()
            self._changing.release()
        seconds = time.monotonic() - started
        logger.info("Serving %s after %s, loaded in %.1f s.", generation.generation, before, seconds)
        return Change(
            before,
            generation.generation,
            changed,
            self.snapshot.num_items,
            self.snapshot.num_captions,
            round(seconds, 3),
        )

    def _replace(self, name: str) -> bool:
        """The cheap questions first: what is refused costs no memory. Returns whether anything changed."""
        self._check_open()
        directory = generation_directory(self.collection, name)
        manifest = read_manifest(directory)
        if manifest == self.snapshot.generation.manifest:
            return False
        manifest.require_encoder(self.snapshot.encoder)
        self._await_release()
        needed, free = needed_bytes(directory, manifest), self._free_bytes()
        if free is not None and needed > free:
            raise _memory_short(needed_bytes=needed, free_bytes=free)
        generation = open_collection(self.collection, name, verify=self._verify)
        fresh = index_generation(generation, self.snapshot.encoder)
        self._require_dim(fresh)
        if self._live is not None:
            self._live.prepare(fresh)
        self._prove()
        self._check_open()
        self._install(fresh)
        return True

    def _install(self, fresh: Snapshot) -> None:
        old = self.snapshot
        if self._live is not None:
            self._live.install(fresh)
        else:
            self.snapshot = fresh
        self.previous = old.generation.generation
        self._leaving = weakref.ref(old.generation)  # live changes make many snapshots of one generation
        self._describe(fresh, old)

    def _set_snapshot(self, snapshot: Snapshot) -> None:
        self.snapshot = snapshot

    def _await_release(self) -> None:
        """Wait until nothing holds the generation that was served before the present one."""
        started = time.monotonic()
        while self._leaving is not None and self._leaving() is not None:
            waited_seconds = time.monotonic() - started
            if waited_seconds > self._patience_seconds:
                raise ReloadRunning("Requests still use the generation before this one; try again in a moment.")
            if waited_seconds > self._patience_seconds / 2:
                gc.collect()  # an error's traceback may hold it in a cycle
            self._closing.wait(0.01)
            self._check_open()

    def _check_open(self) -> None:
        if self._closing.is_set():
            raise ShuttingDown("The service is shutting down; its generation is not changed any more.")

    def _require_dim(self, snapshot: Snapshot) -> None:
        recorded = snapshot.generation.manifest.encoder.dim
        if recorded != self._dim:
            raise VectorsWrong(
                f"The vectors of {snapshot.generation.directory} have {recorded} dimensions and the encoder's have "
                f"{self._dim}; build the collection again."
            )

    def _describe(self, fresh: Snapshot, old: Snapshot | None = None) -> None:
        """The metrics of what is served; the labels of what is not served any more vanish."""
        self._metrics.index_vectors.labels("image").set_function(lambda: self.snapshot.num_items)
        self._metrics.index_vectors.labels("caption").set_function(lambda: self.snapshot.num_captions)
        describe_indexes(self._metrics, fresh.generation.manifest)
        info = self._metrics.generation_info
        info.labels(fresh.generation.generation, fresh.encoder).set(1)
        if old is not None and (old.generation.generation, old.encoder) != (fresh.generation.generation, fresh.encoder):
            info.remove(old.generation.generation, old.encoder)


def _memory_short(**numbers: int) -> MemoryShort:
    return MemoryShort(
        "There is not enough free memory to load the generation beside the one that is served; free some, give the "
        "service more, or start it anew with the other generation.", **numbers,
    )  # fmt: skip


def _age_seconds(snapshot: Snapshot) -> float:
    """Seconds since the generation was built, NaN where its manifest holds no date."""
    try:
        created = datetime.fromisoformat(snapshot.generation.manifest.created)
    except ValueError:
        return float("nan")
    created = created if created.tzinfo else created.replace(tzinfo=UTC)
    return (datetime.now(UTC) - created).total_seconds()
