"""Every picture below a folder."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from sightline.errors import SourceError
from sightline.sources.description import MAX_SIDECAR_BYTES, describe
from sightline.sources.files import FileContent, Unread, read_inside
from sightline.sources.listing import Listed, Listing
from sightline.sources.record import IMAGE_SUFFIXES, OTHER_PICTURES, Record, Rejected, printable

Known = TypeVar("Known")


class Folder:
    """Every picture below a folder, in a stable order. ``name.txt`` (one caption a line) and ``name.json`` (captions
    and metadata) beside a picture describe it. Links that leave the folder are skipped; other files by name.

    ``listing`` keeps the order of a first walk, for runs that go on later (see ``Listing``).
    """

    def __init__(self, root: Path, listing: Path | None = None) -> None:
        self.root = root.resolve()
        self._listing = Listing(self.root, listing)
        self.num_inputs: int | None = self._listing.num_inputs
        self.identity: str = self._listing.identity
        if not self._listing.num_pictures:
            if listing is not None:
                listing.unlink(missing_ok=True)
            raise SourceError(f"The folder {root} holds no pictures (JPEG, PNG, WebP, GIF, BMP); check the path.")

    def __iter__(self) -> Iterator[Record | Rejected]:
        return self.read()

    def read(self, start: int = 0, stop: int | None = None) -> Iterator[Record | Rejected]:
        """The inputs at positions [start, stop)."""
        for listed in self._listing.read(start, stop):
            yield self._entry(listed)

    def read_unless(
        self, known: Callable[[str, int, int], Known | None], start: int = 0, stop: int | None = None
    ) -> Iterator[Record | Rejected | Known]:
        """As ``read``, but where ``known`` has something to say of a uri, its bytes and its time (those of ``Record``),
        that comes instead, and the file is not read."""
        for listed in self._listing.read(start, stop):
            found = known(printable(listed.name), listed.num_bytes, listed.mtime_ns) if listed.kind == "file" else None
            yield self._entry(listed) if found is None else found

    def _entry(self, listed: Listed) -> Record | Rejected:
        uri = printable(listed.name) or "."
        if listed.kind == "linked_folder":
            return Rejected(uri, "skipped", "link_to_folder", "linked folders are not entered; name them as a source")
        if listed.kind == "unreadable_folder":
            return Rejected(uri, "failed", "unreadable", "the folder could not be read; check its permissions")
        suffix = Path(listed.name).suffix
        if suffix.lower() not in IMAGE_SUFFIXES:
            picture = suffix.lower() in OTHER_PICTURES
            return Rejected(
                uri, "skipped", "unsupported_format" if picture else "not_an_image",
                f"{printable(suffix) or 'no'} files are not read"
                + ("; convert the picture to JPEG first" if picture else ""),
            )  # fmt: skip
        image = read_inside(self.root, self.root / listed.name)
        if isinstance(image, Unread):
            outcome = "skipped" if image.reason == "link_outside" else "failed"
            return Rejected(uri, outcome, image.reason, image.detail)
        stem = listed.name[: -len(suffix)]
        read = {
            one: read_inside(self.root, self.root / (stem + one), limit_bytes=MAX_SIDECAR_BYTES)
            for one in listed.sidecars
        }
        sidecars = {one: found for one, found in read.items() if isinstance(found, FileContent)}
        captions, metadata = describe({one: found.data for one, found in sidecars.items()})
        found = [image, *sidecars.values()]
        return Record(
            uri, image.data, captions, metadata,
            num_bytes=sum(len(one.data) for one in found), mtime_ns=max(one.mtime_ns for one in found),
        )  # fmt: skip
