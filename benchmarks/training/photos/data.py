"""The photos as the peer wants them: files on disk with a table of (path, caption), or tars of single pairs.

``sightline train`` reads the data as they come. What is made here is made once and not timed.
"""

from __future__ import annotations

import csv
import io
import random
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from sightline.sources import Record, open_source
from training.data import split_source

TRAIN, HELD_OUT = "train", "dev"
NUM_TARS = 8


@dataclass(frozen=True)
class Photos:
    """Where the captioned photos lie as files: one ``(path, caption)`` for each caption, in the source's order."""

    pairs: tuple[tuple[Path, str], ...]
    num_pictures: int

    def table_of(self, num_rows: int, seed: int) -> list[tuple[Path, str]]:
        """Exactly ``num_rows`` pairs: all of them as often as they fit, and a random part once more.

        So an epoch of the peer's table can be made to end with the clock, and no pair is left out for it.
        """
        whole, rest = divmod(num_rows, len(self.pairs))
        chosen = sorted(random.Random(seed).sample(range(len(self.pairs)), rest))
        return [*self.pairs * whole, *(self.pairs[row] for row in chosen)]


def unpack(data: str, folder: Path) -> Photos:
    """Write every training picture as a file below ``folder``, its bytes unchanged, unless they are there."""
    pairs: list[tuple[Path, str]] = []
    folder.mkdir(parents=True, exist_ok=True)
    number = 0
    for record in _records(data):
        path = folder / f"{number:06d}.jpg"
        if not path.is_file():
            path.write_bytes(record.image)
        pairs += [(path, " ".join(caption.split())) for caption in record.captions if caption.strip()]
        number += 1
    return Photos(tuple(pairs), number)


def write_table(pairs: Sequence[tuple[Path, str]], path: Path) -> None:
    """The peer's CSV: tab-separated, with the columns that it looks for."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, delimiter="\t", lineterminator="\n")
        writer.writerow(["filepath", "title"])
        writer.writerows((str(picture), caption) for picture, caption in pairs)


def write_tars(pairs: Sequence[tuple[Path, str]], folder: Path, seed: int) -> str:
    """The peer's other format: every pair a sample of its own, shuffled over ``NUM_TARS`` tars. Gives their pattern."""
    folder.mkdir(parents=True, exist_ok=True)
    order = random.Random(seed).sample(range(len(pairs)), len(pairs))
    for number in range(NUM_TARS):
        with tarfile.open(folder / f"{number:05d}.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
            for row in order[number::NUM_TARS]:
                picture, caption = pairs[row]
                _add(tar, f"{row:07d}.jpg", picture.read_bytes())
                _add(tar, f"{row:07d}.txt", caption.encode())
    return f"{folder}/{{00000..{NUM_TARS - 1:05d}}}.tar"


def _records(data: str) -> Iterator[Record]:
    for item in open_source(split_source(data, TRAIN)):
        if isinstance(item, Record) and any(caption.strip() for caption in item.captions):
            yield item


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))
