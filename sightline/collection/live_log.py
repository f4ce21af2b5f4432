"""The log of live changes: what was put into a collection and taken out of it since its generation was built.

One SQLite file, ``COLLECTION/live.db``, in WAL mode with ``synchronous=FULL``: when ``append`` has returned, the
changes are on the disk. It holds the *latest* change of every item that was ever touched, so its size is bounded by the
number of such items, and what it means does not depend on the generation it is laid over: a generation whose manifest
says ``live_sequence`` S holds every change up to S, and the changes after S are applied to it. Going back to an older
generation therefore loses nothing, as long as nothing is pruned that a generation on the disk lacks.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

import numpy as np
import numpy.typing as npt

from sightline.errors import EncoderMismatch, LiveLogDamaged, LiveLogLocked, StorageError
from sightline.storage import storage_errors, sync_directory

LIVE_LOG_NAME = "live.db"
LIVE_LOCK_NAME = "live.lock"
_SCHEMA_VERSION = 1
_BUSY_SECONDS = 10.0
_TABLES = """
CREATE TABLE IF NOT EXISTS changes (
    sequence INTEGER PRIMARY KEY AUTOINCREMENT, item_id TEXT NOT NULL UNIQUE, kind TEXT NOT NULL, uri TEXT NOT NULL,
    captions TEXT NOT NULL, metadata TEXT NOT NULL, sha256 TEXT NOT NULL, width_px INTEGER NOT NULL,
    height_px INTEGER NOT NULL, vector BLOB NOT NULL, caption_vectors BLOB NOT NULL, encoder TEXT NOT NULL,
    generation TEXT NOT NULL, created TEXT NOT NULL, thumbnail_digest BLOB NOT NULL, digest BLOB NOT NULL,
    thumbnail BLOB NOT NULL
);
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value INTEGER NOT NULL);
"""
_COLUMNS = (
    "item_id", "kind", "uri", "captions", "metadata", "sha256", "width_px", "height_px", "vector", "caption_vectors",
    "encoder", "generation", "created", "thumbnail_digest",
)  # fmt: skip
_SELECT = f"SELECT sequence, {', '.join(_COLUMNS)}, digest FROM changes"  # noqa: S608 - our own names
_INSERT = (
    f"INSERT OR REPLACE INTO changes ({', '.join(_COLUMNS)}, digest, thumbnail) "  # noqa: S608 - our own names
    f"VALUES ({', '.join('?' * (len(_COLUMNS) + 2))})"
)
_DAMAGED = (sqlite3.DatabaseError, ValueError, TypeError, KeyError)
"""What reading a file that is no longer what was written ends in."""

HalfVectors = npt.NDArray[np.float16]


@dataclass(frozen=True)
class LiveChange:
    """One change. ``kind`` is ``put`` or ``delete``; a delete has an id and nothing else to tell.

    ``vector`` float16 ``[D]`` and ``caption_vectors`` float16 ``[C, D]`` have unit length; ``encoder`` is the
    fingerprint of what made them, ``generation`` what was served when it was written, ``created`` an ISO time.
    ``sequence`` is given by the log, 0 before. ``thumbnail`` is WebP; reading many changes leaves it out.
    """

    item_id: str
    kind: Literal["put", "delete"]
    encoder: str
    generation: str
    created: str
    uri: str = ""
    captions: tuple[str, ...] = ()
    metadata: dict[str, Any] = field(default_factory=dict)
    sha256: str = ""
    width_px: int = 0
    height_px: int = 0
    vector: HalfVectors = field(default_factory=lambda: np.empty(0, np.float16))
    caption_vectors: HalfVectors = field(default_factory=lambda: np.empty((0, 0), np.float16))
    thumbnail: bytes = b""
    sequence: int = 0


class LiveLog:
    """An open log; every method may be called from several threads. Use ``open_live_log``.

    A writer holds ``live.lock`` until it is closed or its process ends, however it ends.
    """

    def __init__(self, path: Path, connection: sqlite3.Connection, lock: int | None) -> None:
        self.path = path
        self._connection = connection
        self._lock = lock
        self._turn = threading.Lock()

    @property
    def writable(self) -> bool:
        return self._lock is not None

    def append(self, changes: Sequence[LiveChange]) -> list[LiveChange]:
        """Write changes in order, all or none, and return them with their sequence numbers once they are on the disk.

        Raises StorageError, after which nothing of them is in the log, or LiveLogDamaged.
        """
        written = []
        with self._turn, _storage(self.path):
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                for change in changes:
                    cursor = self._connection.execute(_INSERT, _values(change))
                    written.append(replace(change, sequence=int(cursor.lastrowid or 0)))
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise
        return written

    def read(self, after: int = 0) -> list[LiveChange]:
        """The changes after a sequence number, in order, at one moment, without thumbnails. Raises LiveLogDamaged."""
        with self._turn, self._intact():
            rows = self._connection.execute(f"{_SELECT} WHERE sequence > ? ORDER BY sequence", (after,)).fetchall()
            return [_change(row) for row in rows]

    def thumbnail(self, sequence: int) -> bytes | None:
        """The thumbnail of a change; None when the change has been replaced by a later one. Raises LiveLogDamaged."""
        with self._turn, self._intact():
            found = self._connection.execute(
                "SELECT thumbnail, thumbnail_digest FROM changes WHERE sequence = ?", (sequence,)
            ).fetchone()
            if found is None:
                return None
            if _digest(found[0]) != found[1]:
                raise ValueError("a thumbnail differs from its digest")
            return bytes(found[0])

    def verify(self) -> None:
        """Compare every change and every thumbnail with its digest. Raises LiveLogDamaged."""
        for change in self.read():
            self.thumbnail(change.sequence)

    def last_sequence(self) -> int:
        """The highest number ever given, 0 in a new log; numbers are never given again."""
        with self._turn, self._intact():
            found = self._connection.execute("SELECT seq FROM sqlite_sequence WHERE name = 'changes'").fetchone()
            return int(found[0]) if found else 0

    def pruned_through(self) -> int:
        """Changes up to this number may be missing: only generations that hold them can be served."""
        with self._turn, self._intact():
            found = self._connection.execute("SELECT value FROM facts WHERE name = 'pruned_through'").fetchone()
            return int(found[0]) if found else 0

    def prune(self, through: int) -> int:
        """Forget the changes up to a number. Only right when every generation on the disk holds them. Returns how many.

        Raises StorageError or LiveLogDamaged.
        """
        with self._turn, _storage(self.path):
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                gone = self._connection.execute("DELETE FROM changes WHERE sequence <= ?", (through,)).rowcount
                if gone:
                    self._connection.execute(
                        "INSERT INTO facts VALUES ('pruned_through', ?1) "
                        "ON CONFLICT (name) DO UPDATE SET value = max(value, ?1)", (through,),
                    )  # fmt: skip
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise
        return int(gone)

    def num_bytes(self) -> int:
        """Bytes on the disk, of the file and of its write-ahead log."""
        total = 0
        for suffix in ("", "-wal"):
            with contextlib.suppress(OSError):
                total += Path(f"{self.path}{suffix}").stat().st_size
        return total

    def close(self) -> None:
        """Close the file and let another process write."""
        with self._turn:
            with contextlib.suppress(sqlite3.Error):
                self._connection.close()
            if self._lock is not None:
                os.close(self._lock)
                self._lock = None

    @contextlib.contextmanager
    def _intact(self) -> Iterator[None]:
        try:
            yield
        except _DAMAGED as error:
            raise _damaged(self.path) from error


def open_live_log(collection: Path, *, writable: bool = False) -> LiveLog | None:
    """Open a collection's log: to write, making it where there is none, or to read, None where there is none.

    Raises LiveLogLocked (another process writes it), LiveLogDamaged, or StorageError.
    """
    path = collection / LIVE_LOG_NAME
    if not writable:
        return LiveLog(path, _connect_to_read(path), None) if path.is_file() else None
    lock = _take_lock(collection)
    try:
        with _storage(path):
            connection = _connect(path, "rwc")
            try:
                connection.execute("PRAGMA journal_mode=WAL")
                connection.execute("PRAGMA synchronous=FULL")
                _check(connection, path)
                connection.executescript(_TABLES)
                connection.execute(f"PRAGMA user_version={_SCHEMA_VERSION}")
            except BaseException:
                connection.close()
                raise
        sync_directory(collection)  # the names of the new files must survive a power cut as their contents do
    except BaseException:
        os.close(lock)
        raise
    return LiveLog(path, connection, lock)


def require_fingerprint(changes: Sequence[LiveChange], fingerprint: str) -> None:
    """Raise EncoderMismatch when another encoder made the vectors of one of these changes."""
    for change in changes:
        if change.kind == "put" and change.encoder != fingerprint:
            raise EncoderMismatch(
                f"The log of live changes holds vectors of another encoder ({change.encoder[:12]}) than the served one "
                f"({fingerprint[:12]}); move {LIVE_LOG_NAME} aside and put its items again, or serve the old encoder."
            )


def _take_lock(collection: Path) -> int:
    with storage_errors(f"write {collection / LIVE_LOCK_NAME}"):
        descriptor = os.open(collection / LIVE_LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        raise LiveLogLocked(
            f"Another process writes the live changes of {collection}; stop it, or start this one without live_writes."
        ) from error
    return descriptor


def _connect(path: Path, mode: str) -> sqlite3.Connection:
    return sqlite3.connect(
        f"file:{quote(str(path.absolute()))}?{'immutable=1' if mode == 'immutable' else f'mode={mode}'}", uri=True,
        timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False,
    )  # fmt: skip


def _connect_to_read(path: Path) -> sqlite3.Connection:
    """On a volume that cannot be written SQLite needs to be told that nobody else writes either."""
    modes = ["ro"]
    wal = Path(f"{path}-wal")
    if not os.access(path.parent, os.W_OK) and not (wal.exists() and wal.stat().st_size):
        modes.append("immutable")
    for mode in modes:
        connection = None
        try:
            connection = _connect(path, mode)
            _check(connection, path)
            return connection
        except sqlite3.Error as error:
            if connection is not None:
                connection.close()
            if mode == modes[-1]:
                raise _damaged(path) from error
    raise AssertionError("unreachable")


def _check(connection: sqlite3.Connection, path: Path) -> None:
    try:
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        complaints = [row[0] for row in connection.execute("PRAGMA quick_check(1)")]
    except ValueError as error:  # SQLite quotes what it found, which may be no text
        raise _damaged(path) from error
    if version > _SCHEMA_VERSION:
        raise LiveLogDamaged(f"{path} was written by a newer Sightline (schema {version}); update Sightline.")
    if complaints != ["ok"]:
        raise _damaged(path)


def _damaged(path: Path) -> LiveLogDamaged:
    return LiveLogDamaged(f"{path}, the log of live changes, is damaged; restore it from a backup or move it aside.")


@contextlib.contextmanager
def _storage(path: Path) -> Iterator[None]:
    """SQLite's errors while writing in our words."""
    try:
        yield
    except sqlite3.Error as error:
        name = getattr(error, "sqlite_errorname", "") or ""
        if name.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB")):
            raise _damaged(path) from error
        reason = {
            "SQLITE_FULL": "no space is left on the disk; free some",
            "SQLITE_READONLY": "it cannot be written; check its rights and the volume's",
            "SQLITE_CANTOPEN": "it cannot be opened; check the folder's rights",
            "SQLITE_BUSY": "another process holds it; end that process",
        }.get("_".join(name.split("_")[:2]), "the disk reported an error; check it")
        raise StorageError(f"Could not write {path}: {reason}.") from error


def _digest(*parts: object) -> bytes:
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        content = part if isinstance(part, bytes) else str(part).encode("utf-8")
        digest.update(len(content).to_bytes(8, "little"))
        digest.update(content)
    return digest.digest()


def _values(change: LiveChange) -> tuple[object, ...]:
    values = (
        change.item_id, change.kind, change.uri, json.dumps(change.captions), json.dumps(change.metadata),
        change.sha256, change.width_px, change.height_px, change.vector.astype("<f2").tobytes(),
        change.caption_vectors.astype("<f2").tobytes(), change.encoder, change.generation, change.created,
        _digest(change.thumbnail),
    )  # fmt: skip
    return (*values, _digest(*values), change.thumbnail)


def _change(row: tuple[Any, ...]) -> LiveChange:
    """A row of ``_SELECT`` that is what was written; ValueError where it is not."""
    sequence, *values, digest = row
    if _digest(*values) != digest:
        raise ValueError("a change differs from its digest")
    (item_id, kind, uri, captions, metadata, sha256, width_px, height_px, vector, caption_vectors, encoder, generation,
     created, _) = values  # fmt: skip
    own = np.frombuffer(vector, dtype="<f2").astype(np.float16)  # [D]
    texts = np.frombuffer(caption_vectors, dtype="<f2").astype(np.float16).reshape(-1, max(len(own), 1))  # [C, D]
    return LiveChange(
        item_id, kind, encoder, generation, created, uri, tuple(json.loads(captions)), json.loads(metadata), sha256,
        width_px, height_px, own, texts, sequence=sequence,
    )  # fmt: skip
