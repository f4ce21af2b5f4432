"""Label matrices that were asked for before: classifying a stream of pictures encodes its labels once."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

Matrix = npt.NDArray[np.float32]


class LabelCache:
    """The least recently used matrices float32 ``[L, D]``, bounded in floats. For one thread."""

    def __init__(self, max_floats: int) -> None:
        self._max_floats = max_floats
        self._floats = 0
        self._matrices: OrderedDict[bytes, Matrix] = OrderedDict()

    @staticmethod
    def key(prompts: Iterable[str], num_labels: int) -> bytes:
        """A digest over length-prefixed prompts: two different lists never share a key."""
        digest = hashlib.sha256(num_labels.to_bytes(8, "little"))
        for prompt in prompts:
            encoded = prompt.encode()
            digest.update(len(encoded).to_bytes(8, "little") + encoded)
        return digest.digest()

    def get(self, key: bytes) -> Matrix | None:
        matrix = self._matrices.get(key)
        if matrix is not None:
            self._matrices.move_to_end(key)
        return matrix

    def put(self, key: bytes, matrix: Matrix) -> None:
        if key in self._matrices or matrix.size > self._max_floats:
            return
        self._matrices[key] = matrix
        self._floats += matrix.size
        while self._floats > self._max_floats:
            _, old = self._matrices.popitem(last=False)
            self._floats -= old.size
