"""What a generation will take of memory, from its manifest and the footers of its tables, before any of it is read."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from sightline.collection.manifest import INDEX_FOLDER, CollectionManifest

_PLANS_IN_MEMORY = ("exact", "gpu-exact")
_BYTES_PER_ITEM = 600
"""An id as a string, its place in two tables of Python, and slack."""
_BYTES_PER_CAPTION = 8


def needed_bytes(directory: Path, manifest: CollectionManifest) -> int:
    """The most memory that opening and indexing a generation takes at one moment; an estimate from above.

    Vectors lie in an exact index in half precision, and once more (twice where they come in several shards) while they
    are added to it; the files of other indexes lie in memory as they are, but for the one that is mapped, and their
    vectors stay on disk. Tables lie in memory uncompressed.
    """
    plans = {
        folder: str(record.get("plan", "exact"))
        for folder, which in (("img_emb", "images"), ("text_emb", "captions"))
        if isinstance(record := manifest.index.get(which, {}), dict)
    }
    stored = {folder: 0 for folder, plan in plans.items() if plan in _PLANS_IN_MEMORY}
    tables = indexes = 0
    for name, record in manifest.files.items():
        kind = name.partition("/")[0]
        if kind in stored:
            stored[kind] += record.num_bytes
        elif kind == INDEX_FOLDER and "ivf-disk" not in plans.values():
            indexes += record.num_bytes
        elif name.endswith(".parquet"):
            tables += _uncompressed_bytes(directory / name)
    copies = 1 if manifest.num_shards == 1 else 2
    vectors = sum(stored.values()) + copies * max(stored.values(), default=0) + indexes
    return vectors + 2 * tables + manifest.num_items * _BYTES_PER_ITEM + manifest.num_captions * _BYTES_PER_CAPTION


def _uncompressed_bytes(path: Path) -> int:
    try:
        footer = pq.read_metadata(path)
    except (OSError, pa.ArrowException):
        return 0  # it will be opened next, and then is said what is wrong with it
    return sum(footer.row_group(group).total_byte_size for group in range(footer.num_row_groups))
