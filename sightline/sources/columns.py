"""Which columns of a table are the picture, its captions and its metadata, and a row as a record."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sightline.errors import SourceError
from sightline.sources.description import distinct, json_like
from sightline.sources.lists import named_picture
from sightline.sources.record import MAX_MEMBER_BYTES, Record, Rejected

IMAGE_COLUMNS = ("image", "image_path", "path", "file", "file_name")
CAPTION_COLUMNS = ("captions", "caption", "text")
EMBEDDING_COLUMNS = ("embedding", "image_embedding", "text_embedding", "vector")


@dataclass(frozen=True)
class Columns:
    """The roles of a table's columns: ``image`` holds a path or bytes; ``metadata`` is all that has no other role."""

    image: str
    captions: tuple[str, ...]
    metadata: tuple[str, ...]


def choose_columns(path: Path, names: Sequence[str]) -> Columns:
    """Give each column its role, by name in any case. Raises SourceError when none can be the picture."""
    by_name = {name.strip().lower(): name for name in reversed(names)}
    image = next((by_name[name] for name in IMAGE_COLUMNS if name in by_name), None)
    if image is None:
        found = ", ".join(name[:40] for name in names[:12]) or "none at all"
        hint = (
            "; if it holds vectors, bring them in with sightline index import"
            if any(name in by_name for name in EMBEDDING_COLUMNS)
            else ""
        )
        raise SourceError(
            f"{path} has no column image, image_path, path, file or file_name (its columns: {found}); "
            f"rename the one that holds the pictures{hint}."
        )
    captions = tuple(by_name[name] for name in CAPTION_COLUMNS if name in by_name and by_name[name] != image)
    roles = {image, *captions}
    rest = tuple(
        dict.fromkeys(name for name in names if name not in roles and name.lower() not in EMBEDDING_COLUMNS and name)
    )
    return Columns(image, captions, rest)


@dataclass(frozen=True)
class TablePlace:
    """Where a table lies: ``root`` is its folder, resolved; ``listed_ns`` the table's own time of change."""

    root: Path
    name: str
    listed_ns: int

    def record(self, row: int, image: object, captions: list[Any], metadata: dict[str, Any]) -> Record | Rejected:
        """What a row (counted from 1) becomes. ``image`` is a path, bytes, or ``{"bytes": …, "path": …}`` as Hugging
        Face writes it; ``captions`` are texts or lists of texts."""
        place = f"{self.name}:{row}"
        if isinstance(image, dict):
            data, path = image.get("bytes"), image.get("path")
            if data is not None and isinstance(path, str) and path:
                metadata = {"path": path, **metadata}
            image = path if data is None else data
        texts = distinct([text for cell in captions for text in (cell if isinstance(cell, list) else [cell])])
        if isinstance(image, bytes):
            if len(image) > MAX_MEMBER_BYTES:
                return Rejected(place, "skipped", "file_too_large", f"over {MAX_MEMBER_BYTES:,} bytes")
            return Record(place, image, texts, metadata)
        if not isinstance(image, str) or not image.strip():
            return Rejected(place, "skipped", "no_image", "the row names no picture")
        found = named_picture(self.root, image, place)
        if isinstance(found, Rejected):
            return found
        newest_ns = max(found.mtime_ns, self.listed_ns)
        return Record(image, found.data, texts, metadata, num_bytes=len(found.data), mtime_ns=newest_ns)


def from_text(text: str) -> Any:
    """A CSV cell: numbers in their plain form and JSON lists are what they say, everything else is text."""
    if text.startswith("[") and text.endswith("]"):
        try:
            return json_like(json.loads(text))
        except (ValueError, RecursionError):
            return text
    for kind in (int, float):
        try:
            number = kind(text)
        except ValueError:
            continue
        if str(number) == text and math.isfinite(number):
            return number
    return text
