"""Writing so that a crash at any instant leaves either the old state or the new one.

A directory is written under a temporary name beside its final one, every file and directory is synced, then it is
renamed; a pointer file is replaced whole. Syncing the file alone is not enough, its directory must be synced too.
Every OSError becomes a StorageError with a sentence. All writing, syncing and renaming of collections goes through
three functions here, so that a test can make each one fail in its turn.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from pydantic import BaseModel, ConfigDict

from sightline.errors import StorageError

_CHUNK_BYTES = 2**20


@contextlib.contextmanager
def storage_errors(action: str) -> Iterator[None]:
    """Turn an OSError inside the block into a StorageError: ``action`` completes "Could not …"."""
    try:
        yield
    except OSError as error:
        reasons = {
            errno.ENOSPC: "no space is left on the disk; free some and run the command again",
            errno.EDQUOT: "the disk quota is used up; free some space and run the command again",
            errno.EROFS: "the file system is read-only; choose a folder that can be written",
            errno.EACCES: "permission is denied; check the folder's owner and rights",
            errno.EPERM: "permission is denied; check the folder's owner and rights",
            errno.ENOENT: "it is not there; check the path",
            errno.ENOTDIR: "a part of the path is a file, not a folder; check the path",
            errno.EFBIG: "the file is larger than the system allows; raise the limit",
        }
        reason = reasons.get(error.errno or 0, f"the system reported {errno.errorcode.get(error.errno or 0, 'EIO')}")
        raise StorageError(f"Could not {action}: {reason}.") from error


def _write(file: BinaryIO, data: Any) -> int:
    return file.write(data)


def _fsync(descriptor: int) -> None:
    os.fsync(descriptor)


def _rename(path: Path, final: Path) -> None:
    path.rename(final)


class NewFile:
    """A file being written from its beginning to its end, as a stream that numpy, pyarrow and tarfile write to.

    One thread; a context manager. It is not synced: the directory that it is part of will be, as a whole.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("xb")
        self._num_bytes = 0

    def __enter__(self) -> NewFile:
        return self

    def __exit__(self, *details: object) -> None:
        self.close()

    @property
    def closed(self) -> bool:
        return self._file.closed

    def write(self, data: Any) -> int:
        """Append bytes; returns how many."""
        written = _write(self._file, data)
        self._num_bytes += written
        return written

    def tell(self) -> int:
        """How many bytes were appended."""
        return self._num_bytes

    def rewrite_start(self, data: bytes) -> None:
        """Replace the first bytes by as many others (a header that counts what follows), and go on at the end."""
        self._file.seek(0)
        _write(self._file, data)
        self._file.seek(self._num_bytes)

    def flush(self) -> None:
        self._file.flush()

    def close(self) -> None:
        self._file.close()

    def readable(self) -> bool:
        return False

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return False


class FileRecord(BaseModel):
    """What a manifest promises of one file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    num_bytes: int
    sha256: str


def record_files(directory: Path, *, leave_out: str = "") -> dict[str, FileRecord]:
    """A record of every file below a directory by its relative path, but for the one named ``leave_out``."""
    return {
        file.relative_to(directory).as_posix(): FileRecord(num_bytes=file.stat().st_size, sha256=sha256_of(file))
        for file in sorted(directory.rglob("*"))
        if file.is_file() and file.name != leave_out
    }


def first_difference(directory: Path, files: Mapping[str, FileRecord]) -> str | None:
    """How the first file that is not as recorded differs, as the beginning of a sentence; None when all are."""
    for name, record in files.items():
        file = directory / name
        if not file.is_file():
            return f"{file} is missing"
        if file.stat().st_size != record.num_bytes or sha256_of(file) != record.sha256:
            return f"{file} has changed since it was written (its SHA-256 differs)"
    return None


def sha256_of(path: Path) -> str:
    """Hex SHA-256 of a file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def sync_directory(path: Path) -> None:
    """fsync a directory, so that the names in it survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        _fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_tree(root: Path) -> None:
    """fsync every file below ``root`` and every directory, innermost first."""
    for folder, _, names in os.walk(root, topdown=False):
        for name in names:
            with (Path(folder) / name).open("rb") as file:
                _fsync(file.fileno())
        sync_directory(Path(folder))


def replace_file(path: Path, data: bytes) -> None:
    """Write a small file atomically: readers see the old bytes or the new ones, never a part."""
    with storage_errors(f"write {path}"):
        temporary = path.with_name(_temporary_name(path.name))
        try:
            with temporary.open("wb") as file:
                with contextlib.suppress(OSError):
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # says that this process lives
                _write(file, data)
                file.flush()
                _fsync(file.fileno())
            _rename(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        sync_directory(path.parent)


@contextlib.contextmanager
def new_directory(final: Path) -> Iterator[Path]:
    """Yield a temporary sibling directory that becomes ``final`` when the block ends well, and vanishes otherwise.

    What a killed process leaves is found by ``remove_abandoned``.
    Raises StorageError when ``final`` exists and is not an empty directory, or when the disk refuses.
    """
    with storage_errors(f"write {final}"):
        if final.exists() and (not final.is_dir() or any(final.iterdir())):
            raise StorageError(f"{final} exists already and is not empty; choose another name or remove it.")
        final.parent.mkdir(parents=True, exist_ok=True)
        temporary = final.with_name(_temporary_name(final.name))
        temporary.mkdir()
        with _in_use(temporary):
            try:
                yield temporary
                sync_tree(temporary)
                if final.exists():
                    final.rmdir()
                _rename(temporary, final)
                sync_directory(final.parent)
            except BaseException:
                shutil.rmtree(temporary, ignore_errors=True)
                raise


def discard_directory(path: Path) -> None:
    """Remove a directory and what is below it: under its name, all of it is there or nothing.

    What a killed process leaves of it is found by ``remove_abandoned``. Raises StorageError.
    """
    with storage_errors(f"remove {path}"):
        temporary = path.with_name(_temporary_name(path.name))
        try:
            _rename(path, temporary)
        except FileNotFoundError:
            return
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(temporary)


def remove_abandoned(parent: Path, name_pattern: str) -> None:
    """Remove what processes that are gone left of writing, replacing or removing ``parent / NAME``.

    A living process holds a lock on what it writes. Where the file system has no such locks, nothing is removed.
    """
    for path in parent.glob(f".{name_pattern}.*.tmp"):
        with contextlib.suppress(OSError), path_locked(path):
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink()


@contextlib.contextmanager
def path_locked(path: Path, *, shared: bool = False) -> Iterator[None]:
    """Hold an advisory lock (flock) on a file or directory that exists; the system frees it when the process ends.

    Raises BlockingIOError when another process holds it, OSError when there is nothing at ``path``.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _in_use(directory: Path) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):
            stack.enter_context(path_locked(directory))
        yield


def _temporary_name(name: str) -> str:
    return f".{name}.{os.getpid()}-{secrets.token_hex(4)}.tmp"
