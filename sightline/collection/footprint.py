"""What a generation will take of memory, from its manifest and the footers of its tables, before any of it is read."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from sightline.collection.manifest import CollectionManifest

_BYTES_PER_ITEM = 600
"""An id as a string, its place in two tables of Python, and slack."""
_BYTES_PER_CAPTION = 8


def needed_bytes(directory: Path, manifest: CollectionManifest) -> int:
    """The most memory that opening and indexing a generation takes at one moment; an estimate from above.

    Vectors lie in the index in half precision, and once more (twice where they come in several shards) while they are
    added to it; tables lie in memory uncompressed.
    """
    stored = {"img_emb": 0, "text_emb": 0}
    tables = 0
    for name, record in manifest.files.items():
        kind = name.partition("/")[0]
        if kind in stored:
            stored[kind] += record.num_bytes
        elif name.endswith(".parquet"):
            tables += _uncompressed_bytes(directory / name)
    copies = 1 if manifest.num_shards == 1 else 2
    vectors = sum(stored.values()) + copies * max(stored.values())
    return vectors + 2 * tables + manifest.num_items * _BYTES_PER_ITEM + manifest.num_captions * _BYTES_PER_CAPTION


def _uncompressed_bytes(path: Path) -> int:
    try:
        footer = pq.read_metadata(path)
    except (OSError, pa.ArrowException):
        return 0  # it will be opened next, and then is said what is wrong with it
    return sum(footer.row_group(group).total_byte_size for group in range(footer.num_row_groups))
