"""Reading ready vectors: ``.npy`` matrices and Parquet columns, a block at a time, and nothing that is pickled."""

from __future__ import annotations

import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from sightline.errors import SourceError

Vectors = npt.NDArray[np.float32]

_HEADER_ERRORS = (
    OSError, ValueError, EOFError, SyntaxError, tokenize.TokenError, RecursionError, TypeError, LookupError,
    OverflowError,
)  # fmt: skip
"""What numpy lets out of a damaged header, which it reads as a Python literal."""


class VectorFile:
    """A ``.npy`` of floats ``[N, D]``. Opening reads the header alone. Raises SourceError for anything else."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with path.open("rb") as file:
                version = np.lib.format.read_magic(file)
                read_header = (
                    np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
                )
                shape, fortran, dtype = read_header(file)
                self._start = file.tell()
                num_bytes = path.stat().st_size - self._start
        except _HEADER_ERRORS as error:
            raise SourceError(
                f"{path} is not a .npy matrix that can be read; write it again with numpy.save."
            ) from error
        if dtype.hasobject:
            raise SourceError(f"{path} holds pickled objects, which are never loaded; save a matrix of floats.")
        if dtype.kind != "f" or dtype.itemsize > 8 or len(shape) != 2 or fortran or shape[1] < 1:
            raise SourceError(
                f"{path} is {dtype} {list(shape)}{' by columns' if fortran else ''}; vectors are a matrix of float16 "
                "or float32, one row each."
            )
        self.num_rows, self.dim = int(shape[0]), int(shape[1])
        self._dtype = dtype
        if num_bytes != self.num_rows * self.dim * dtype.itemsize:
            raise SourceError(f"{path} is cut short or longer than its header says; copy it again.")

    def blocks(self, rows_per_block: int) -> Iterator[Vectors]:
        """float32 ``[B, D]`` in order. Raises SourceError when the file was cut meanwhile."""
        with self.path.open("rb") as file:
            file.seek(self._start)
            for first in range(0, self.num_rows, rows_per_block):
                num_rows = min(rows_per_block, self.num_rows - first)
                data = file.read(num_rows * self.dim * self._dtype.itemsize)
                if len(data) != num_rows * self.dim * self._dtype.itemsize:
                    raise SourceError(f"{self.path} was changed while it was read; run again when it is at rest.")
                yield np.frombuffer(data, self._dtype).reshape(num_rows, self.dim).astype(np.float32)  # [B, D]


class Rows:
    """Consecutive rows of a file, taken in any amounts. Memory holds one block and what was asked for."""

    def __init__(self, file: VectorFile, rows_per_block: int) -> None:
        self._blocks = file.blocks(rows_per_block)
        self._rest = np.zeros((0, file.dim), np.float32)  # [B, D]

    def take(self, count: int) -> Vectors:
        """The next rows: float32 ``[count, D]``."""
        parts = [self._rest]
        while sum(map(len, parts)) < count:
            parts.append(next(self._blocks))
        joined = np.concatenate(parts) if len(parts) > 1 else parts[0]  # [B, D]
        self._rest = joined[count:]
        return joined[:count]


def column_dim(path: Path, name: str, kind: pa.DataType) -> int:
    """The dimension of a column of vectors, 0 when its type leaves it open. Raises SourceError when it has none."""
    lists = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    if not lists or not pa.types.is_floating(kind.value_type):
        raise SourceError(
            f"The column {name} of {path} holds {kind}; vectors are lists of float16, float32 or float64."
        )
    return int(kind.list_size) if pa.types.is_fixed_size_list(kind) else 0


def column_vectors(column: pa.Array, dim: int) -> tuple[Vectors, npt.NDArray[np.bool_]]:
    """Vectors of a list column, float32 ``[N, D]``, and which rows have one of this dimension; others are zero."""
    num_rows = len(column)
    if pa.types.is_fixed_size_list(column.type):
        lengths = np.full(num_rows, column.type.list_size)  # [N]
        starts = (column.offset + np.arange(num_rows)) * column.type.list_size
    else:
        offsets = column.offsets.to_numpy().astype(np.int64)  # [N + 1]
        lengths, starts = np.diff(offsets), offsets[:-1]
    good: npt.NDArray[np.bool_] = np.asarray(column.is_valid()) & (lengths == dim)  # [N]
    values: Any = column.values
    if pa.types.is_float16(values.type) and values.null_count:
        values = values.cast(pa.float32())
    flat = values.to_numpy(zero_copy_only=False)  # a null inside becomes NaN, and its row is refused for that
    vectors = np.zeros((num_rows, dim), np.float32)  # [N, D]
    if good.any():
        vectors[good] = flat[starts[good][:, None] + np.arange(dim)]
    return vectors, good
