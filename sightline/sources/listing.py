"""The stable listing of a folder, in SQLite: millions of names never lie in memory, and a resumed run sees the same.

The walk holds the names of one folder at a time (and those of the folders still to be entered on the way down). Files
of a folder come before its subfolders, each sorted by name. A finished listing is never changed.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import sqlite3
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from sightline.errors import SourceError
from sightline.sources.description import SIDECARS
from sightline.sources.record import IMAGE_SUFFIXES, OTHER_PICTURES
from sightline.storage import storage_errors, sync_directory

_SCHEMA = """
CREATE TABLE listing (root BLOB, identity TEXT, num_inputs INTEGER, num_pictures INTEGER);
CREATE TABLE files (position INTEGER PRIMARY KEY, name BLOB, kind TEXT, sidecars INTEGER, num_bytes INTEGER,
                    mtime_ns INTEGER);
"""
_PAGE_ROWS = 1024


@dataclass(frozen=True)
class Listed:
    """An input of a folder. ``name`` is relative to it; ``kind`` is file, linked_folder or unreadable_folder;
    ``sidecars`` are the suffixes of the sidecars beside it, as they are written; ``num_bytes`` and ``mtime_ns`` are
    those of ``Record``."""

    name: str
    kind: str
    sidecars: tuple[str, ...]
    num_bytes: int
    mtime_ns: int


class Listing:
    """The inputs of a folder by position. Thread-safe: each page is one query.

    With a ``path`` the listing is kept there, and one that is there already is used as it is; else it lies in a
    temporary file that vanishes with this object. Raises SourceError or StorageError.
    """

    def __init__(self, root: Path, path: Path | None = None) -> None:
        if path is None:
            self._connection = sqlite3.connect("", check_same_thread=False)  # a private file, on disk beyond the cache
            with storage_errors(f"list {root}"):
                _fill(self._connection, root)
        else:
            if not path.exists():
                _create(path, root)
            self._connection = _open(path)
        try:
            listed_root, self.identity, self.num_inputs, self.num_pictures = self._connection.execute(
                "SELECT root, identity, num_inputs, num_pictures FROM listing"
            ).fetchone()
        except (sqlite3.Error, TypeError) as error:
            raise SourceError(f"The listing {path} is damaged; start the build again from scratch.") from error
        if listed_root != os.fsencode(root):
            raise SourceError(
                f"{path} lists {os.fsdecode(listed_root)} and not {root}; name that folder or start the build again "
                "from scratch."
            )

    def __del__(self) -> None:
        if hasattr(self, "_connection"):
            self._connection.close()

    def read(self, start: int, stop: int | None) -> Iterator[Listed]:
        """The inputs at positions [start, stop), a page in memory at a time."""
        end = self.num_inputs if stop is None else min(stop, self.num_inputs)
        for first in range(start, end, _PAGE_ROWS):
            rows = self._connection.execute(
                "SELECT name, kind, sidecars, num_bytes, mtime_ns FROM files WHERE position >= ? AND position < ? "
                "ORDER BY position",
                (first, min(first + _PAGE_ROWS, end)),
            ).fetchall()
            for name, kind, sidecars, num_bytes, mtime_ns in rows:
                chosen = tuple(suffix for bit, suffix in enumerate(SIDECARS) if sidecars >> bit & 1)
                yield Listed(os.fsdecode(name), kind, chosen, num_bytes, mtime_ns)


def holds_pictures(root: Path) -> bool:
    """Whether a picture lies anywhere below a folder; stops at the first."""
    return any(
        kind == "file" and os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES  # noqa: PTH122
        for name, kind, *_ in _walk(root)
    )


def _open(path: Path) -> sqlite3.Connection:
    # immutable: a finished listing is not written again, so no locks are needed, on network disks too
    return sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro&immutable=1", uri=True, check_same_thread=False)


def _create(path: Path, root: Path) -> None:
    """Fill under a temporary name; the first of several builders that finishes gives the listing its name."""
    with storage_errors(f"write {path}"):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        temporary.unlink(missing_ok=True)
        try:
            connection = sqlite3.connect(temporary)
            try:
                _fill(connection, root)
            finally:
                connection.close()
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
            try:
                os.link(temporary, path)
            except FileExistsError:
                pass
            except OSError:  # a file system without links
                temporary.rename(path)
            sync_directory(path.parent)
        finally:
            temporary.unlink(missing_ok=True)


def _fill(connection: sqlite3.Connection, root: Path) -> None:
    digest = hashlib.sha256(b"folder")
    position = num_pictures = 0
    connection.execute("PRAGMA journal_mode = OFF")
    connection.execute("PRAGMA synchronous = OFF")
    try:
        connection.executescript(_SCHEMA)
        for name, kind, sidecars, num_bytes, mtime_ns in _walk(root):
            stored = os.fsencode(name)
            connection.execute(
                "INSERT INTO files VALUES (?, ?, ?, ?, ?, ?)", (position, stored, kind, sidecars, num_bytes, mtime_ns)
            )
            digest.update(b"\0" + stored + f"\0{kind} {sidecars} {num_bytes} {mtime_ns}".encode())
            position += 1
            num_pictures += os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES | OTHER_PICTURES  # noqa: PTH122
        connection.execute(
            "INSERT INTO listing VALUES (?, ?, ?, ?)", (os.fsencode(root), digest.hexdigest(), position, num_pictures)
        )
        connection.commit()
    except sqlite3.OperationalError as error:
        raise OSError(28, "the listing could not be written") from error  # SQLite says no more than "disk is full"


def _walk(root: Path) -> Iterator[tuple[str, str, int, int, int]]:
    """Name, kind, sidecars as bits, bytes and newest time of each input, in the stable order."""
    waiting = [""]
    while waiting:
        folder = waiting.pop()
        try:
            with os.scandir(root / folder) as entries:
                found = sorted((entry for entry in entries if not entry.name.startswith(".")), key=lambda e: e.name)
        except OSError:
            yield folder, "unreadable_folder", 0, 0, 0
            continue
        prefix = f"{folder}/" if folder else ""
        names = {entry.name: entry for entry in found}
        folders: list[str] = []
        for entry in found:
            if _is_folder(entry, through_links=False):
                folders.append(prefix + entry.name)
            elif _is_folder(entry, through_links=True):
                yield prefix + entry.name, "linked_folder", 0, 0, 0
            elif os.path.splitext(entry.name)[1].lower() not in SIDECARS:  # noqa: PTH122
                yield prefix + entry.name, "file", *_state(entry, names)
        waiting.extend(reversed(folders))


def _is_folder(entry: os.DirEntry[str], *, through_links: bool) -> bool:
    try:
        return entry.is_dir(follow_symlinks=through_links)
    except OSError:  # a link to itself
        return False


def _state(entry: os.DirEntry[str], names: dict[str, os.DirEntry[str]]) -> tuple[int, int, int]:
    """The sidecars of a file as bits, the bytes of all of them, and the newest of their times."""
    stem, suffix = os.path.splitext(entry.name)  # noqa: PTH122
    beside = [entry]
    bits = 0
    if suffix.lower() in IMAGE_SUFFIXES:
        for bit, sidecar in enumerate(SIDECARS):
            if stem + sidecar in names:
                beside.append(names[stem + sidecar])
                bits |= 1 << bit
    num_bytes = mtime_ns = 0
    for one in beside:
        with contextlib.suppress(OSError):
            state = one.stat()
            if stat.S_ISREG(state.st_mode):
                num_bytes, mtime_ns = num_bytes + state.st_size, max(mtime_ns, state.st_mtime_ns)
    return bits, num_bytes, mtime_ns
