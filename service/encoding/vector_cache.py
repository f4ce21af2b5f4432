"""Vectors that were computed before, found again by the content they were computed from.

The key is a SHA-256 over the encoder's fingerprint, the kind of input and its original bytes, each with its length in
front: no two different inputs, kinds or encoders can be written so that their bytes run together (caches keyed by
joined strings have answered with another user's picture in several servers).
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict

import numpy as np

from service.encoding.lanes import Vectors
from service.metrics import Metrics

_ENTRY_BYTES = 256
"""What an entry costs beside its floats: key, array header, place in the dictionary."""


class ContentKeys:
    """Keys of inputs for one encoder. Thread-safe."""

    def __init__(self, fingerprint: str) -> None:
        self._prefix = hashlib.sha256(_with_length(fingerprint.encode()))

    def key(self, content: str | bytes) -> bytes:
        """32 bytes for a text (as it is after checking, without lone surrogates) or an encoded picture."""
        digest = self._prefix.copy()
        is_text = isinstance(content, str)
        digest.update(b"text" if is_text else b"image")  # neither begins with the other
        digest.update(_with_length(content.encode() if isinstance(content, str) else content))
        return digest.digest()


class VectorCache:
    """The least recently used vectors float32 ``[D]``, bounded in bytes; 0 bytes remember nothing. For one thread."""

    def __init__(self, max_bytes: int, metrics: Metrics) -> None:
        self._max_bytes = max_bytes
        self._num_bytes = 0
        self._vectors: OrderedDict[bytes, Vectors] = OrderedDict()
        metrics.vector_cache_bytes.set_function(lambda: self._num_bytes)

    def __len__(self) -> int:
        return len(self._vectors)

    def get(self, key: bytes) -> Vectors | None:
        """The vector, read-only, or None."""
        vector = self._vectors.get(key)
        if vector is not None:
            self._vectors.move_to_end(key)
        return vector

    def put(self, key: bytes, vector: Vectors) -> None:
        """Remember a copy: the vector may be a row of a batch, which it would keep alive whole."""
        cost = vector.nbytes + _ENTRY_BYTES
        if key in self._vectors or cost > self._max_bytes:
            return
        kept = np.array(vector, dtype=np.float32)  # [D]
        kept.flags.writeable = False
        self._vectors[key] = kept
        self._num_bytes += cost
        while self._num_bytes > self._max_bytes:
            _, old = self._vectors.popitem(last=False)
            self._num_bytes -= old.nbytes + _ENTRY_BYTES


def _with_length(data: bytes) -> bytes:
    return len(data).to_bytes(8, "little") + data
