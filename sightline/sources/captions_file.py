"""``captions.jsonl``: one JSON object a line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from sightline.errors import SourceError
from sightline.sources.description import json_like, take_captions
from sightline.sources.lists import bounded_lines, named_picture
from sightline.sources.record import Record, Rejected, identity_of

CAPTIONS_NAME = "captions.jsonl"


class CaptionsFile:
    """``{"image": path, "captions": [...], ...metadata}`` a line; paths are relative to the file and may not leave its
    folder. ``caption`` (one string) is accepted beside ``captions``."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with path.open("rb") as file:
            self.num_inputs: int | None = sum(1 for _ in bounded_lines(file))
        if not self.num_inputs:
            raise SourceError(
                f'{path} is empty; write one JSON object a line, like {{"image": "a.jpg", "captions": ["…"]}}.'
            )
        self.identity: str = identity_of("captions", [path])

    def __iter__(self) -> Iterator[Record | Rejected]:
        return self.read()

    def read(self, start: int = 0, stop: int | None = None) -> Iterator[Record | Rejected]:
        """The lines at positions [start, stop); those before are counted, not parsed."""
        root = self.path.parent.resolve()
        listed_ns = self.path.stat().st_mtime_ns
        with self.path.open("rb") as file:
            for position, (number, line) in enumerate(bounded_lines(file)):
                if stop is not None and position >= stop:
                    return
                if position >= start:
                    yield self._record(root, f"{self.path.name}:{number}", line, listed_ns)

    def _record(self, root: Path, place: str, line: bytes | None, listed_ns: int) -> Record | Rejected:
        try:
            entry = None if line is None else json.loads(line)
        except (ValueError, RecursionError):
            entry = None
        if not isinstance(entry, dict) or not isinstance(entry.get("image"), str):
            return Rejected(place, "failed", "bad_line", "the line is not a JSON object with an image path")
        name = entry.pop("image").encode("utf-8", "replace").decode()
        image = named_picture(root, name, place)
        if isinstance(image, Rejected):
            return image
        captions = take_captions(entry)
        newest_ns = max(image.mtime_ns, listed_ns)
        return Record(name, image.data, captions, json_like(entry), num_bytes=len(image.data), mtime_ns=newest_ns)
