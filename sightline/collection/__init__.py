"""The collection: a searchable set on disk, as a directory of immutable generations.

::

    COLLECTION/
      CURRENT                           names the generation that readers open
      live.db                           changes made while serving, laid over the generation (``live_log``)
      gen-000001/
        manifest.json                   encoder identity, counts that add up, a SHA-256 for every other file
        manifest.sha256                 the manifest's own
        img_emb/img_emb_0.npy           float16 [N, D], unit vectors: the truth
        text_emb/text_emb_0.npy         float16 [M, D], one row for each caption
        metadata/metadata_0.parquet     one row for each picture, in the order of img_emb
        captions/captions_0.parquet     one row for each caption, in the order of text_emb
        thumbnails/thumbnails_0.tar     WebP thumbnails in a plain tar; offsets are in the metadata
        ledger.jsonl                    every input that was not indexed, and why

Embedding and metadata shards keep the names that clip-retrieval, autofaiss and embedding-reader read.
"""

from sightline.collection.footprint import needed_bytes
from sightline.collection.manifest import (
    GENERATION_PATTERN,
    CollectionManifest,
    Counts,
    EncoderRecord,
    current_name,
    generation_directory,
    read_manifest,
)
from sightline.collection.reader import Generation, Item, open_collection
from sightline.collection.shard import NewItem
from sightline.collection.verify import require_unit_length, verify_collection
from sightline.collection.writer import GenerationWriter

__all__ = [
    "GENERATION_PATTERN",
    "CollectionManifest",
    "Counts",
    "EncoderRecord",
    "Generation",
    "GenerationWriter",
    "Item",
    "NewItem",
    "current_name",
    "generation_directory",
    "needed_bytes",
    "open_collection",
    "read_manifest",
    "require_unit_length",
    "verify_collection",
]
