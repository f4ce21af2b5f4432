"""Several tables as one source."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

from sightline.sources.csv_table import CsvTable
from sightline.sources.parquet_table import ParquetTable
from sightline.sources.record import Record, Rejected

TABLE_SUFFIXES = (".csv", ".tsv", ".parquet")


class Tables:
    """CSV and Parquet files, one after the other. Raises SourceError when one of them is no table of pictures."""

    def __init__(self, paths: list[Path]) -> None:
        self.tables = [ParquetTable(path) if path.suffix.lower() == ".parquet" else CsvTable(path) for path in paths]
        self._num_rows = [table.num_inputs or 0 for table in self.tables]
        self.num_inputs: int | None = sum(self._num_rows)
        self.identity: str = hashlib.sha256("".join(table.identity for table in self.tables).encode()).hexdigest()

    def __iter__(self) -> Iterator[Record | Rejected]:
        return self.read()

    def read(self, start: int = 0, stop: int | None = None) -> Iterator[Record | Rejected]:
        """The rows at positions [start, stop) of all tables; tables outside are not read."""
        first = 0
        for table, num_rows in zip(self.tables, self._num_rows, strict=True):
            if (stop is None or first < stop) and start < first + num_rows:
                yield from table.read(max(start - first, 0), None if stop is None else stop - first)
            first += num_rows
