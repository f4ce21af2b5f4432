"""A Parquet file: one picture a row, by path or as bytes, as Hugging Face's ``datasets`` writes them too."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from sightline.errors import SourceError
from sightline.sources.columns import TablePlace, choose_columns
from sightline.sources.description import json_like
from sightline.sources.record import Record, Rejected, identity_of, printable

_BUFFER_BYTES = 2**20
_ROWS_OF_BYTES, _ROWS_OF_PATHS = 16, 1024
"""Rows in memory at once: pictures are large, paths are not."""
_BROKEN = (pa.ArrowException, OSError, ValueError, OverflowError)


class ParquetTable:
    """Rows of a Parquet file, streamed; a row's position is its number. Rows of a row group that cannot be decoded are
    rejected one by one, so that the counts are those of the footer.

    Memory holds 16 pictures and the pages they lie in. How large a page is, its writer decided: pyarrow writes up to
    1,024 rows into one.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with _open(path) as file:
            schema = file.schema_arrow
            self.num_inputs: int | None = file.metadata.num_rows
            self._group_rows = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
        if not self.num_inputs:
            raise SourceError(f"{path} has no rows; give a table with one picture a row.")
        self.columns = choose_columns(path, schema.names)
        kind = schema.field(self.columns.image).type
        if not (_is_text(kind) or _is_bytes(kind) or pa.types.is_struct(kind)):
            raise SourceError(
                f"The column {self.columns.image} of {path} holds {kind}; pictures are paths, bytes, or Hugging Face's "
                "struct of both."
            )
        self._batch_rows = _ROWS_OF_PATHS if _is_text(kind) else _ROWS_OF_BYTES
        self._metadata = [name for name in self.columns.metadata if _is_json_like(schema.field(name).type)]
        self.identity: str = identity_of("parquet", [path])

    def __iter__(self) -> Iterator[Record | Rejected]:
        return self.read()

    def read(self, start: int = 0, stop: int | None = None) -> Iterator[Record | Rejected]:
        """The rows at positions [start, stop); row groups outside are not read."""
        place = TablePlace(self.path.parent.resolve(), printable(self.path.name), self.path.stat().st_mtime_ns)
        end = sum(self._group_rows) if stop is None else stop
        with _open(self.path) as file:
            first = 0
            for group, num_rows in enumerate(self._group_rows):
                wanted = range(max(start, first), min(end, first + num_rows))
                if wanted:
                    yield from self._group(file, place, group, first, wanted)
                first += num_rows

    def _group(
        self, file: pq.ParquetFile, place: TablePlace, group: int, first: int, wanted: range
    ) -> Iterator[Record | Rejected]:
        next_row = first
        for table in self._batches(file, group):
            begin, end = max(wanted.start, next_row), min(wanted.stop, next_row + table.num_rows)
            if begin < end:
                yield from self._records(place, table.slice(begin - next_row, end - begin), begin)
            next_row += table.num_rows
            if next_row >= wanted.stop:
                return
        for row in range(max(next_row, wanted.start), wanted.stop):
            yield _broken(place, row)

    def _batches(self, file: pq.ParquetFile, group: int) -> Iterator[pa.RecordBatch]:
        """Batches of a row group up to its end or to where it breaks."""
        columns = [self.columns.image, *self.columns.captions, *self._metadata]
        try:
            yield from file.iter_batches(
                batch_size=self._batch_rows, row_groups=[group], columns=columns, use_threads=False
            )
        except _BROKEN:
            return

    def _records(self, place: TablePlace, batch: pa.RecordBatch, first: int) -> Iterator[Record | Rejected]:
        try:
            cells = {name: column_values(batch.column(name)) for name in batch.schema.names}
        except _BROKEN:  # text that is not UTF-8, times beyond the calendar
            yield from (_broken(place, first + row) for row in range(batch.num_rows))
            return
        for row in range(batch.num_rows):
            metadata = {name: json_like(cells[name][row]) for name in self._metadata}
            yield place.record(
                first + row + 1,
                cells[self.columns.image][row],
                [cells[name][row] for name in self.columns.captions],
                {name: value for name, value in metadata.items() if value is not None},
            )


def _open(path: Path) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(path, buffer_size=_BUFFER_BYTES, pre_buffer=False, memory_map=False)
    except _BROKEN as error:
        raise SourceError(f"{path} is not a whole Parquet file; copy it again or write it anew.") from error


def _broken(place: TablePlace, row: int) -> Rejected:
    return Rejected(f"{place.name}:{row + 1}", "failed", "broken_table", "this part of the table cannot be decoded")


def column_values(column: pa.Array) -> list[Any]:
    """The cells of a column as Python has them. Raises ArrowException or ValueError, for text that is not UTF-8 say."""
    if pa.types.is_timestamp(column.type) and column.type.unit == "ns":
        column = column.cast(pa.timestamp("us", column.type.tz), safe=False)  # Python's times have no nanoseconds
    values: list[Any] = column.to_pylist()
    return values


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or _is_dictionary_of_text(kind))


def _is_dictionary_of_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_dictionary(kind) and _is_text(kind.value_type))


def _is_bytes(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _is_json_like(kind: pa.DataType) -> bool:
    """Whether values of a type can be metadata; vectors, bytes, maps and durations are not."""
    types = pa.types
    if types.is_struct(kind):
        return all(_is_json_like(field.type) for field in kind)
    if types.is_list(kind) or types.is_large_list(kind):
        return not types.is_floating(kind.value_type) and _is_json_like(kind.value_type)
    if types.is_dictionary(kind):
        return _is_json_like(kind.value_type)
    return bool(
        _is_text(kind) or types.is_boolean(kind) or types.is_integer(kind) or types.is_floating(kind)
        or types.is_decimal(kind) or types.is_date(kind) or types.is_timestamp(kind)
    )  # fmt: skip
