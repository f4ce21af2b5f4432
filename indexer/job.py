"""The unfinished build of a collection: what it is building, who may work on it, and what is done."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from indexer.segments import SegmentStore
from sightline import __version__
from sightline.collection import EncoderRecord, read_manifest
from sightline.collection.manifest import current_generation
from sightline.errors import CollectionCorrupt, InputError, SightlineError, StorageError
from sightline.storage import discard_directory, first_difference, remove_abandoned, replace_file, storage_errors

BUILDING_NAME = "building"
_RESTART = "give the same options to go on, or --restart to throw the unfinished build away"


class Job(BaseModel):
    """``job.json``: everything that the result depends on.

    ``created`` is when the job began, which the generation will say too: a run that was interrupted gives the same
    bytes as one that was not. ``base`` is the generation that known vectors are taken from, empty for none.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[1] = 1
    created: str
    encoder: EncoderRecord
    source: str
    source_identity: str
    base: str = ""
    options: dict[str, Any]

    @property
    def digest(self) -> str:
        """Another one for every job that may give another result; when it began does not count."""
        return hashlib.sha256(self.model_dump_json(exclude={"created"}).encode()).hexdigest()

    def difference(self, other: Job) -> str:
        """What of ``other`` would give another result, as the middle of a sentence; empty when nothing would."""
        if other.encoder.fingerprint != self.encoder.fingerprint or other.encoder.precision != self.encoder.precision:
            return f"uses the encoder {self.encoder.name} in {self.encoder.precision} ({self.encoder.fingerprint[:12]})"
        if other.source_identity != self.source_identity:
            return f"reads {self.source} as it was when it began"
        if other.base != self.base:
            return f"brings {self.base or 'no generation'} up to date" if self.base else "is no sync"
        names = sorted(name for name in self.options | other.options if self._option(name) != other._option(name))
        return f"has other options ({', '.join(f'{name} {self._option(name)}' for name in names)})" if names else ""

    def _option(self, name: str) -> Any:
        return self.options.get(name)


def now() -> str:
    """The time as manifests say it."""
    return datetime.now(UTC).isoformat(timespec="seconds")


class Building:
    """``COLLECTION/building``. Use ``building_locked`` before changing anything in it."""

    def __init__(self, collection: Path) -> None:
        self.collection = collection
        self.directory = collection / BUILDING_NAME
        self.listing = self.directory / "listing.db"

    @property
    def job(self) -> Job | None:
        """The job that is under way; None when there is none. Raises CollectionCorrupt."""
        path = self.directory / "job.json"
        if not path.is_file():
            return None
        try:
            return Job.model_validate_json(path.read_bytes())
        except (OSError, ValidationError) as error:
            raise CollectionCorrupt(
                f"{path} is damaged or of another version; run the build again with --restart."
            ) from error

    def begin(self, wanted: Job) -> Job:
        """The job under way if it gives what is wanted, else the wanted one, begun now. Raises InputError."""
        job = self.job
        if job is None:
            with storage_errors(f"write {self.directory}"):
                self.directory.mkdir(parents=True, exist_ok=True)
            replace_file(self.directory / "job.json", f"{wanted.model_dump_json(indent=2)}\n".encode())
            return wanted
        difference = job.difference(wanted)
        if difference:
            raise InputError(f"The unfinished build in {self.directory} {difference}; {_RESTART}.")
        return job

    def published(self, wanted: Job) -> str:
        """The generation that ``CURRENT`` names, if it is whole and this job of this Sightline gave it; nothing
        else, and nothing while a job is under way."""
        if self.job is not None:
            return ""
        with contextlib.suppress(SightlineError, OSError):  # there is none, or none that can be read: build it
            directory = current_generation(self.collection)
            manifest = read_manifest(directory)
            same = (manifest.job, manifest.sightline_version) == (wanted.digest, __version__)
            if same and first_difference(directory, manifest.files) is None:
                return manifest.generation
        return ""

    def segments(self, job: Job) -> SegmentStore:
        """What is done of a job."""
        return SegmentStore(self.directory / "segments", job.options["chunk_inputs"], job.encoder.dim)

    def discard(self) -> None:
        """Throw everything away. Raises StorageError."""
        discard_directory(self.directory)

    @contextlib.contextmanager
    def unless_begun(self) -> Iterator[None]:
        """Around what comes before ``begin``: an error in it leaves nothing behind that was not there."""
        was_there = self.collection.exists()
        try:
            yield
        except BaseException:
            self.leave()
            if not was_there:
                with contextlib.suppress(OSError):
                    self.collection.rmdir()
            raise

    def leave(self) -> None:
        """Remove what was made for a job that has not begun."""
        if not (self.directory / "job.json").is_file():
            with contextlib.suppress(OSError):
                self.listing.unlink(missing_ok=True)
                self.directory.rmdir()

    def prepare(self, *, restart: bool = False) -> None:
        """Before the source is opened: throw away what cannot be gone on with, all of it with ``restart``."""
        if not restart and (self.directory / "job.json").is_file():
            return
        if self.directory.is_dir():
            with building_locked(self.collection):
                self.discard()


@contextlib.contextmanager
def building_locked(collection: Path, *, shard: str = "") -> Iterator[Building]:
    """Keep every other builder away from a collection while the block runs; a ``shard`` only those of the same shard.

    Raises StorageError when another one is there, or when the collection cannot be written.
    """
    building = Building(collection)
    with contextlib.ExitStack() as stack:
        whole = _lock(building.directory, "lock", shared=bool(shard))
        stack.callback(os.close, whole)
        if shard:
            stack.callback(os.close, _lock(building.directory, f"shard-{shard}.lock", shared=False))
        for name in (BUILDING_NAME, "gen-*", "CURRENT"):
            remove_abandoned(collection, name)
        yield building


def _lock(directory: Path, name: str, *, shared: bool) -> int:
    """An open file that holds the lock: the system frees it when the process ends, however it does."""
    while True:
        with storage_errors(f"write {directory}"):
            directory.mkdir(parents=True, exist_ok=True)
            try:
                descriptor = os.open(directory / name, os.O_RDWR | os.O_CREAT, 0o644)
            except FileNotFoundError:  # the directory was thrown away at this moment
                continue
            try:
                fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
                if _is_at(descriptor, directory / name):
                    return descriptor
                os.close(descriptor)  # the directory was thrown away while this one was opened
            except BlockingIOError as error:
                os.close(descriptor)
                raise StorageError(
                    f"Another process is building {directory.parent}; wait until it has finished, or end it."
                ) from error
            except BaseException:
                os.close(descriptor)
                raise


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        found, there = os.fstat(descriptor), path.stat()
    except FileNotFoundError:
        return False
    return (found.st_dev, found.st_ino) == (there.st_dev, there.st_ino)
