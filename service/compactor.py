"""Building the live changes into a generation, in the background and when asked to.

A process of its own copies (``sightline.compact``), so that answers are not held up; this one then serves
the result as it does every reload. Only after that is the log pruned, and only of what every generation on the disk
contains: whichever is served next, by a start or a rollback, no acknowledged change is missing.
"""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from service.edge.problems import CompactionRunning, ReloadRunning
from service.live import Live
from service.metrics import Metrics
from service.served import Served
from service.settings import Settings
from service.threads import run_apart
from sightline.collection import current_name, generation_directory, read_manifest
from sightline.collection.compaction import remove_compacted
from sightline.errors import CollectionCorrupt, LiveLogDamaged, ShuttingDown, SightlineError, StorageError

logger = logging.getLogger(__name__)

_SHARE_FROM_CHANGES = 1000
"""A small collection is not built anew over a handful of changes."""
_PATIENCE_SECONDS = 60.0
_LOOK_AGAIN_SECONDS = 0.1
_FIRST_PAUSE_SECONDS = 10.0
_LONGEST_PAUSE_SECONDS = 600.0
_ERRORS: tuple[type[SightlineError], ...] = (*CollectionCorrupt.__subclasses__(), LiveLogDamaged, StorageError)


@dataclass(frozen=True)
class Compacted:
    """What a compaction did; ``changed`` is false where there was nothing to do."""

    before: str
    now: str
    changed: bool
    sequence: int
    num_items: int
    num_captions: int
    num_pruned: int
    seconds: float


class Compactor:
    """``run`` blocks and comes one at a time; ``look`` is to be called often, from one thread."""

    def __init__(
        self,
        served: Served,
        live: Live,
        settings: Settings,
        metrics: Metrics,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._served = served
        self._live = live
        self._settings = settings
        self._metrics = metrics
        self._clock = clock
        self._running = threading.Lock()
        self._process: subprocess.Popen[str] | None = None
        self._closing = False
        self._pause_seconds = 0.0
        self._not_before = 0.0
        self._job: Future[Compacted] | None = None

    def look(self) -> None:
        """Begin a compaction in a thread of its own when enough changes wait; after a failure, later and later."""
        if self._job is not None:
            if not self._job.done():
                return
            failed, self._job = self._job.exception() is not None, None
            longer = min(max(2 * self._pause_seconds, _FIRST_PAUSE_SECONDS), _LONGEST_PAUSE_SECONDS)
            self._pause_seconds = longer if failed else 0.0
            self._not_before = self._clock() + self._pause_seconds
        if self._enough() and self._clock() >= self._not_before and not self._closing:
            self._job = run_apart(self.run, "compact")

    def run(self) -> Compacted:
        """Build the changes into a generation, serve it and prune the log.

        Raises what ``Live.check_writable`` raises, CompactionRunning, ReloadRunning and what a reload raises,
        StorageError, LiveLogDamaged and ShuttingDown.
        """
        self._live.check_usable()
        if not self._running.acquire(blocking=False):
            raise CompactionRunning(
                "The live changes are being built into a generation already; try again when it is served."
            )
        started = time.monotonic()
        outcome = "failed"
        try:
            done = self._compact(started)
            outcome = "done" if done.changed else "nothing"
        except SightlineError as error:
            outcome = "refused"
            logger.warning("The live changes were not compacted: %s", error.message)
            raise
        except Exception:
            logger.exception("The live changes were not compacted.")
            raise
        finally:
            self._metrics.compactions.labels(outcome).inc()
            self._running.release()
        return done

    def close(self) -> None:
        """End the process that copies. What it leaves is removed by the next that writes a generation."""
        self._closing = True
        process = self._process
        if process is not None:
            process.kill()

    def _enough(self) -> bool:
        waiting = self._live.num_changes if self._settings.live_writes else 0
        by_number, by_share = self._settings.live_compact_changes, self._settings.live_compact_share
        num_items = self._served.snapshot.generation.num_items
        enough_by_share = by_share > 0 and waiting >= max(by_share * num_items, _SHARE_FROM_CHANGES)
        return waiting > 0 and (0 < by_number <= waiting or enough_by_share)

    def _compact(self, started: float) -> Compacted:
        before = self._served.snapshot.generation.generation
        current = current_name(self._served.collection)
        if current != before and self._is_ours(current):
            self._serve(current)
            before = current
        if current != before:
            raise CompactionRunning(
                f"CURRENT names {current} and {before} is served; reload, or let CURRENT name what is served, and try "
                "again."
            )
        told = self._copy(before)
        if told is not None:
            self._serve(told["now"])
        snapshot = self._served.snapshot
        num_pruned = 0
        if told is not None:
            previous = [name for name in (self._served.previous, before) if name]
            gone = remove_compacted(
                self._served.collection, keep=self._settings.live_keep_generations,
                protected=[*previous, snapshot.generation.generation],
            )  # fmt: skip
            num_pruned = self._live.prune()
            logger.info(
                "Built %s of live changes up to %d; removed %s, pruned %d changes.", told["now"], told["sequence"],
                ", ".join(gone) or "no generation", num_pruned,
            )  # fmt: skip
        return Compacted(
            before, snapshot.generation.generation, told is not None, snapshot.generation.manifest.live_sequence,
            snapshot.num_items, snapshot.num_captions, num_pruned, round(time.monotonic() - started, 3),
        )  # fmt: skip

    def _is_ours(self, current: str) -> bool:
        """Whether CURRENT names a compaction that was published and could not be served then, and not one that was
        served and rolled back."""
        manifest = read_manifest(generation_directory(self._served.collection, current))
        newer = manifest.live_sequence > self._served.snapshot.generation.manifest.live_sequence
        return newer and current != self._served.previous

    def _serve(self, name: str) -> None:
        """Reload; somebody who follows ``CURRENT`` may have begun to already."""
        until = self._clock() + _PATIENCE_SECONDS
        while True:
            try:
                self._served.reload(name)
            except ReloadRunning:
                if self._clock() >= until or self._closing:
                    raise
                time.sleep(_LOOK_AGAIN_SECONDS)
            else:
                return

    def _copy(self, base: str) -> dict[str, Any] | None:
        """Run the process that copies. Returns what it says, None where there was nothing to do."""
        command = [sys.executable, "-m", "sightline.compact", str(self._served.collection), base]
        with subprocess.Popen(  # noqa: S603 - our own module, and a path of the operator's
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as process:
            self._process = process
            if self._closing:
                process.kill()
            out, complaint = process.communicate()
            self._process = None
        if self._closing:
            raise ShuttingDown("The service is shutting down; its live changes stay in the log.")
        try:
            told = json.loads(out.splitlines()[-1])
        except (IndexError, ValueError) as error:
            logger.error("The process that compacts ended with %s: %s", process.returncode, complaint[-2000:])
            raise StorageError(
                "The live changes could not be built into a generation; the service's log has the reason."
            ) from error
        if told is not None and "error" in told:
            kind = next((one for one in _ERRORS if one.code == told["error"]["code"]), StorageError)
            raise kind(told["error"]["message"])
        return told
