"""Reading one file of a source safely: regular, inside its folder, bounded, and the same before and after."""

from __future__ import annotations

import errno
import os
import stat
from dataclasses import dataclass
from pathlib import Path

from sightline.sources.record import MAX_MEMBER_BYTES

_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK  # a pipe that calls itself a picture must not stop the reader
_DETAILS = {
    "missing_file": "there is no such file",
    "not_a_file": "folders, pipes and devices are not read",
    "file_too_large": f"over {MAX_MEMBER_BYTES:,} bytes",
    "unreadable": "the file could not be read; check its permissions and the disk",
    "changed_while_read": "somebody writes into the file; run again when that is done",
    "link_outside": "the link leaves the folder",
}


@dataclass(frozen=True)
class FileContent:
    """Bytes of a file and its time of change in nanoseconds."""

    data: bytes
    mtime_ns: int


@dataclass(frozen=True)
class Unread:
    """Why a file could not be read: a stable reason code and a sentence's end."""

    reason: str

    @property
    def detail(self) -> str:
        return _DETAILS[self.reason]


def read_inside(root: Path, path: Path, *, limit_bytes: int = MAX_MEMBER_BYTES) -> FileContent | Unread:
    """Read a file below ``root`` (resolved). Folders on the way must be known to be no links; the file may be one that
    stays inside.

    A file that changes while it is read is read once more, then given up.
    """
    try:
        descriptor = os.open(path, _FLAGS | os.O_NOFOLLOW)
    except OSError as error:
        if error.errno != errno.ELOOP:
            return Unread(_reason(error))
        try:
            target = path.resolve(strict=True)
        except (OSError, RuntimeError):
            return Unread("missing_file")
        if not target.is_relative_to(root):
            return Unread("link_outside")
        try:
            descriptor = os.open(target, _FLAGS | os.O_NOFOLLOW)
        except OSError as again:
            return Unread(_reason(again))
    except ValueError:  # a NUL in the name
        return Unread("missing_file")
    try:
        return _read_twice(descriptor, limit_bytes)
    except OSError:
        return Unread("unreadable")
    finally:
        os.close(descriptor)


def _read_twice(descriptor: int, limit_bytes: int) -> FileContent | Unread:
    for _ in range(2):
        before = os.fstat(descriptor)
        if not stat.S_ISREG(before.st_mode):
            return Unread("not_a_file")
        if before.st_size > limit_bytes:
            return Unread("file_too_large")
        data = _read(descriptor, before.st_size)
        after = os.fstat(descriptor)
        if len(data) == after.st_size and before.st_mtime_ns == after.st_mtime_ns:
            return FileContent(data, after.st_mtime_ns)
    return Unread("changed_while_read")


def _read(descriptor: int, num_bytes: int) -> bytes:
    """One byte more than promised when there is one, so that a file that grew is noticed."""
    parts: list[bytes] = []
    position, end = 0, num_bytes + 1
    while position < end and (part := os.pread(descriptor, end - position, position)):
        parts.append(part)
        position += len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _reason(error: OSError) -> str:
    if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG):
        return "missing_file"
    return "not_a_file" if error.errno == errno.ENXIO else "unreadable"
