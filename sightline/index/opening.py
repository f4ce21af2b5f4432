"""A generation made searchable by the plan that its manifest names."""

from __future__ import annotations

from typing import Literal

from sightline.collection import Generation
from sightline.collection.manifest import shard_name
from sightline.errors import CountMismatch
from sightline.index.approximate import ApproximateIndex
from sightline.index.exact import VectorIndex
from sightline.index.files import file_name, read_index
from sightline.index.gpu import GpuLists, TorchIndex, has_cuda, has_faiss_gpu
from sightline.index.hits import SearchIndex
from sightline.index.record import record_of
from sightline.index.store import ShardFiles

Which = Literal["images", "captions"]

_FOLDERS = {"images": "img_emb", "captions": "text_emb"}


def open_index(generation: Generation, which: Which) -> SearchIndex:
    """The index of a generation's pictures or captions.

    A plan for a GPU runs on the CPU where there is none: the exact one in memory, the lists from the same file.
    Raises IndexUnusable (a file of it is missing or changed), CollectionCorrupt with its kinds, DependencyMissing.
    """
    record = record_of(generation.manifest.index, which)
    plan = record.kind
    if plan.exact:
        vectors = generation.image_vectors() if which == "images" else generation.caption_vectors()
        return TorchIndex(vectors, "cuda") if plan.needs_gpu and has_cuda() else VectorIndex(vectors)
    store = open_vectors(generation, which)
    name = file_name(which)
    index = read_index(
        plan, generation.directory / name, generation.manifest.files.get(name), store.dim, store.num_rows
    )
    if plan.needs_gpu and has_faiss_gpu():
        return GpuLists(plan, index, store, record.setting)
    return ApproximateIndex(plan, index, store, record.setting)


def open_vectors(generation: Generation, which: Which) -> ShardFiles:
    """The float16 vectors of a generation, left on disk. Raises CollectionCorrupt with its kinds."""
    manifest = generation.manifest
    paths = [
        generation.directory / shard_name(_FOLDERS[which], shard, manifest.num_shards, "npy")
        for shard in range(manifest.num_shards)
    ]
    vectors = ShardFiles(paths, manifest.encoder.dim)
    promised = manifest.num_items if which == "images" else manifest.num_captions
    if vectors.num_rows != promised:
        raise CountMismatch(
            f"{_FOLDERS[which]} of {generation.directory} has {vectors.num_rows} rows and its manifest promises "
            f"{promised}; build it again."
        )
    return vectors
