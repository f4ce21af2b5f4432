"""Pictures whose class is known, for naming them: among captioned pictures, or from a source of their own, which needs
no captions."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sightline.errors import ImageError, SourceError
from sightline.images import ImageLimits, Pixels, PixelSpec, decode_image, to_pixels
from sightline.sources import Record, open_source
from training.data import MAX_BAD_SHARE, Captioned
from training.data.pixel_store import PixelStore, memory_budget
from training.evaluation.places import Rows
from training.evaluation.zero_shot import ClassesFile

_IN_FLIGHT = 256  # pictures waiting for a decoder: bounds the memory that encoded bytes take


@dataclass(frozen=True, slots=True)
class Labelled:
    """``rows`` int64 [R] of ``pixels`` uint8 [N, H, W, 3] have the classes ``labels`` int64 [R]; the ``num_left_out``
    other pictures have no known class or cannot be read."""

    pixels: Pixels
    rows: Rows
    labels: Rows
    num_left_out: int


def labelled_among(data: Captioned, classes: ClassesFile) -> Labelled:
    """The captioned pictures whose metadata name a class. Raises SourceError where none does."""
    labels = classes.labels(data.metadata)
    if not labels:
        raise _no_class(classes)
    rows = np.fromiter(labels, np.int64, len(labels))
    return Labelled(data.pixels, rows, np.fromiter(labels.values(), np.int64, len(labels)), len(data) - len(labels))


def read_labelled(
    source: str,
    spec: PixelSpec,
    classes: ClassesFile,
    *,
    num_threads: int = 2,
    folder: Path | None = None,
    progress: Callable[[int], None] | None = None,
) -> Labelled:
    """Read and decode the pictures of a source whose metadata name a class; captions are not looked at.

    With ``folder``, pixels beyond half of the free memory lie in an unnamed file there. Raises SourceError where no
    picture has a class, or where more than ``MAX_BAD_SHARE`` of those that have one cannot be read.
    """
    store = PixelStore(memory_budget(), folder)
    limits = ImageLimits()
    labels: list[int] = []
    num_unknown = num_bad = 0
    waiting: list[tuple[int, Future[Pixels]]] = []

    def decode(image: bytes) -> Pixels:
        return to_pixels(decode_image(image, limits), spec)

    def take() -> int:
        failed = 0
        for label, future in waiting:
            try:
                store.append(future.result())
            except ImageError:
                failed += 1
            else:
                labels.append(label)
        waiting.clear()
        return failed

    with ThreadPoolExecutor(num_threads) as pool:
        for item in open_source(source):
            if progress is not None:
                progress(1)
            label = classes.label_of(_metadata(item))
            if label is None or not isinstance(item, Record):
                num_unknown += 1
                continue
            waiting.append((label, pool.submit(decode, item.image)))
            if len(waiting) >= _IN_FLIGHT:
                num_bad += take()
        num_bad += take()
    if not labels and not num_bad:
        raise _no_class(classes)
    if num_bad > MAX_BAD_SHARE * (num_bad + len(labels)):
        raise SourceError(
            f"{num_bad:,} of {num_bad + len(labels):,} labelled pictures of {source} cannot be read; "
            "repair or remove them first."
        )
    return Labelled(store.finish(), np.arange(len(labels)), np.array(labels, np.int64), num_unknown + num_bad)


def _metadata(item: object) -> dict[str, Any]:
    return item.metadata if isinstance(item, Record) else {}


def _no_class(classes: ClassesFile) -> SourceError:
    return SourceError(
        f"No picture has a known class under the metadata key '{classes.label}'; "
        "name the right key as label in the classes file, and the classes as the metadata spell them."
    )
