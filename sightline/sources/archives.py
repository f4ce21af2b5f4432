"""WebDataset tars: members that share a name up to the first dot of their base name form one sample."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from sightline.errors import SourceError
from sightline.sources.description import SIDECARS, describe
from sightline.sources.record import IMAGE_SUFFIXES, OTHER_PICTURES, Record, Rejected, identity_of, printable
from sightline.sources.tar_members import Member, members

_MAX_KINDS = 16
"""Suffixes of a sample that are remembered for its ledger line."""


class Archives:
    """Samples of several archives, one after the other. Nothing is unpacked and names are never used as paths."""

    num_inputs: int | None = None

    def __init__(self, paths: list[Path]) -> None:
        self.paths = paths
        missing = [path for path in paths if not path.is_file()]
        if missing:
            raise SourceError(f"There is no archive at {missing[0]}; check the path or the range in braces.")
        self.identity: str = identity_of("archives", paths)

    def __iter__(self) -> Iterator[Record | Rejected]:
        return self.read()

    def read(self, start: int = 0, stop: int | None = None) -> Iterator[Record | Rejected]:
        """The samples at positions [start, stop); of those before only the headers are read."""
        position = 0
        for path in self.paths:
            for entry in self._samples(path, start - position):
                if stop is not None and position >= stop:
                    return
                if entry is not None:
                    yield entry
                position += 1

    def _samples(self, path: Path, num_skipped: int) -> Iterator[Record | Rejected | None]:
        """What becomes of each sample of an archive; None for the first ``num_skipped``, whose members are not read."""
        place = printable(path.name)
        sample: _Sample | None = None
        position = 0

        def wanted(name: str) -> bool:
            first_of_next = sample is None or sample.key != _key(name)
            belongs_to = position + (first_of_next and sample is not None)
            return belongs_to >= num_skipped and (first_of_next or sample is None or sample.wants(name))

        for member in members(path, wanted):
            key = None if isinstance(member, Rejected) else _key(member.name)
            if sample is not None and sample.key != key:
                yield None if position < num_skipped else sample.finish()
                position += 1
                sample = None
            if isinstance(member, Rejected):
                yield None if position < num_skipped else member
                return
            if sample is None:
                assert key is not None
                sample = _Sample(place, key)
            sample.add(member)
        if sample is not None:
            yield None if position < num_skipped else sample.finish()


class _Sample:
    """One sample as its members come in: the first picture, the first sidecar of each kind, nothing else."""

    def __init__(self, place: str, key: str) -> None:
        self.key = key
        self.uri = f"{place}/{key}"
        self._image: bytes | None = None
        self._sidecars: dict[str, bytes] = {}
        self._kinds: set[str] = set()
        self._rejected: Rejected | None = None

    def wants(self, name: str) -> bool:
        """Whether this member's bytes would be used."""
        suffix = _last_suffix(_kind(name))
        if suffix in IMAGE_SUFFIXES:
            return self._image is None
        kind = _kind(name)
        return kind in SIDECARS and kind not in self._sidecars

    def add(self, member: Member) -> None:
        """Take a member of this sample."""
        kind = _kind(member.name)
        if len(self._kinds) < _MAX_KINDS:
            self._kinds.add(kind)
        if isinstance(member.data, Rejected):
            self._rejected = self._rejected or member.data
        elif member.data is not None and self.wants(member.name):
            if kind in SIDECARS:
                self._sidecars[kind] = member.data
            else:
                self._image = member.data

    def finish(self) -> Record | Rejected:
        """The record, or why there is none."""
        if self._image is not None:
            return Record(self.uri, self._image, *describe(self._sidecars))
        if self._rejected is not None:
            return self._rejected
        kinds = ", ".join(sorted(self._kinds))
        if any(_last_suffix(kind) in OTHER_PICTURES for kind in self._kinds):
            return Rejected(
                self.uri, "skipped", "unsupported_format", f"the sample has {kinds}; convert the picture to JPEG first"
            )
        return Rejected(self.uri, "skipped", "no_image", f"the sample has no picture, only {kinds}")


def _key(name: str) -> str:
    folder, _, base = name.rpartition("/")
    stem = base.partition(".")[0]
    return f"{folder}/{stem}" if folder else stem


def _kind(name: str) -> str:
    """All of a name behind its first dot: ``.seg.png``."""
    return "." + name.rpartition("/")[2].partition(".")[2].lower()


def _last_suffix(kind: str) -> str:
    return "." + kind.rpartition(".")[2]
