"""The regular members of a tar, forwards only and with bounded memory, whatever the archive says of itself."""

from __future__ import annotations

import contextlib
import gzip
import os
import tarfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from sightline.sources.record import MAX_MEMBER_BYTES, Rejected, printable

_GZIP_MAGIC = b"\x1f\x8b"


@dataclass(frozen=True)
class Member:
    """A member of an archive: its bytes, None when they were not wanted, or why they cannot be had."""

    name: str
    data: bytes | Rejected | None


def members(path: Path, wanted: Callable[[str], bool]) -> Iterator[Member | Rejected]:
    """Each member but folders, in order; ``wanted`` is asked for each by name just before it is read or passed over.

    A Rejected stands for the archive itself and comes last: it is broken from there on, or was changed meanwhile. A
    missing end is noticed whether it is read or not, so that positions do not depend on what is wanted. gzip is
    recognised by its bytes, not by its name. Raises nothing for what is in the archive.
    """
    place = printable(path.name)
    count = 0
    try:
        with contextlib.ExitStack() as stack:
            raw = stack.enter_context(path.open("rb"))
            before = os.fstat(raw.fileno())
            file: Any = raw
            if raw.peek(2).startswith(_GZIP_MAGIC):
                file = stack.enter_context(gzip.GzipFile(fileobj=raw))
            stream = _Forward(file)
            archive = stack.enter_context(tarfile.open(fileobj=stream, mode="r:"))  # type: ignore[call-overload]
            while (info := archive.next()) is not None:
                archive.members = []  # or the tar's whole index stays in memory
                count += 1
                if info.size < 0:
                    raise tarfile.ReadError("negative size")
                if not info.isdir():
                    name = printable(info.name)
                    yield Member(name, _content(archive, stream, info, f"{place}/{name}", wanted(name)))
            if stream.last_block.strip(b"\0") or len(stream.last_block) not in (0, tarfile.BLOCKSIZE):
                raise tarfile.ReadError("damaged header")  # tarfile takes one in the middle for the end
            after = os.fstat(raw.fileno())
            if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
                yield Rejected(
                    place, "failed", "changed_while_read", "somebody writes into the archive; run again later"
                )
    except (tarfile.TarError, OSError, EOFError, ValueError, OverflowError, zlib.error):
        yield Rejected(place, "failed", "broken_archive", f"the archive ends or breaks after {count} members")


def _content(
    archive: tarfile.TarFile, stream: _Forward, info: tarfile.TarInfo, place: str, wanted: bool
) -> bytes | Rejected | None:
    if not info.isreg():
        return Rejected(place, "skipped", "not_a_file", "links and devices in archives are not read")
    if info.size > MAX_MEMBER_BYTES:
        return Rejected(place, "skipped", "file_too_large", f"over {MAX_MEMBER_BYTES:,} bytes")
    if not wanted and not info.issparse():
        if info.size:
            stream.seek(info.offset_data + info.size - 1)
            if not stream.read(1):
                raise tarfile.ReadError("short member")
        return None
    content = archive.extractfile(info)
    data = content.read() if content is not None else b""
    if len(data) != info.size:
        raise tarfile.ReadError("short member")
    return data


class _Forward:
    """A file that is read forwards in bounded steps: a header that asks for gigabytes (a "long name", say) or for a
    place before itself breaks its archive and nothing else."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._position = 0
        self.last_block = b""

    def read(self, size: int = -1) -> bytes:
        """At most ``size`` bytes; remembers the last block, which is a header when tarfile stops."""
        if not 0 <= size <= MAX_MEMBER_BYTES + tarfile.BLOCKSIZE:
            raise tarfile.ReadError("a header asks for more than any member may have")
        data = self._file.read(size)
        self._position += len(data)
        if size == tarfile.BLOCKSIZE:
            self.last_block = data
        return data

    def seek(self, position: int) -> int:
        """Go on from a later position."""
        if position < self._position:
            raise tarfile.ReadError("a header points backwards")
        self._position = self._file.seek(position)
        return self._position

    def tell(self) -> int:
        return self._position
