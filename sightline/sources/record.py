"""What every source yields: records, rejected inputs, and the promises of a source."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".bmp"})
OTHER_PICTURES = frozenset(
    {".heic", ".heif", ".avif", ".tif", ".tiff", ".svg", ".psd", ".raw", ".dng", ".cr2", ".nef", ".ico", ".jp2"}
)
MAX_MEMBER_BYTES = 64 * 2**20
"""The largest picture that is read, whether a file, a member of an archive or a cell of a table."""


@dataclass(frozen=True)
class Record:
    """One picture as it lies in the source: encoded ``image`` bytes, unchecked.

    ``uri`` is relative to the source and UTF-8; ``metadata`` is JSON-like. ``num_bytes`` and ``mtime_ns`` tell whether
    a picture or what is said of it has changed: the size of the file and its sidecars together, and the newest of
    their times (of the list's too, where one describes it). 0 is unknown: only the bytes can tell.
    """

    uri: str
    image: bytes
    captions: tuple[str, ...] = ()
    metadata: dict[str, Any] = field(default_factory=dict)
    num_bytes: int = 0
    mtime_ns: int = 0


@dataclass(frozen=True)
class Rejected:
    """An input that cannot become a record: ``outcome`` is skipped or failed, ``reason`` a stable code."""

    uri: str
    outcome: str
    reason: str
    detail: str


class Source(Protocol):
    """A finite, repeatable stream in a stable order: each Record or Rejected has a *position*, counted from 0.

    ``num_inputs`` is None where only reading would tell. ``identity`` is a hash that changes when the listing does: the
    names, sizes and times of a folder's files, or those of the archives, lists and tables themselves. One source may be
    read by several threads at once, each through its own ``read``.
    """

    num_inputs: int | None
    identity: str

    def read(self, start: int = 0, stop: int | None = None) -> Iterator[Record | Rejected]:
        """The inputs at positions ``start`` to ``stop`` (to the end when None); the pictures before are not read where
        the format permits."""
        ...

    def __iter__(self) -> Iterator[Record | Rejected]: ...


def identity_of(kind: str, paths: Iterable[Path]) -> str:
    """The identity of a source that is these files: a hash over their names, sizes and times."""
    digest = hashlib.sha256(kind.encode())
    for path in paths:
        state = path.stat()
        digest.update(b"\0" + os.fsencode(path.name) + f"\0{state.st_size}\0{state.st_mtime_ns}".encode())
    return digest.hexdigest()


def printable(name: str) -> str:
    """A file name as valid UTF-8: bytes that are none are written as ``\\xff``, so that names stay distinct."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")
