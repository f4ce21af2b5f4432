"""Captioned pictures in memory: read once, decoded once to the encoder's pixels, drawn in batches by step
number.

A batch is a pure function of (seed, step): each epoch has its own permutation of the pictures and, for each
picture, its own choice among its captions. A resumed run therefore needs nothing but the step to see what an
unbroken run sees.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sightline.errors import ImageError, SourceError
from sightline.images import ImageLimits, Pixels, PixelSpec, decode_image, to_pixels
from sightline.sources import Record, Rejected, open_source
from sightline.texts import TextLimits, fit_caption

Tokens = npt.NDArray[np.int64]
Progress = Callable[[int], None]
"""Called with the number of samples just read."""

MAX_BAD_SHARE = 0.05
"""More unusable samples than this and the data are taken for broken, not for untidy."""

_IN_FLIGHT = 256  # pictures waiting for a decoder: bounds the memory that encoded bytes take


@dataclass(frozen=True, slots=True)
class Captioned:
    """Pictures with their captions, in the order of the source.

    ``pixels`` uint8 [N, H, W, 3]; ``captions`` one or more for each picture; ``metadata`` as the source gave
    it; ``rejected`` counts what could not be used, by reason. ``digest`` is a SHA-256 over pixels and
    captions.
    """

    pixels: Pixels
    captions: tuple[tuple[str, ...], ...]
    metadata: tuple[dict[str, Any], ...]
    rejected: dict[str, int]
    digest: str

    def __len__(self) -> int:
        return len(self.captions)

    def caption_rows(self) -> npt.NDArray[np.int64]:
        """The picture's row for each caption in order, int64 [T]."""
        return np.repeat(np.arange(len(self)), [len(several) for several in self.captions])


def split_source(data: str, split: str, *, required: bool = False) -> str:
    """What to open for a split of ``data``.

    In a folder it is ``SPLIT-00000.tar`` and so on, ``NAME-SPLIT-00000.tar`` and so on, the same with ``.parquet``,
    ``SPLIT.parquet``, ``SPLIT.csv``, or the subfolder ``SPLIT``. Data without that split are taken whole, unless it is
    ``required``: then SourceError.
    """
    root = Path(data).expanduser()
    if root.is_dir():
        numbered = [f"{name}-[0-9]*.{kind}" for kind in ("tar", "parquet") for name in (split, f"*-{split}")]
        for pattern in (*numbered, f"{split}.parquet", f"{split}.csv"):
            if any(root.glob(pattern)):
                return str(root / pattern)
        if (root / split).is_dir():
            return str(root / split)
    if required:
        others = sorted({path.name.rsplit("-", 1)[0] for path in root.glob("*-[0-9]*.tar")})
        has = f"it has {', '.join(others)}" if others else "leave --split out to take all of it"
        raise SourceError(f"{data} has no split '{split}'; {has}.")
    return data


def read_captioned(
    source: str, spec: PixelSpec, *, num_threads: int = 2, progress: Progress | None = None
) -> Captioned:
    """Read and decode every captioned picture of a source (see ``sightline.sources``).

    Pictures without captions and unreadable pictures are left out and counted. Raises SourceError when
    nothing is left or when more than ``MAX_BAD_SHARE`` had to be left out.
    """
    opened = open_source(source)
    reader = _Reader(spec, ImageLimits(), TextLimits())
    pending: list[tuple[Record, Future[Pixels]]] = []
    with ThreadPoolExecutor(num_threads) as pool:
        for item in opened:
            if progress is not None:
                progress(1)
            if isinstance(item, Rejected):
                reader.rejected[item.reason] += 1
                continue
            pending.append((item, pool.submit(reader.decode, item.image)))
            if len(pending) >= _IN_FLIGHT:
                reader.take(pending)
        reader.take(pending)
    return reader.finish(source)


@dataclass(slots=True)
class _Reader:
    spec: PixelSpec
    image_limits: ImageLimits
    text_limits: TextLimits
    pixels: list[Pixels] = field(default_factory=list)
    captions: list[tuple[str, ...]] = field(default_factory=list)
    metadata: list[dict[str, Any]] = field(default_factory=list)
    rejected: Counter[str] = field(default_factory=Counter)

    def decode(self, image: bytes) -> Pixels:
        return to_pixels(decode_image(image, self.image_limits), self.spec)

    def take(self, pending: list[tuple[Record, Future[Pixels]]]) -> None:
        for record, future in pending:
            try:
                pixels = future.result()
            except ImageError as error:
                self.rejected[error.code] += 1
                continue
            captions = tuple(fit_caption(text, self.text_limits) for text in record.captions if text.strip())
            if not captions:
                self.rejected["no_caption"] += 1
                continue
            self.pixels.append(pixels)
            self.captions.append(captions)
            self.metadata.append(record.metadata)
        pending.clear()

    def finish(self, source: str) -> Captioned:
        num_bad, num_good = self.rejected.total(), len(self.captions)
        reasons = ", ".join(f"{reason} {count:,}" for reason, count in self.rejected.most_common(3))
        if not num_good:
            raise SourceError(
                f"{source} holds no captioned pictures"
                + (f" (left out: {reasons})" if num_bad else "")
                + "; give pictures with captions in .txt or .json files beside them, a captions.jsonl or a table."
            )
        if num_bad > MAX_BAD_SHARE * (num_bad + num_good):
            raise SourceError(
                f"{num_bad:,} of {num_bad + num_good:,} samples of {source} cannot be used ({reasons}); "
                "repair or remove them first."
            )
        pixels = np.stack(self.pixels)  # [N, H, W, 3]
        digest = hashlib.sha256(pixels.data)
        digest.update("\n".join("\t".join(several) for several in self.captions).encode())
        return Captioned(pixels, tuple(self.captions), tuple(self.metadata), dict(self.rejected), digest.hexdigest())


@dataclass(frozen=True, slots=True)
class Batch:
    """``pixels`` uint8 [B, H, W, 3] and ``tokens`` int64 [B, L]; row i of one belongs to row i of the
    other."""

    step: int
    epoch: int
    pixels: Pixels
    tokens: Tokens


class Batches:
    """Batches of pictures with one caption each, drawn afresh every epoch; the last, short batch is left out.

    ``tokens`` int64 [T, L] holds the captions of all pictures one after the other, ``num_captions`` says how
    many each picture has. ``group_size`` consecutive pictures always come together.
    Not thread-safe: it keeps one epoch's order.
    """

    def __init__(
        self,
        pixels: Pixels,
        tokens: Tokens,
        num_captions: Sequence[int],
        *,
        batch_size: int,
        seed: int,
        group_size: int = 1,
    ) -> None:
        if batch_size > len(pixels):
            raise SourceError(
                f"A batch of {batch_size:,} cannot be drawn from {len(pixels):,} pictures; "
                "lower batch_size in the recipe or give more data."
            )
        self.batch_size = batch_size
        self.steps_per_epoch = len(pixels) // batch_size
        self._pixels = pixels
        self._tokens = tokens
        self._first = np.concatenate([[0], np.cumsum(num_captions)])  # [N + 1]
        self._seed = seed
        self._group_size = group_size
        self._epoch = -1
        self._order = np.empty(0, np.int64)
        self._chosen = np.empty(0, np.int64)

    def at(self, step: int) -> Batch:
        """The batch of a step, counted from 0."""
        epoch, position = divmod(step, self.steps_per_epoch)
        if epoch != self._epoch:
            rng = np.random.default_rng([self._seed, epoch])
            groups = rng.permutation(len(self._pixels) // self._group_size)  # [G]
            whole = (groups[:, None] * self._group_size + np.arange(self._group_size)).ravel()  # [G * group]
            self._order = np.concatenate([whole, np.arange(len(whole), len(self._pixels))])  # [N]
            counts = np.diff(self._first)
            self._chosen = self._first[:-1] + (rng.random(len(counts)) * counts).astype(np.int64)
            self._epoch = epoch
        rows = self._order[position * self.batch_size : (position + 1) * self.batch_size]
        return Batch(step, epoch, self._pixels[rows], self._tokens[self._chosen[rows]])
