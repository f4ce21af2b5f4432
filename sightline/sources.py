"""Data in: captioned pictures from a folder, WebDataset tars or ``captions.jsonl``, as one stream of records.

Nothing is unpacked, unpickled or executed: archives are read as streams, only regular members count, names are never
used as paths, ``pipe:`` addresses are refused. Whatever cannot become a record becomes a ``Rejected`` with a reason
code, so that counts add up. Order is stable: the same source gives the same stream.
"""

from __future__ import annotations

import json
import os
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

from sightline.errors import SourceError

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".bmp"})
_OTHER_PICTURES = frozenset(
    {".heic", ".heif", ".avif", ".tif", ".tiff", ".svg", ".psd", ".raw", ".dng", ".cr2", ".nef", ".ico", ".jp2"}
)
_SIDECARS = frozenset({".txt", ".json"})
CAPTIONS_NAME = "captions.jsonl"
MAX_MEMBER_BYTES = 64 * 2**20
MAX_LINE_BYTES = 2**20
_BRACES = re.compile(r"\{(\d+)\.\.(\d+)\}")


@dataclass(frozen=True)
class Record:
    """One picture as it lies in the source: encoded ``image`` bytes, unchecked. ``uri`` is unique in its source and
    relative to it; ``metadata`` is JSON-like."""

    uri: str
    image: bytes
    captions: tuple[str, ...] = ()
    metadata: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Rejected:
    """An input that cannot become a record: ``outcome`` is skipped or failed, ``reason`` a stable code."""

    uri: str
    outcome: str
    reason: str
    detail: str


class Source(Protocol):
    """A finite, repeatable stream. ``num_inputs`` is None where only reading would tell."""

    num_inputs: int | None

    def __iter__(self) -> Iterator[Record | Rejected]: ...


def open_source(text: str) -> Source:
    """Open a folder, a ``captions.jsonl``, a tar, or tars by glob or ``{00000..00009}``.

    Raises SourceError with what is missing and what would be accepted.
    """
    if text.startswith("pipe:") or "://" in text:
        raise SourceError(f"'{text}' is an address; sources are local files and folders: copy or mount the data first.")
    path = Path(text).expanduser()
    if path.is_dir():
        captions = path / CAPTIONS_NAME
        if captions.is_file():
            return CaptionsFile(captions)
        tars = sorted(path.glob("*.tar"))
        return Archives(tars) if tars and not _has_images(path) else Folder(path)
    if path.is_file():
        if path.suffix == ".tar":
            return Archives([path])
        if path.suffix == ".jsonl":
            return CaptionsFile(path)
        raise SourceError(f"{path} is not a folder, a .tar or a .jsonl file; give one of these.")
    tars = _expand(text)
    if tars:
        return Archives(tars)
    raise SourceError(
        f"There is nothing at {text}; give a folder, a captions.jsonl or tars ({{00000..00009}} and globs work)."
    )


class Folder:
    """Every picture below a folder, in path order. ``name.txt`` (one caption a line) and ``name.json`` (captions and
    metadata) beside a picture describe it. Links that leave the folder are skipped; other files are skipped by name."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._names = list(_walk(root))
        self.num_inputs: int | None = sum(Path(name).suffix.lower() not in _SIDECARS for name in self._names)
        if not any(Path(name).suffix.lower() in IMAGE_SUFFIXES | _OTHER_PICTURES for name in self._names):
            raise SourceError(f"The folder {root} holds no pictures (JPEG, PNG, WebP, GIF, BMP); check the path.")

    def __iter__(self) -> Iterator[Record | Rejected]:
        present = set(self._names)
        for name in self._names:
            suffix = Path(name).suffix.lower()
            if suffix in _SIDECARS:
                continue
            if suffix not in IMAGE_SUFFIXES:
                picture = suffix in _OTHER_PICTURES
                yield Rejected(
                    name, "skipped", "unsupported_format" if picture else "not_an_image",
                    f"{suffix or 'no'} files are not read" + ("; convert the picture to JPEG first" if picture else ""),
                )  # fmt: skip
                continue
            yield self._record(name, present)

    def _record(self, name: str, present: set[str]) -> Record | Rejected:
        path = self.root / name
        if path.is_symlink() and not path.resolve().is_relative_to(self.root.resolve()):
            return Rejected(name, "skipped", "link_outside", "the link leaves the folder")
        data = _read(path)
        if isinstance(data, str):
            return Rejected(name, "failed", data, "the file could not be read")
        sidecars = [
            (suffix, self.root / (name[: -len(path.suffix)] + suffix))
            for suffix in (".txt", ".json")
            if name[: -len(path.suffix)] + suffix in present
        ]
        captions: tuple[str, ...] = ()
        metadata: dict[str, Any] = {}
        for suffix, sidecar in sidecars:
            text = _read(sidecar)
            if isinstance(text, bytes):
                more, described = _describe(suffix, text)
                captions, metadata = captions + more, metadata | described
        return Record(name, data, tuple(dict.fromkeys(captions)), metadata)


class Archives:
    """WebDataset tars: members that share a name up to the first dot of their base name form one sample."""

    def __init__(self, paths: list[Path]) -> None:
        self.paths = paths
        self.num_inputs: int | None = None
        missing = [path for path in paths if not path.is_file()]
        if missing:
            raise SourceError(f"There is no archive at {missing[0]}; check the path or the range in braces.")

    def __iter__(self) -> Iterator[Record | Rejected]:
        for path in self.paths:
            yield from self._samples(path)

    def _samples(self, path: Path) -> Iterator[Record | Rejected]:
        key: str | None = None
        sample: dict[str, bytes] = {}
        for name, data in _members(path):
            if isinstance(data, Rejected):
                yield data
                continue
            folder, _, base = name.rpartition("/")
            stem, _, extension = base.partition(".")
            this_key = f"{folder}/{stem}" if folder else stem
            if this_key != key and sample and key is not None:
                yield _sample(f"{path.name}/{key}", sample)
                sample = {}
            key = this_key
            sample["." + extension.lower()] = data
        if sample and key is not None:
            yield _sample(f"{path.name}/{key}", sample)


class CaptionsFile:
    """``captions.jsonl``: one object a line, ``{"image": path, "captions": [...], ...metadata}``; paths are relative to
    the file and may not leave its folder. ``caption`` (one string) is accepted beside ``captions``."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with path.open("rb") as file:
            self.num_inputs: int | None = sum(1 for line in file if line.strip())
        if not self.num_inputs:
            raise SourceError(
                f'{path} is empty; write one JSON object a line, like {{"image": "a.jpg", "captions": ["…"]}}.'
            )

    def __iter__(self) -> Iterator[Record | Rejected]:
        root = self.path.parent.resolve()
        with self.path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield self._record(root, f"{self.path.name}:{number}", line)

    def _record(self, root: Path, place: str, line: bytes) -> Record | Rejected:
        try:
            entry = json.loads(line) if len(line) <= MAX_LINE_BYTES else None
        except (ValueError, RecursionError):
            entry = None
        if not isinstance(entry, dict) or not isinstance(entry.get("image"), str):
            return Rejected(place, "failed", "bad_line", "the line is not a JSON object with an image path")
        name = entry.pop("image")
        path = root / name
        if PurePosixPath(name).is_absolute() or not path.resolve().is_relative_to(root):
            return Rejected(place, "failed", "path_outside", "the path leaves the folder of the list")
        data = _read(path)
        if isinstance(data, str):
            return Rejected(name, "failed", data, f"the picture of {place} could not be read")
        captions = _captions(entry)
        return Record(name, data, captions, entry)


def _walk(root: Path) -> Iterator[str]:
    for folder, folders, names in os.walk(root, followlinks=False):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if not name.startswith("."):
                yield (Path(folder) / name).relative_to(root).as_posix()


def _has_images(root: Path) -> bool:
    return any(Path(name).suffix.lower() in IMAGE_SUFFIXES for name in _walk(root))


def _read(path: Path) -> bytes | str:
    """The bytes of a regular file, or the reason code why not."""
    try:
        if not path.is_file():
            return "missing_file"
        if path.stat().st_size > MAX_MEMBER_BYTES:
            return "file_too_large"
        return path.read_bytes()
    except OSError:
        return "unreadable"


def _members(path: Path) -> Iterator[tuple[str, bytes | Rejected]]:
    """Name and bytes of each regular member, streaming; a broken archive ends with a Rejected instead of an error."""
    count = 0
    try:
        with tarfile.open(path, "r|") as archive:
            for member in archive:
                archive.members = []  # type: ignore[attr-defined]  # or the tar's whole index stays in memory
                count += 1
                name = member.name
                place = f"{path.name}/{name}"
                if member.isdir():
                    continue
                if not member.isreg():
                    yield name, Rejected(place, "skipped", "not_a_file", "links and devices in archives are not read")
                elif member.size > MAX_MEMBER_BYTES:
                    yield name, Rejected(place, "skipped", "file_too_large", f"over {MAX_MEMBER_BYTES:,} bytes")
                else:
                    content = archive.extractfile(member)
                    data = content.read() if content is not None else b""
                    if len(data) != member.size:
                        raise tarfile.ReadError("short member")
                    yield name, data
    except (tarfile.TarError, OSError, EOFError, ValueError):
        yield (
            path.name,
            Rejected(path.name, "failed", "broken_archive", f"the archive ends or breaks after {count} members"),
        )


def _sample(uri: str, sample: dict[str, bytes]) -> Record | Rejected:
    captions: tuple[str, ...] = ()
    metadata: dict[str, Any] = {}
    for suffix in (".txt", ".json"):
        if suffix in sample:
            more, described = _describe(suffix, sample[suffix])
            captions, metadata = captions + more, metadata | described
    for suffix, data in sample.items():
        if f".{suffix.rpartition('.')[2]}" in IMAGE_SUFFIXES:
            return Record(uri, data, tuple(dict.fromkeys(captions)), metadata)
    kinds = ", ".join(sorted(sample))
    if any(f".{suffix.rpartition('.')[2]}" in _OTHER_PICTURES for suffix in sample):
        return Rejected(
            uri, "skipped", "unsupported_format", f"the sample has {kinds}; convert the picture to JPEG first"
        )
    return Rejected(uri, "skipped", "no_image", f"the sample has no picture, only {kinds}")


def _describe(suffix: str, data: bytes) -> tuple[tuple[str, ...], dict[str, Any]]:
    """Captions and metadata of a sidecar; damaged ones describe nothing."""
    text = data.decode("utf-8", errors="replace")
    if suffix == ".txt":
        return tuple(line.strip() for line in text.splitlines() if line.strip()), {}
    try:
        entry = json.loads(text)
    except (ValueError, RecursionError):
        return (), {}
    if not isinstance(entry, dict):
        return (), {}
    return _captions(entry), entry


def _captions(entry: dict[str, Any]) -> tuple[str, ...]:
    """Take ``captions`` and ``caption`` out of a JSON object, in order, without repeats."""
    several, one = entry.pop("captions", []), entry.pop("caption", None)
    found = [one, *several] if isinstance(several, list) else [one, several]
    return tuple(dict.fromkeys(text.strip() for text in found if isinstance(text, str) and text.strip()))


def _expand(pattern: str) -> list[Path]:
    """The archives that a glob or a numeric brace range names; a range names its members whether they exist or not."""
    match = _BRACES.search(pattern)
    if match:
        first, last = match.groups()
        names = [
            pattern[: match.start()] + f"{number:0{len(first)}d}" + pattern[match.end() :]
            for number in range(int(first), int(last) + 1)
        ]
        return [
            path for name in names for path in (_expand(name) if _BRACES.search(name) else [Path(name).expanduser()])
        ]
    path = Path(pattern).expanduser()
    if any(sign in pattern for sign in "*?["):
        base = Path(path.anchor) if path.is_absolute() else Path()
        return sorted(base.glob(str(path.relative_to(path.anchor) if path.is_absolute() else path)))
    return []
