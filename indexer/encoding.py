"""Encoding one chunk: batches are formed in order from what is accepted, and never cross the chunk.

So the vectors of a chunk depend on its inputs and on the batch size alone: not on where a run was interrupted, not on
the machine or the number of workers.
"""

from __future__ import annotations

import collections
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from indexer.decode import Decoded
from indexer.reading import Placed
from indexer.stages import StageClock
from sightline.collection import NewItem
from sightline.errors import TextError
from sightline.sources import Rejected
from sightline.texts import TextLimits, fit_caption

if TYPE_CHECKING:
    from sightline.encoder import Encoder

ITEM_ID_DIGITS = 24
"""Hex digits of the content hash in an item id: 96 bits, so that a billion pictures collide with odds of 1e-11."""

CHUNK_INPUTS = 4096
"""Positions in a chunk: the unit that is encoded on one machine."""

Vectors = npt.NDArray[np.float16]


@dataclass(frozen=True)
class EncodedItem:
    """A picture at its position, its vectors as they are stored."""

    position: int
    item: NewItem


@dataclass(frozen=True)
class LeftOut:
    """An input that is not indexed. A duplicate may bring ``captions`` that the first copy in its chunk (``first``, its
    SHA-256) lacks; their ``vectors`` are float16 ``[C, D]``."""

    position: int
    rejected: Rejected
    first: str = ""
    captions: tuple[str, ...] = ()
    vectors: Vectors | None = None


@dataclass(frozen=True)
class EncodedBatch:
    """What positions [start, stop) of a chunk became. ``captions_skipped`` counts captions of it by reason.

    ``closes_chunk``: nothing of this chunk follows; ``ends_source``: the source has no input at ``stop``."""

    start: int
    stop: int
    items: tuple[EncodedItem, ...] = ()
    left_out: tuple[LeftOut, ...] = ()
    captions_skipped: dict[str, int] = field(default_factory=dict)
    closes_chunk: bool = False
    ends_source: bool = False


@dataclass
class ChunkMemory:
    """Pictures of a chunk so far: the uri and the captions of each by SHA-256."""

    uris: dict[str, str] = field(default_factory=dict)
    captions: dict[str, set[str]] = field(default_factory=dict)

    def add(self, sha256: str, uri: str, captions: tuple[str, ...]) -> None:
        """A first copy, or more captions of one."""
        self.uris.setdefault(sha256, uri)
        self.captions.setdefault(sha256, set()).update(captions)


Pairs = list[tuple[str, str]]
"""Captions, each with the form that the tokenizer gets."""


@dataclass(frozen=True)
class FormedBatch:
    """What positions [start, stop) of a chunk hold, to be encoded together. ``late``: duplicates that bring captions,
    each with the SHA-256 of the first copy."""

    start: int
    stop: int
    accepted: list[tuple[int, Decoded, Pairs]]
    left_out: list[LeftOut]
    late: list[tuple[int, Rejected, str, Pairs]]
    captions_skipped: dict[str, int]
    closes_chunk: bool
    ends_source: bool


class ChunkBatches:
    """Takes the inputs of one chunk in order and gives a batch whenever one is full. One thread."""

    def __init__(self, batch_size: int, text_limits: TextLimits, start: int, memory: ChunkMemory) -> None:
        self._batch_size = batch_size
        self._text_limits = text_limits
        self._memory = memory
        self._start = start
        self._clear()

    def add(self, placed: Placed) -> FormedBatch | None:
        """Take the next input; the batch that it fills, if it does."""
        entry = placed.entry
        if isinstance(entry, Rejected):
            self._left_out.append(LeftOut(placed.position, entry))
        elif entry.sha256 in self._memory.uris:
            self._add_duplicate(placed.position, entry)
        else:
            captions = self._fitted(entry.record.captions)
            self._memory.add(entry.sha256, entry.record.uri, tuple(caption for caption, _ in captions))
            self._accepted.append((placed.position, entry, captions))
            self._num_to_encode += entry.pixels is not None
            if self._num_to_encode == self._batch_size or len(self._accepted) >= 16 * self._batch_size:
                return self._formed(placed.position + 1)
        return None

    def finish(self, stop: int, *, ends_source: bool = False) -> FormedBatch:
        """What is left of the chunk, which ends at ``stop``."""
        return self._formed(stop, closes_chunk=True, ends_source=ends_source)

    def _clear(self) -> None:
        self._accepted: list[tuple[int, Decoded, Pairs]] = []
        self._left_out: list[LeftOut] = []
        self._late: list[tuple[int, Rejected, str, Pairs]] = []
        self._skipped: collections.Counter[str] = collections.Counter()
        self._num_to_encode = 0

    def _formed(self, stop: int, *, closes_chunk: bool = False, ends_source: bool = False) -> FormedBatch:
        formed = FormedBatch(
            self._start,
            stop,
            self._accepted,
            self._left_out,
            self._late,
            dict(self._skipped),
            closes_chunk,
            ends_source,
        )
        self._start = stop
        self._clear()
        return formed

    def _add_duplicate(self, position: int, entry: Decoded) -> None:
        first = self._memory.uris[entry.sha256]
        rejected = Rejected(entry.record.uri, "duplicate", "same_bytes", f"the same file as {first}")
        fitted = self._fitted(entry.record.captions)
        late = [pair for pair in fitted if pair[0] not in self._memory.captions[entry.sha256]]
        self._skip("caption_of_duplicate", len(fitted) - len(late))
        self._memory.add(entry.sha256, first, tuple(caption for caption, _ in late))
        if late:
            self._late.append((position, rejected, entry.sha256, late))
        else:
            self._left_out.append(LeftOut(position, rejected))

    def _fitted(self, captions: tuple[str, ...]) -> Pairs:
        """The usable captions."""
        pairs: Pairs = []
        for caption in captions:
            try:
                pairs.append((caption, fit_caption(caption, self._text_limits)))
            except TextError:
                continue
        self._skip("caption_empty", len(captions) - len(pairs))
        return pairs

    def _skip(self, reason: str, count: int) -> None:
        if count:
            self._skipped[reason] += count


class BatchEncoder:
    """Encodes batches; thread-safe if the encoder is.

    ``known_caption`` gives the float16 vector ``[D]`` of a caption of a picture (by its SHA-256) that need not be
    encoded again.
    """

    def __init__(
        self,
        encoder: Encoder,
        batch_size: int,
        clock: StageClock,
        known_caption: Callable[[str, str], Vectors | None] = lambda sha256, caption: None,
    ) -> None:
        self._encoder = encoder
        self._batch_size = batch_size
        self._clock = clock
        self._known_caption = known_caption

    def encode(self, batch: FormedBatch) -> EncodedBatch:
        """Pictures, then captions. Raises EncodingFailed."""
        vectors = self._image_vectors([entry for _, entry, _ in batch.accepted])
        texts = [(entry.sha256, *pair) for _, entry, captions in batch.accepted for pair in captions]
        texts += [(sha256, *pair) for *_, sha256, captions in batch.late for pair in captions]
        text_vectors = self._text_vectors(texts)  # [T, D]
        items, left_out = [], list(batch.left_out)
        first = 0
        for (position, entry, captions), vector in zip(batch.accepted, vectors, strict=True):
            own = text_vectors[first : first + len(captions)]  # [C, D]
            first += len(captions)
            items.append(EncodedItem(position, _item(entry, vector, captions, own)))
        for position, rejected, sha256, captions in batch.late:
            own = text_vectors[first : first + len(captions)]  # [C, D]
            first += len(captions)
            left_out.append(LeftOut(position, rejected, sha256, tuple(caption for caption, _ in captions), own))
        left_out.sort(key=lambda one: one.position)
        return EncodedBatch(
            batch.start, batch.stop, tuple(items), tuple(left_out), batch.captions_skipped, batch.closes_chunk,
            batch.ends_source,
        )  # fmt: skip

    def _image_vectors(self, entries: list[Decoded]) -> list[Vectors]:
        """A float16 ``[D]`` for each picture; those that are known are not encoded."""
        pixels = [entry.pixels for entry in entries if entry.pixels is not None]
        encoded: Iterator[Vectors] = iter(())
        if pixels:
            with self._clock.measure("encode_images"):
                encoded = iter(self._encoder.encode_pixels(np.stack(pixels)).astype(np.float16))  # [B, D]
        return [next(encoded) if entry.known is None else entry.known for entry in entries]

    def _text_vectors(self, texts: list[tuple[str, str, str]]) -> Vectors:
        """float16 ``[T, D]`` of (picture, caption, fitted caption); known ones are taken as they are."""
        known = [self._known_caption(sha256, caption) for sha256, caption, _ in texts]
        new = [fitted for (*_, fitted), vector in zip(texts, known, strict=True) if vector is None]
        size = 4 * self._batch_size
        encoded: list[Vectors] = []
        with self._clock.measure("encode_texts"):
            for start in range(0, len(new), size):
                encoded.extend(self._encoder.encode_texts(new[start : start + size]).astype(np.float16))
        fresh = iter(encoded)
        rows = [next(fresh) if vector is None else vector for vector in known]
        return np.stack(rows) if rows else np.zeros((0, self._encoder.dim), np.float16)


def _item(entry: Decoded, vector: Vectors, captions: list[tuple[str, str]], caption_vectors: Vectors) -> NewItem:
    record = entry.record
    return NewItem(
        item_id=entry.sha256[:ITEM_ID_DIGITS],
        uri=record.uri,
        sha256=entry.sha256,
        width_px=entry.width_px,
        height_px=entry.height_px,
        vector=vector,
        captions=tuple(caption for caption, _ in captions),
        caption_vectors=caption_vectors,
        metadata=record.metadata,
        thumbnail=entry.thumbnail,
        num_bytes=record.num_bytes,
        mtime_ns=record.mtime_ns,
    )
