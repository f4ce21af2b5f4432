"""Building a generation: reader → decode pool → encoder → writer, streaming, one pass over the source.

Memory holds a few batches of decoded pictures and the open shard, whatever the size of the source. The vectors of a
picture and of its captions are written together. Exact duplicates (same bytes) are indexed once; the captions of a
later copy are counted as skipped.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from indexer.decode import Decoded, DecodeSpec, decode_ahead
from indexer.ledger import Ledger
from indexer.recall import MAX_SAMPLE_ROWS, measure_recall
from sightline.collection import CollectionManifest, EncoderRecord, GenerationWriter, NewItem
from sightline.encoder import Encoder
from sightline.errors import SourceError, TextError, TooManyFailures
from sightline.images import ImageLimits
from sightline.sources import Rejected, Source
from sightline.texts import TextLimits, fit_caption

ITEM_ID_DIGITS = 24
"""Hex digits of the content hash in an item id: 96 bits, so that a billion pictures collide with odds of 1e-11."""


@dataclass(frozen=True)
class BuildOptions:
    """``thumbnail_px`` is the longer side of thumbnails (0: none); ``max_error_rate`` a share of pictures, 0 to 1."""

    batch_size: int = 32
    num_decode_threads: int = 0
    thumbnail_px: int = 256
    max_error_rate: float = 0.05
    image_limits: ImageLimits = field(default_factory=ImageLimits)
    text_limits: TextLimits = field(default_factory=TextLimits)


@dataclass(frozen=True)
class BuildReport:
    """What was built, and where the time went: seconds the encoder ran and seconds it waited for pictures."""

    manifest: CollectionManifest
    seconds: float
    encode_images_seconds: float
    encode_texts_seconds: float
    wait_seconds: float
    failure: TooManyFailures | None


def build_collection(
    encoder: Encoder,
    encoder_spec: str,
    source: Source,
    source_name: str,
    out: Path,
    options: BuildOptions,
    advance: Callable[[int], None] = lambda steps: None,
) -> BuildReport:
    """Encode a source into a new generation of the collection at ``out`` and make it current.

    ``advance`` is called with the number of inputs finished. Nothing is published when an error ends the run.
    Raises StorageError, EncodingFailed, or SourceError when not one picture could be indexed.
    """
    started = time.monotonic()
    ledger = Ledger(options.max_error_rate)
    worker = _Worker(encoder, ledger, options)
    with GenerationWriter(out, _encoder_record(encoder, encoder_spec)) as writer:
        threads = options.num_decode_threads or os.cpu_count() or 1
        spec = DecodeSpec(encoder.identity.pixels, options.image_limits, options.thumbnail_px)
        with ThreadPoolExecutor(threads, thread_name_prefix="decode") as pool:
            stream = decode_ahead(source, spec, pool, ahead=4 * options.batch_size)
            for batch in _batches(worker.accepted(stream, writer, advance), options.batch_size):
                for item in worker.encode(batch):
                    writer.add(item)
                advance(len(batch))
        counts = ledger.counts()
        if not counts.indexed:
            reasons = ", ".join(f"{reason} {count}" for reason, count in counts.reasons.items())
            raise SourceError(
                f"None of the {counts.seen} inputs of {source_name} is a usable picture ({reasons}); check the source."
            )
        manifest = writer.publish(
            counts, source=source_name, index={"kind": "exact", "dtype": "float16", **worker.recall()}
        )
    return BuildReport(
        manifest,
        time.monotonic() - started,
        worker.image_seconds,
        worker.text_seconds,
        worker.wait_seconds,
        ledger.too_many_failures(),
    )


class _Worker:
    """The encoder's side of the pipeline and its clock."""

    def __init__(self, encoder: Encoder, ledger: Ledger, options: BuildOptions) -> None:
        self.encoder = encoder
        self.ledger = ledger
        self.options = options
        self.image_seconds = self.text_seconds = self.wait_seconds = 0.0
        self._seen: dict[str, str] = {}
        self._sample: list[tuple[np.ndarray[Any, Any], np.ndarray[Any, Any] | None]] = []

    def accepted(
        self, stream: Iterable[Decoded | Rejected], writer: GenerationWriter, advance: Callable[[int], None]
    ) -> Iterator[Decoded]:
        """Pass on what is to be encoded; account for everything else."""
        waiting_since = time.monotonic()
        for entry in stream:
            self.wait_seconds += time.monotonic() - waiting_since
            rejected = entry if isinstance(entry, Rejected) else self._duplicate(entry)
            if rejected is None:
                assert isinstance(entry, Decoded)
                yield entry
            else:
                writer.reject(rejected.uri, rejected.outcome, rejected.reason, rejected.detail)
                self.ledger.rejected(rejected.outcome, rejected.reason)
                advance(1)
            waiting_since = time.monotonic()

    def _duplicate(self, entry: Decoded) -> Rejected | None:
        first = self._seen.setdefault(entry.sha256, entry.record.uri)
        if first == entry.record.uri:
            return None
        self.ledger.captions(0, len(entry.record.captions), "caption_of_duplicate")
        return Rejected(entry.record.uri, "duplicate", "same_bytes", f"the same file as {first}")

    def encode(self, batch: list[Decoded]) -> Iterator[NewItem]:
        """Encode a batch of pictures and their captions."""
        started = time.monotonic()
        vectors = self.encoder.encode_pixels(np.stack([entry.pixels for entry in batch]))  # [B, D]
        self.image_seconds += time.monotonic() - started
        captions = [self._captions(entry.record.captions) for entry in batch]
        texts = [fitted for pairs in captions for _, fitted in pairs]
        started = time.monotonic()
        text_vectors = self._encode_texts(texts)  # [T, D]
        self.text_seconds += time.monotonic() - started
        first = 0
        for entry, vector, pairs in zip(batch, vectors, captions, strict=True):
            own = text_vectors[first : first + len(pairs)]  # [C, D]
            first += len(pairs)
            self.ledger.indexed()
            if len(self._sample) < MAX_SAMPLE_ROWS:
                self._sample.append((vector, own[0] if len(own) else None))
            yield NewItem(
                item_id=entry.sha256[:ITEM_ID_DIGITS],
                uri=entry.record.uri,
                sha256=entry.sha256,
                width_px=entry.width_px,
                height_px=entry.height_px,
                vector=vector,
                captions=tuple(caption for caption, _ in pairs),
                caption_vectors=own,
                metadata=entry.record.metadata,
                thumbnail=entry.thumbnail,
            )

    def recall(self) -> dict[str, Any]:
        """Recall of the stored half-precision vectors against float32, by kind of query."""
        return measure_recall(self._sample)

    def _captions(self, captions: tuple[str, ...]) -> list[tuple[str, str]]:
        """Each usable caption with the form that the tokenizer gets."""
        pairs = []
        for caption in captions:
            try:
                pairs.append((caption, fit_caption(caption, self.options.text_limits)))
            except TextError:
                continue
        self.ledger.captions(len(pairs), len(captions) - len(pairs))
        return pairs

    def _encode_texts(self, texts: list[str]) -> np.ndarray[Any, Any]:
        size = 4 * self.options.batch_size
        chunks = [self.encoder.encode_texts(texts[start : start + size]) for start in range(0, len(texts), size)]
        return np.concatenate([np.zeros((0, self.encoder.dim), np.float32), *chunks])


def _batches(stream: Iterable[Decoded], size: int) -> Iterator[list[Decoded]]:
    batch: list[Decoded] = []
    for entry in stream:
        batch.append(entry)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def _encoder_record(encoder: Encoder, spec: str) -> EncoderRecord:
    identity = encoder.identity
    return EncoderRecord(
        spec=spec,
        name=identity.name,
        fingerprint=identity.fingerprint,
        dim=identity.dim,
        precision=identity.precision,
        licence=identity.licence,
        untrained=identity.untrained,
    )
