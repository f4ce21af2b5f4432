"""A generation made searchable by the plan that its manifest names."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Literal

from sightline.collection import Generation
from sightline.collection.manifest import shard_name
from sightline.errors import CountMismatch
from sightline.index.approximate import ApproximateIndex
from sightline.index.building import FOLDERS
from sightline.index.exact import VectorIndex
from sightline.index.files import file_name, read_index
from sightline.index.gpu import GpuLists, TorchIndex, has_cuda, has_faiss_gpu
from sightline.index.hits import SearchIndex
from sightline.index.record import record_of
from sightline.index.store import ShardFiles

Which = Literal["images", "captions"]

logger = logging.getLogger(__name__)


def open_index(generation: Generation, which: Which) -> SearchIndex:
    """The index of a generation's pictures or captions.

    A plan for a GPU runs on the CPU where there is none: the exact one in memory, the lists from the same file.
    Raises IndexUnusable (a file of it is missing or changed), CollectionCorrupt with its kinds, DependencyMissing.
    """
    record = record_of(generation.manifest.index, which)
    plan = record.kind
    if plan.exact:
        vectors = generation.image_vectors() if which == "images" else generation.caption_vectors()
        on_gpu = _on_gpu(lambda: TorchIndex(vectors, "cuda")) if plan.needs_gpu and has_cuda() else None
        return on_gpu or VectorIndex(vectors)
    store = open_vectors(generation, which)
    name = file_name(which)
    index = read_index(
        plan, generation.directory / name, generation.manifest.files.get(name), store.dim, store.num_rows
    )
    wants_gpu = plan.needs_gpu and has_faiss_gpu()
    on_gpu = _on_gpu(lambda: GpuLists(plan, index, store, record.setting)) if wants_gpu else None
    return on_gpu or ApproximateIndex(plan, index, store, record.setting)


def _on_gpu(make: Callable[[], SearchIndex]) -> SearchIndex | None:
    """What ``make`` gives, or None where the GPU has no room for it: torch and FAISS say that with a RuntimeError."""
    try:
        return make()
    except RuntimeError as error:
        logger.warning("The index stays on the CPU; the GPU refused it (%s).", type(error).__name__)
        return None


def open_vectors(generation: Generation, which: Which) -> ShardFiles:
    """The float16 vectors of a generation, left on disk. Raises CollectionCorrupt with its kinds."""
    manifest = generation.manifest
    paths = [
        generation.directory / shard_name(FOLDERS[which], shard, manifest.num_shards, "npy")
        for shard in range(manifest.num_shards)
    ]
    vectors = ShardFiles(paths, manifest.encoder.dim)
    promised = manifest.num_items if which == "images" else manifest.num_captions
    if vectors.num_rows != promised:
        raise CountMismatch(
            f"{FOLDERS[which]} of {generation.directory} has {vectors.num_rows} rows and its manifest promises "
            f"{promised}; build it again."
        )
    return vectors
