"""A collection as plain Parquet for other tools: pandas, Hugging Face's ``datasets``, DuckDB, vector stores."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from indexer.vector_sources import EmbeddingFolder, VectorBlock
from sightline.collection import current_name, read_manifest
from sightline.errors import FileChanged
from sightline.storage import first_difference, new_directory

ROWS_PER_FILE = 65_536


def export_schema(dim: int) -> pa.Schema:
    """``embedding`` is float32 ``[D]``; ``caption_embeddings`` has one such for each of ``captions``."""
    vector = pa.list_(pa.float32(), dim)
    return pa.schema(
        [
            ("id", pa.string()),
            ("uri", pa.string()),
            ("caption", pa.string()),
            ("captions", pa.list_(pa.string())),
            ("sha256", pa.string()),
            ("width_px", pa.int32()),
            ("height_px", pa.int32()),
            ("metadata", pa.string()),
            ("embedding", vector),
            ("caption_embeddings", pa.list_(vector)),
        ]
    )


def export_parquet(collection: Path, out: Path, advance: Callable[[int], None] = lambda steps: None) -> list[Path]:
    """Write the current generation as ``part-00000.parquet`` and so on, a file for each shard, into a new directory.

    The schema's metadata names the encoder and its fingerprint. Memory holds a block of rows. Raises SourceError,
    CollectionCorrupt (files are compared with the manifest first) or StorageError.
    """
    directory = collection / current_name(collection)
    manifest = read_manifest(directory)
    difference = first_difference(directory, manifest.files)
    if difference is not None:
        raise FileChanged(f"{difference}; restore it from a backup or build the collection again.")
    about = {"sightline_encoder": manifest.encoder.name, "sightline_fingerprint": manifest.encoder.fingerprint}
    schema = export_schema(manifest.encoder.dim).with_metadata(about)
    names: list[str] = []
    with new_directory(out) as temporary:
        for number, blocks in enumerate(_files(EmbeddingFolder(directory))):
            names.append(f"part-{number:05d}.parquet")
            with pq.ParquetWriter(temporary / names[-1], schema, compression="zstd") as writer:
                for block in blocks:
                    writer.write_table(_table(block, schema))
                    advance(len(block.rows))
    return [out / name for name in names]


def _files(source: EmbeddingFolder) -> Iterator[Iterator[VectorBlock]]:
    """The blocks of each shard."""
    return (source.shard_blocks(number) for number in source.shard_numbers)


def _table(block: VectorBlock, schema: pa.Schema) -> pa.Table:
    dim = schema.field("embedding").type.list_size
    counts = np.bincount(block.text_rows, minlength=len(block.rows))  # [B]
    columns: dict[str, Any] = {
        name: [row.get(key) for row in block.rows]
        for name, key in (
            ("id", "item_id"), ("uri", "image_path"), ("caption", "caption"), ("captions", "captions"),
            ("sha256", "sha256"), ("width_px", "width_px"), ("height_px", "height_px"), ("metadata", "metadata"),
        )
    }  # fmt: skip
    columns["embedding"] = pa.FixedSizeListArray.from_arrays(pa.array(block.images.ravel()), dim)
    texts = pa.FixedSizeListArray.from_arrays(pa.array(block.texts.ravel()), dim)
    offsets = pa.array(np.concatenate([[0], np.cumsum(counts)]).astype(np.int32))
    columns["caption_embeddings"] = pa.ListArray.from_arrays(offsets, texts)
    return pa.Table.from_pydict(columns, schema)
