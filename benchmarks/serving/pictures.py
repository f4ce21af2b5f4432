"""Distinct 640x480 JPEGs and captions: from real photos where there are any, else drawn with texture.

Many and distinct, because a server that may answer from a cache is not measured. Kept in a folder, so that every
process of a run, and the next run, takes the same bytes.
"""

from __future__ import annotations

import io
import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

from sightline.sources import Record, open_source

NUM_PICTURES = 512
NUM_CAPTIONS = 4096
SIZE_PX = (640, 480)
JPEG_QUALITY = 90
PHOTOS = "photos/photos-0000.tar"

_THINGS = ("dog", "child", "bicycle", "red kite", "market stall", "wooden boat", "tabby cat", "street musician")
_DOES = ("rests", "waits", "is seen", "stands", "plays", "lies", "shines", "moves")
_PLACES = ("on a wide beach", "beside a wall", "in the snow", "under a bridge", "near tall grass", "at a crossing")
_TIMES = ("at sunset", "in the morning", "on a grey day", "after the rain", "at night", "in bright sun")


@dataclass(frozen=True)
class Pool:
    """Encoded pictures and captions, and where they come from: ``photos`` or ``drawn``."""

    pictures: tuple[bytes, ...]
    captions: tuple[str, ...]
    origin: str

    @property
    def mean_picture_bytes(self) -> int:
        return sum(map(len, self.pictures)) // len(self.pictures)


def open_pool(folder: Path, data: Path | None = None, num_pictures: int = NUM_PICTURES) -> Pool:
    """The pool in a folder, made there first when it is missing. ``data`` is the folder of real photos, if any."""
    index = folder / "pool.json"
    if not index.is_file():
        _write_pool(folder, data, num_pictures)
    described = json.loads(index.read_text(encoding="utf-8"))
    names = sorted((folder / "pictures").glob("*.jpg"))
    return Pool(tuple(name.read_bytes() for name in names), tuple(described["captions"]), described["origin"])


def write_source(pool: Pool, folder: Path, num: int = 64) -> None:
    """A small folder of captioned pictures to build the served collection from."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, (picture, caption) in enumerate(zip(pool.pictures[:num], pool.captions[:num], strict=True)):
        (folder / f"{number:04d}.jpg").write_bytes(picture)
        (folder / f"{number:04d}.txt").write_text(caption, encoding="utf-8")


def truncated(picture: bytes) -> bytes:
    """A damaged picture: its header is whole, half of its data is missing."""
    return picture[: len(picture) // 2]


def _write_pool(folder: Path, data: Path | None, num_pictures: int) -> None:
    photos = data / PHOTOS if data is not None else None
    real = photos is not None and photos.is_file()
    (folder / "pictures").mkdir(parents=True, exist_ok=True)
    pictures = _photos(str(photos)) if real else map(_draw, itertools.count())
    captions: list[str] = []
    for number, (image, words) in enumerate(pictures):
        if number < num_pictures:
            (folder / "pictures" / f"{number:04d}.jpg").write_bytes(_jpeg(image))
        captions.extend(words)
        if number + 1 >= num_pictures and (not real or len(captions) >= NUM_CAPTIONS):
            break
    distinct = list(dict.fromkeys(captions)) if real else list(_sentences())
    described = {"origin": "photos" if real else "drawn", "captions": distinct[:NUM_CAPTIONS]}
    (folder / "pool.json").write_text(json.dumps(described), encoding="utf-8")


def _photos(source: str) -> Iterator[tuple[Image.Image, tuple[str, ...]]]:
    for record in open_source(source):
        if isinstance(record, Record):
            with Image.open(io.BytesIO(record.image)) as image:
                yield image.convert("RGB"), record.captions


def _draw(seed: int) -> tuple[Image.Image, tuple[str, ...]]:
    """Smooth colour fields, edges and fine grain: JPEG finds about as much to code as in a photo."""
    random = np.random.default_rng(seed)
    picture = np.zeros((SIZE_PX[1], SIZE_PX[0], 3), np.float32)  # [H, W, 3]
    for cells, weight in ((4, 1.0), (16, 0.5), (64, 0.25)):
        coarse = Image.fromarray(random.integers(0, 256, (cells * 3 // 4, cells, 3), dtype=np.uint8))
        picture += weight * np.asarray(coarse.resize(SIZE_PX, Image.Resampling.BICUBIC), np.float32)
    picture = picture / 1.75 + random.normal(0, 6, picture.shape).astype(np.float32)
    image = Image.fromarray(np.clip(picture, 0, 255).astype(np.uint8))
    return image.filter(ImageFilter.SMOOTH), ()


def _jpeg(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.resize(SIZE_PX, Image.Resampling.LANCZOS).save(buffer, "JPEG", quality=JPEG_QUALITY)
    return buffer.getvalue()


def _sentences() -> Iterator[str]:
    for number, (thing, does, place, time) in enumerate(itertools.product(_THINGS, _DOES, _PLACES, _TIMES)):
        yield f"a {thing} {does} {place} {time}"
        yield f"photo {number}: {thing} that {does} {time} {place}"
