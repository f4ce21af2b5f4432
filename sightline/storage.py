"""Writing so that a crash at any instant leaves either the old state or the new one.

A directory is written under a temporary name beside its final one, every file and directory is synced, then it is
renamed; a pointer file is replaced whole. Syncing the file alone is not enough, its directory must be synced too.
Every OSError becomes a StorageError with a sentence.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

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
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_tree(root: Path) -> None:
    """fsync every file below ``root`` and every directory, innermost first."""
    for folder, _, names in os.walk(root, topdown=False):
        for name in names:
            with (Path(folder) / name).open("rb") as file:
                os.fsync(file.fileno())
        sync_directory(Path(folder))


def replace_file(path: Path, data: bytes) -> None:
    """Write a small file atomically: readers see the old bytes or the new ones, never a part."""
    with storage_errors(f"write {path}"):
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            with temporary.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        sync_directory(path.parent)


@contextlib.contextmanager
def new_directory(final: Path) -> Iterator[Path]:
    """Yield a temporary sibling directory that becomes ``final`` when the block ends well, and vanishes otherwise.

    Raises StorageError when ``final`` exists and is not an empty directory, or when the disk refuses.
    """
    with storage_errors(f"write {final}"):
        if final.exists() and (not final.is_dir() or any(final.iterdir())):
            raise StorageError(f"{final} exists already and is not empty; choose another name or remove it.")
        final.parent.mkdir(parents=True, exist_ok=True)
        temporary = final.with_name(f".{final.name}.{os.getpid()}.tmp")
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        try:
            yield temporary
            sync_tree(temporary)
            if final.exists():
                final.rmdir()
            temporary.rename(final)
            sync_directory(final.parent)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
