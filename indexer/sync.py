"""Bringing a collection up to date with its source: what it knows already is copied, the rest is encoded.

A picture is known by its uri, size and time where those were noted, without being read; else by the hash of its bytes:
so a renamed file is not encoded again. The result is what a build from scratch would give, and is made in the same way,
by segments that a killed process does not lose.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from indexer.build import BuildInterrupted, BuildOptions, BuildReport, index_builder, make_job
from indexer.decode import Decoded, KnownPicture
from indexer.encoding import Vectors
from indexer.job import building_locked, now
from indexer.ledger import too_many_failures
from indexer.pipeline import Pipeline
from indexer.publication import NEAR_DUPLICATE_KEY, NothingChanged, Publication
from indexer.stages import StageClock
from sightline.collection import Generation, open_collection
from sightline.collection.manifest import shard_name
from sightline.index.store import ShardFiles
from sightline.sources import Record, Source

if TYPE_CHECKING:
    from sightline.encoder import Encoder


@dataclass(frozen=True)
class Changes:
    """How many pictures of a source are new, gone, replaced under their name, renamed,
    described anew or as they were."""

    added: int = 0
    deleted: int = 0
    changed: int = 0
    renamed: int = 0
    described: int = 0
    unchanged: int = 0


@dataclass(frozen=True)
class SyncReport:
    """``build`` is None when nothing had changed: the current generation stays."""

    build: BuildReport | None
    changes: Changes


class Known:
    """What a generation knows of pictures. Thread-safe.

    Memory holds one entry for each picture beside what the opened generation holds; vectors are read when asked for.
    """

    def __init__(self, generation: Generation) -> None:
        self._generation = generation
        manifest = generation.manifest
        self._images, self._captions = (
            ShardFiles(
                [
                    generation.directory / shard_name(kind, shard, manifest.num_shards, "npy")
                    for shard in range(manifest.num_shards)
                ],
                manifest.encoder.dim,
            )
            for kind in ("img_emb", "text_emb")
        )
        self._rows: dict[bytes, int] = {}
        self._files: dict[str, tuple[int, int, int]] = {}
        for row, (uri, sha256, num_bytes, mtime_ns) in enumerate(generation.files()):
            self._rows[bytes.fromhex(sha256)] = row
            if num_bytes and mtime_ns:
                self._files[uri] = (row, num_bytes, mtime_ns)
        self._caption_items = generation.caption_items()  # [M]

    def picture(self, sha256: str) -> KnownPicture | None:
        """What is known of a picture by the hash of its bytes."""
        row = self._rows.get(bytes.fromhex(sha256))
        if row is None:
            return None
        item = self._generation.item(row)
        return KnownPicture(
            self._images.take(np.array([row]))[0], self._generation.thumbnail(row) or b"", item.width_px, item.height_px
        )

    def caption(self, sha256: str, caption: str) -> Vectors | None:
        """The float16 vector ``[D]`` of a caption of a known picture."""
        row = self._rows.get(bytes.fromhex(sha256))
        if row is None:
            return None
        first, last = np.searchsorted(self._caption_items, [row, row + 1])
        for caption_row in range(int(first), int(last)):
            if self._generation.caption(caption_row)[0] == caption:
                vector: Vectors = self._captions.take(np.array([caption_row]))[0]
                return vector
        return None

    def unchanged(self, uri: str, num_bytes: int, mtime_ns: int) -> Decoded | None:
        """The picture at a uri, if its file and sidecars have the size and time that were noted with it."""
        found = self._files.get(uri)
        if found is None or found[1:] != (num_bytes, mtime_ns):
            return None
        item = self._generation.item(found[0])
        metadata = {name: value for name, value in item.metadata.items() if name != NEAR_DUPLICATE_KEY}
        sha256 = self._generation.sha256(found[0])
        picture = self.picture(sha256)
        assert picture is not None
        record = Record(uri, b"", item.captions, metadata, num_bytes=num_bytes, mtime_ns=mtime_ns)
        return Decoded(
            record, sha256, None, picture.thumbnail, picture.width_px, picture.height_px, known=picture.vector
        )


def sync_collection(
    encoder: Encoder,
    encoder_spec: str,
    source: Source,
    source_name: str,
    out: Path,
    options: BuildOptions,
    advance: Callable[[int], None] = lambda steps: None,
    *,
    stopping: Callable[[], bool] = lambda: False,
    clock: Callable[[], str] = now,
    say: Callable[[str], None] = lambda line: None,
) -> SyncReport:
    """Make a generation of what the source holds now and make it current, unless nothing has changed.

    An encoder that gives pictures the same vectors as the one that made the collection, and texts others, takes over
    the pictures' vectors and encodes every caption again. Goes on with an unfinished sync of the same generation.
    Raises what ``build_collection`` does, SourceError when there is no collection at ``out``, EncoderMismatch when
    another encoder made it.
    """
    stages = StageClock()
    base = open_collection(out, verify=True)
    same_encoder = encoder.identity.fingerprint == base.manifest.encoder.fingerprint
    if not same_encoder and base.manifest.encoder.fingerprint not in encoder.identity.same_images_as:
        base.require_encoder(encoder.identity.fingerprint)
    known = Known(base)
    pipeline_options = replace(options.pipeline_options(), known_picture=known.picture, unchanged=known.unchanged)
    if same_encoder:
        pipeline_options = replace(pipeline_options, known_caption=known.caption)
    wanted = make_job(encoder, encoder_spec, source, source_name, options, clock())
    wanted = wanted.model_copy(update={"base": base.generation})
    with building_locked(out) as building:
        job = building.begin(wanted)
        store = building.segments(job)
        progress = store.progress()
        advance(progress.num_done)
        pipeline = Pipeline(encoder, source, store, pipeline_options, stages, advance=advance, stopping=stopping)
        if not progress.complete and not pipeline.encode(progress.spans()):
            raise BuildInterrupted(store.progress().num_done)
        with stages.measure("publish"):
            publication = Publication(building, job, index_builder(job, options.index, say))
            try:
                manifest = publication.publish(unless_like=base.manifest if same_encoder else None)
            except NothingChanged:
                return SyncReport(None, Changes(unchanged=base.num_items))
    report = BuildReport(
        manifest,
        stages.times(pipeline_options.decode_threads, pipeline_options.encoders),
        progress.num_done,
        too_many_failures(manifest.counts, options.max_error_rate),
    )
    return SyncReport(report, compare(base, open_collection(out, manifest.generation, verify=False)))


def compare(old: Generation, new: Generation) -> Changes:
    """What became of the pictures of a generation in a later one."""
    before, after = dict(_described(old)), dict(_described(new))
    hashes_before = {sha256 for sha256, _ in before.values()}
    hashes_after = {sha256 for sha256, _ in after.values()}
    counts = dict.fromkeys(("added", "deleted", "changed", "renamed", "described", "unchanged"), 0)
    for uri, (sha256, described) in after.items():
        if uri not in before:
            counts["renamed" if sha256 in hashes_before else "added"] += 1
        elif before[uri][0] != sha256:
            counts["changed"] += 1
        else:
            counts["unchanged" if before[uri][1] == described else "described"] += 1
    counts["deleted"] = sum(uri not in after and sha256 not in hashes_after for uri, (sha256, _) in before.items())
    return Changes(**counts)


def _described(generation: Generation) -> Iterator[tuple[str, tuple[str, int]]]:
    """Each uri with the hash of its picture and one of what is said of it, the note of a near duplicate apart."""
    for row, (uri, sha256, _, _) in enumerate(generation.files()):
        item = generation.item(row)
        metadata = {name: value for name, value in item.metadata.items() if name != NEAR_DUPLICATE_KEY}
        yield uri, (sha256, hash((item.captions, json.dumps(metadata, sort_keys=True))))
