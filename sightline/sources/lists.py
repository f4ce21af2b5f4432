"""What lists of pictures share: bounded lines, and finding the picture that a line names."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from sightline.sources.files import FileContent, Unread, read_inside
from sightline.sources.record import Rejected

MAX_LINE_BYTES = 2**20
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://|pipe:|data:")


def bounded_lines(file: BinaryIO) -> Iterator[tuple[int, bytes | None]]:
    """Number (from 1) and bytes of each line that is not blank; None for one over ``MAX_LINE_BYTES``, which is passed
    over in pieces."""
    number = 0
    while line := file.readline(MAX_LINE_BYTES + 1):
        number += 1
        if len(line) > MAX_LINE_BYTES:
            while not line.endswith(b"\n") and (line := file.readline(MAX_LINE_BYTES)):
                pass
            yield number, None
        elif line.strip():
            yield number, line


def named_picture(root: Path, name: str, place: str) -> FileContent | Rejected:
    """The picture that ``place`` in a list names, which must lie below ``root`` (resolved)."""
    if _ADDRESS.match(name):
        return Rejected(
            place, "failed", "address", "pictures are read from files, never from addresses; download it first"
        )
    try:
        path = (root / name).resolve()
    except (OSError, RuntimeError, ValueError):
        return Rejected(place, "failed", "missing_file", "the name cannot be that of a file")
    if PurePosixPath(name).is_absolute() or not path.is_relative_to(root):
        return Rejected(place, "failed", "path_outside", "the path leaves the folder of the list")
    found = read_inside(root, path)
    if isinstance(found, Unread):
        return Rejected(name, "failed", found.reason, f"the picture of {place}: {found.detail}")
    return found
