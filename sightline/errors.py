"""Every error Sightline raises on purpose, as one tree.

SightlineError
├── InputError                     what was handed over is wrong; its sender can fix it
│   ├── ImageError
│   │   ├── ImageTooLarge          bytes, pixels, side or aspect ratio over a limit, seen before any decode
│   │   ├── ImageFormatError       not an image, or a format outside the allow-list
│   │   └── ImageCorrupt           empty, truncated or undecodable
│   ├── TextError                  empty or over-long text
│   ├── QueryError                 k, filter, labels, vectors out of range
│   ├── SourceError                a path, folder, archive or list that cannot be read as data
│   └── RecipeError                an unknown or impossible key in a training recipe
├── NotFound                       an item, collection or model that is not there
│   └── GenerationUnknown          a generation that the collection does not have
├── ConfigurationError             the set-up is wrong; the operator can fix it
│   ├── SettingError               unknown or invalid setting
│   ├── DependencyMissing          an optional library is not installed
│   ├── EncoderUnknown             an encoder spec that names nothing
│   ├── EncoderUnsuitable          weights and architecture or preprocessing disagree
│   ├── EncoderMismatch            a collection made by another encoder
│   ├── HubUnreachable             weights or tokenizer must be downloaded and cannot be
│   ├── LiveLogLocked              another process writes the live changes of this collection
│   └── LicenceRefused             weights whose licence forbids ordinary use
├── VerificationError              stored bytes are not what they were
│   ├── BundleCorrupt
│   ├── LiveLogDamaged             the log of live changes is not what was written
│   └── CollectionCorrupt
│       ├── ManifestMissing        a generation without its manifest: copied in part, or not finished
│       ├── ManifestInvalid        a manifest that is damaged or another generation's
│       ├── SchemaUnknown          written by a newer Sightline
│       ├── FileChanged            a file is missing or has other bytes than its manifest says
│       ├── CountMismatch          fewer or more rows than promised
│       ├── DuplicateIds           one id for two items
│       ├── LiveChangesMissing     without live changes that the log does not hold any more
│       ├── VectorsWrong           another dimension, not of length 1, or not to be found by themselves
│       └── IndexUnusable          an index file is missing or changed; it can be made again from the vectors
├── StorageError                   the disk: full, read-only, gone
│   └── MemoryShort                what is to be loaded does not fit into the machine's memory
├── TooManyFailures                more bad inputs than the run allows
├── TrainingStopped                the run cannot go on (NaN, collapse)
└── ServiceError                   the service cannot answer now
    ├── Overloaded                 the queue is full; try again
    ├── NotReady                   starting or mending itself
    │   ├── ShuttingDown           the process ends; another replica answers
    │   ├── OutOfMemory            no room for this item at this moment
    │   └── EncoderLost            the accelerator cannot be used again by this process
    ├── MilvusFailed               a Milvus server refuses or fails
    │   └── MilvusUnreachable      it does not answer, or does not let this process in
    ├── DeadlineExceeded           the caller's time is over
    └── EncodingFailed             the encoder failed on this item

Each class has a stable ``code``. The message is one sentence of ours that ends with the fix; it never quotes another
library's exception, which may hold addresses or paths (vLLM CVE-2026-22778). ``details`` carries the numbers behind
the sentence (limits, sizes) for machines. Exit codes live in ``sightline.command.root``, HTTP statuses in
``service.edge.problems``; a test checks that every class here has both.
"""

from __future__ import annotations

from typing import ClassVar

Detail = str | int | float | list[str]


class SightlineError(Exception):
    """Base of all. ``message`` is safe to show to whoever caused it; ``details`` is JSON-serialisable."""

    code: ClassVar[str] = "error"

    def __init__(self, message: str, **details: Detail) -> None:
        super().__init__(message)
        self.message = message
        self.details = details


class InputError(SightlineError):
    code = "invalid_input"


class ImageError(InputError):
    code = "invalid_image"


class ImageTooLarge(ImageError):
    code = "image_too_large"


class ImageFormatError(ImageError):
    code = "image_format"


class ImageCorrupt(ImageError):
    code = "image_corrupt"


class TextError(InputError):
    code = "invalid_text"


class QueryError(InputError):
    code = "invalid_query"


class SourceError(InputError):
    code = "invalid_source"


class RecipeError(InputError):
    code = "invalid_recipe"


class NotFound(SightlineError):
    code = "not_found"


class GenerationUnknown(NotFound):
    code = "generation_not_found"


class ConfigurationError(SightlineError):
    code = "configuration"


class SettingError(ConfigurationError):
    code = "invalid_setting"


class DependencyMissing(ConfigurationError):
    code = "dependency_missing"


class EncoderUnknown(ConfigurationError):
    code = "encoder_unknown"


class EncoderUnsuitable(ConfigurationError):
    code = "encoder_unsuitable"


class EncoderMismatch(ConfigurationError):
    code = "encoder_mismatch"


class HubUnreachable(ConfigurationError):
    code = "hub_unreachable"


class LiveLogLocked(ConfigurationError):
    code = "live_log_locked"


class LicenceRefused(ConfigurationError):
    code = "licence_refused"


class VerificationError(SightlineError):
    code = "verification_failed"


class BundleCorrupt(VerificationError):
    code = "bundle_corrupt"


class LiveLogDamaged(VerificationError):
    code = "live_log_damaged"


class CollectionCorrupt(VerificationError):
    code = "collection_corrupt"


class ManifestMissing(CollectionCorrupt):
    code = "manifest_missing"


class ManifestInvalid(CollectionCorrupt):
    code = "manifest_invalid"


class SchemaUnknown(CollectionCorrupt):
    code = "schema_unknown"


class FileChanged(CollectionCorrupt):
    code = "file_changed"


class CountMismatch(CollectionCorrupt):
    code = "count_mismatch"


class DuplicateIds(CollectionCorrupt):
    code = "duplicate_ids"


class LiveChangesMissing(CollectionCorrupt):
    code = "live_changes_missing"


class VectorsWrong(CollectionCorrupt):
    code = "vectors_wrong"


class IndexUnusable(CollectionCorrupt):
    code = "index_unusable"


class StorageError(SightlineError):
    code = "storage"


class MemoryShort(StorageError):
    code = "memory_short"


class TooManyFailures(SightlineError):
    code = "too_many_failures"


class TrainingStopped(SightlineError):
    code = "training_stopped"


class ServiceError(SightlineError):
    code = "service"


class Overloaded(ServiceError):
    code = "overloaded"


class NotReady(ServiceError):
    code = "not_ready"


class ShuttingDown(NotReady):
    code = "shutting_down"


class OutOfMemory(NotReady):
    code = "out_of_memory"


class EncoderLost(NotReady):
    code = "encoder_lost"


class MilvusFailed(ServiceError):
    code = "milvus_failed"


class MilvusUnreachable(MilvusFailed):
    code = "milvus_unreachable"


class DeadlineExceeded(ServiceError):
    code = "deadline_exceeded"


class EncodingFailed(ServiceError):
    code = "encoding_failed"
