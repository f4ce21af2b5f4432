"""From a source to captioned pictures: read once, decoded once to the encoder's pixels."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sightline.errors import ImageError, SourceError
from sightline.images import ImageLimits, Pixels, PixelSpec, decode_image, to_pixels
from sightline.sources import Record, Rejected, open_source
from sightline.texts import TextLimits, fit_caption
from training.data.captioned import Captioned
from training.data.pixel_store import PixelStore, memory_budget

Progress = Callable[[int], None]
"""Called with the number of samples just read."""

MAX_BAD_SHARE = 0.05
"""More unusable samples than this and the data are taken for broken, not for untidy."""

_IN_FLIGHT = 256  # pictures waiting for a decoder: bounds the memory that encoded bytes take


def split_source(data: str, split: str, *, required: bool = False) -> str:
    """What to open for a split of ``data``.

    In a folder it is ``SPLIT-00000.tar`` and so on, ``NAME-SPLIT-00000.tar`` and so on, the same with ``.parquet``,
    ``SPLIT.parquet``, ``SPLIT.csv``, ``SPLIT.jsonl``, or the subfolder ``SPLIT``. Data without that split are taken
    whole, unless it is ``required``: then SourceError.
    """
    root = Path(data).expanduser()
    if root.is_dir():
        numbered = [f"{name}-[0-9]*.{kind}" for kind in ("tar", "parquet") for name in (split, f"*-{split}")]
        for pattern in (*numbered, f"{split}.parquet", f"{split}.csv", f"{split}.jsonl"):
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
    source: str,
    spec: PixelSpec,
    *,
    num_threads: int = 2,
    progress: Progress | None = None,
    folder: Path | None = None,
    budget_bytes: int | None = None,
    path: Path | None = None,
) -> Captioned:
    """Read and decode every captioned picture of a source (see ``sightline.sources``).

    Pictures without captions and unreadable pictures are left out and counted. With ``folder`` (which must exist),
    pixels beyond ``budget_bytes`` (by default half of the free memory) lie in an unnamed file there; with ``path`` all
    of them lie in that new file, which the caller removes, also after an error. The result is the same, its digest too.

    Raises SourceError when nothing is left or when more than ``MAX_BAD_SHARE`` had to be left out, StorageError when
    the file cannot be written.
    """
    opened = open_source(source)
    store = PixelStore(memory_budget() if budget_bytes is None else budget_bytes, folder, path)
    reader = _Reader(spec, ImageLimits(), TextLimits(), store)
    pending: list[tuple[Record, Future[Pixels]]] = []
    with ThreadPoolExecutor(num_threads) as pool:
        for item in opened:
            if progress is not None:
                progress(1)
            if isinstance(item, Rejected):
                reader.reject(item.reason, item.uri)
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
    pixels: PixelStore
    captions: list[tuple[str, ...]] = field(default_factory=list)
    metadata: list[dict[str, Any]] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    rejected: Counter[str] = field(default_factory=Counter)
    first_rejected: dict[str, str] = field(default_factory=dict)

    def decode(self, image: bytes) -> Pixels:
        return to_pixels(decode_image(image, self.image_limits), self.spec)

    def reject(self, reason: str, name: str) -> None:
        self.rejected[reason] += 1
        self.first_rejected.setdefault(reason, name)

    def take(self, pending: list[tuple[Record, Future[Pixels]]]) -> None:
        for record, future in pending:
            try:
                pixels = future.result()
            except ImageError as error:
                self.reject(error.code, record.uri)
                continue
            captions = tuple(fit_caption(text, self.text_limits) for text in record.captions if text.strip())
            if not captions:
                self.reject("no_caption", record.uri)
                continue
            self.pixels.append(pixels)
            self.captions.append(captions)
            self.metadata.append(record.metadata)
            self.names.append(record.uri)
        pending.clear()

    def finish(self, source: str) -> Captioned:
        num_bad, num_good = self.rejected.total(), len(self.captions)
        reasons = ", ".join(
            f"{reason} {count:,}, the first {self.first_rejected[reason]}"
            for reason, count in self.rejected.most_common(3)
        )
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
        pixels = self.pixels.finish()  # [N, H, W, 3]
        digest = hashlib.sha256(pixels.data)
        digest.update("\n".join("\t".join(several) for several in self.captions).encode())
        return Captioned(
            pixels,
            tuple(self.captions),
            tuple(self.metadata),
            dict(self.rejected),
            digest.hexdigest(),
            tuple(self.names),
            self.first_rejected,
        )
