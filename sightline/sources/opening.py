"""From what a user types to a source."""

from __future__ import annotations

import re
from pathlib import Path

from sightline.errors import SourceError
from sightline.sources.archives import Archives
from sightline.sources.captions_file import CAPTIONS_NAME, CaptionsFile
from sightline.sources.folder import Folder
from sightline.sources.listing import holds_pictures
from sightline.sources.record import Source
from sightline.sources.tables import TABLE_SUFFIXES, Tables

ARCHIVE_SUFFIXES = (".tar", ".tar.gz", ".tgz")
MAX_RANGE = 1_000_000
_BRACES = re.compile(r"\{(\d+)\.\.(\d+)\}")


def open_source(text: str, *, listing: Path | None = None) -> Source:
    """Open a folder, a ``captions.jsonl``, CSV and Parquet tables, or tars; several of a kind by glob or
    ``{00000..00009}``.

    ``listing``: the file that keeps a folder's order for runs that go on later; one that is there is used as it is.
    Raises SourceError with what is missing and what would be accepted.
    """
    if text.startswith("pipe:") or "://" in text:
        raise SourceError(f"'{text}' is an address; sources are local files and folders: copy or mount the data first.")
    path = Path(text).expanduser()
    if "\0" in text:
        raise SourceError("The source's name holds a NUL; give a folder, a captions.jsonl or tars.")
    if path.is_dir():
        return _open_folder(path, listing)
    if path.is_file():
        if path.suffix.lower() == ".jsonl":
            return CaptionsFile(path)
        return _open_files([path])
    paths = _expand(text)
    if paths:
        return _open_files(paths)
    raise SourceError(
        f"There is nothing at {text}; give a folder, a captions.jsonl, a CSV or Parquet table, or tars "
        "({00000..00009} and globs work)."
    )


def _open_files(paths: list[Path]) -> Source:
    if all(path.name.lower().endswith(ARCHIVE_SUFFIXES) for path in paths):
        return Archives(paths)
    if all(path.suffix.lower() in TABLE_SUFFIXES for path in paths):
        missing = [path for path in paths if not path.is_file()]
        if missing:
            raise SourceError(f"There is no table at {missing[0]}; check the path or the range in braces.")
        return Tables(paths)
    raise SourceError(
        f"{paths[0]} is not a folder, a .tar, a .jsonl, a .csv or a .parquet file; give one of these, and several of "
        "one kind."
    )


def _open_folder(path: Path, listing: Path | None) -> Source:
    captions = path / CAPTIONS_NAME
    if captions.is_file():
        return CaptionsFile(captions)
    if (path / "img_emb").is_dir():
        raise SourceError(f"{path} holds vectors (img_emb), not pictures; bring them in with: sightline index import.")
    for suffixes in (ARCHIVE_SUFFIXES, TABLE_SUFFIXES):
        found = sorted(one for one in path.iterdir() if one.name.lower().endswith(suffixes) and one.is_file())
        if found and not holds_pictures(path):
            return _open_files(found)
    return Folder(path, listing)


def _expand(pattern: str) -> list[Path]:
    """The files that a glob or a numeric brace range names; a range names its members whether they exist or not."""
    match = _BRACES.search(pattern)
    if match:
        first, last = match.groups()
        if int(last) - int(first) > MAX_RANGE:
            raise SourceError(f"The range {match[0]} names more than {MAX_RANGE:,} files; give a smaller one.")
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
