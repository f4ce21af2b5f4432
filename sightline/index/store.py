"""Where the float16 vectors are: the truth that exact scores and re-ranking are computed from."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from sightline.errors import CollectionCorrupt, FileChanged, VectorsWrong
from sightline.index.hits import Half, Rows


class VectorStore(Protocol):
    """Random and sequential access to float16 ``[N, D]``. Thread-safe."""

    @property
    def num_rows(self) -> int: ...

    @property
    def dim(self) -> int: ...

    def block(self, start: int, stop: int) -> Half:
        """Rows [start, stop): float16 ``[n, D]``."""
        ...

    def take(self, rows: Rows) -> Half:
        """The rows asked for, in that order: float16 ``[n, D]``."""
        ...


class MemoryVectors:
    """Vectors that are in memory."""

    def __init__(self, vectors: Half) -> None:
        self._vectors = vectors
        self.num_rows, self.dim = vectors.shape

    def block(self, start: int, stop: int) -> Half:
        return self._vectors[start:stop]

    def take(self, rows: Rows) -> Half:
        return self._vectors[rows]


class ShardFiles:
    """The ``.npy`` shards of a generation, read row by row from the system's page cache.

    They are read, not mapped: a mapped file that is cut short in place kills the process with SIGBUS, a read one is an
    error with a sentence. A cached row costs about 2 µs. Raises CollectionCorrupt, FileChanged, VectorsWrong.
    """

    def __init__(self, paths: Sequence[Path], dim: int) -> None:
        self.dim = dim
        self._row_bytes = 2 * dim
        self._paths = list(paths)
        self._descriptors: list[int] = []
        self._offsets: list[int] = []
        self._states: list[tuple[int, int]] = []
        ends = [0]
        for path in self._paths:
            ends.append(ends[-1] + self._open(path))
        self._ends = np.array(ends, dtype=np.int64)  # [S + 1]
        self.num_rows = ends[-1]

    def __del__(self) -> None:
        for descriptor in getattr(self, "_descriptors", ()):
            os.close(descriptor)

    def block(self, start: int, stop: int) -> Half:
        out = np.empty((max(stop - start, 0), self.dim), np.float16)  # [n, D]
        while start < stop:
            shard = int(np.searchsorted(self._ends, start, side="right")) - 1
            end = min(stop, int(self._ends[shard + 1]))
            first = len(out) - (stop - start)
            self._read(shard, start, out[first : first + end - start])
            self._require_unchanged(shard)
            start = end
        return out

    def take(self, rows: Rows) -> Half:
        out = np.empty((len(rows), self.dim), np.float16)  # [n, D]
        if not len(rows):
            return out
        places = np.argsort(rows, kind="stable")  # in the order of the files
        shards = np.searchsorted(self._ends, rows[places], side="right") - 1  # [n]
        offsets = np.array(self._offsets)[shards] + (rows[places] - self._ends[shards]) * self._row_bytes  # [n]
        size, view, descriptors = self._row_bytes, out.view(np.uint8).data.cast("B"), self._descriptors
        for place, shard, offset in zip((places * size).tolist(), shards.tolist(), offsets.tolist(), strict=True):
            if os.preadv(descriptors[shard], [view[place : place + size]], offset) != size:
                raise self._changed(shard)
        for shard in set(shards.tolist()):
            self._require_unchanged(shard)
        return out

    def _open(self, path: Path) -> int:
        """Open a shard and return its number of rows."""
        try:
            descriptor = os.open(path, os.O_RDONLY)
            self._descriptors.append(descriptor)
            with path.open("rb") as file:
                version = np.lib.format.read_magic(file)
                read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
                shape, fortran_order, dtype = read[version](file)
                self._offsets.append(file.tell())
        except (OSError, ValueError, KeyError, EOFError) as error:
            raise CollectionCorrupt(f"{path} cannot be read; restore it or build it again.") from error
        state = _state_of(descriptor)
        self._states.append(state)
        if len(shape) != 2 or shape[1] != self.dim or dtype != np.float16 or fortran_order:
            raise VectorsWrong(
                f"{path} is {dtype} {shape} and its manifest promises float16 with {self.dim} dimensions; "
                "build the collection again."
            )
        if state[0] != self._offsets[-1] + shape[0] * self._row_bytes:
            raise CollectionCorrupt(f"{path} is not as long as its header says; restore it or build it again.")
        return int(shape[0])

    def _read(self, shard: int, row: int, out: Half) -> None:
        """Fill ``out`` with rows of one shard, the first of them being ``row`` of the whole."""
        view = out.view(np.uint8).data.cast("B")
        offset = self._offsets[shard] + (row - int(self._ends[shard])) * self._row_bytes
        while view:
            count = os.preadv(self._descriptors[shard], [view], offset)
            if not count:
                raise self._changed(shard)
            view, offset = view[count:], offset + count

    def _require_unchanged(self, shard: int) -> None:
        if _state_of(self._descriptors[shard]) != self._states[shard]:
            raise self._changed(shard)

    def _changed(self, shard: int) -> FileChanged:
        return FileChanged(f"{self._paths[shard]} has changed since it was opened; restore it or build it again.")


def _state_of(descriptor: int) -> tuple[int, int]:
    state = os.fstat(descriptor)
    return state.st_size, state.st_mtime_ns
