"""A CSV file with a header: one picture a row, named by its path."""

from __future__ import annotations

import contextlib
import csv
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from sightline.errors import SourceError
from sightline.sources.columns import TablePlace, choose_columns, from_text
from sightline.sources.lists import MAX_LINE_BYTES, bounded_lines
from sightline.sources.record import Record, Rejected, identity_of, printable

_DELIMITERS = ",;\t|"


class CsvTable:
    """Rows of a CSV file in UTF-8. The delimiter (comma, semicolon, tab or bar) is the one under which the header has a
    column for pictures; quoting is that of spreadsheets; a cell may hold 131,072 characters."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with path.open("rb") as file:
            header = file.readline(MAX_LINE_BYTES + 1)
        if len(header) > MAX_LINE_BYTES or b"\0" in header:
            raise SourceError(f"{path} does not begin with a header line in UTF-8; save it as CSV in UTF-8.")
        self._dialect, names = _header(path, header)
        self.columns = choose_columns(path, names)
        self._names = names
        self.num_inputs: int | None = sum(1 for _ in self._rows())
        self.identity: str = identity_of("csv", [path])

    def __iter__(self) -> Iterator[Record | Rejected]:
        return self.read()

    def read(self, start: int = 0, stop: int | None = None) -> Iterator[Record | Rejected]:
        """The rows at positions [start, stop); a broken row has a position too."""
        place = TablePlace(self.path.parent.resolve(), printable(self.path.name), self.path.stat().st_mtime_ns)
        for position, (number, cells) in enumerate(self._rows()):
            if stop is not None and position >= stop:
                return
            if position >= start:
                yield self._record(place, number, cells)

    def _record(self, place: TablePlace, number: int, cells: list[str] | str) -> Record | Rejected:
        if not isinstance(cells, str) and len(cells) > len(self._names):
            cells = f"the row has {len(cells)} cells and the header {len(self._names)}"
        if isinstance(cells, str):
            return Rejected(f"{place.name}:{number}", "failed", "bad_line", cells)
        row = dict(zip(self._names, cells, strict=False))
        captions = [row.get(name, "") for name in self.columns.captions]
        listed = [from_text(text) if text.startswith("[") else text for text in captions]
        metadata = {name: from_text(row[name]) for name in self.columns.metadata if row.get(name)}
        return place.record(number, row.get(self.columns.image), listed, metadata)

    def _rows(self) -> Iterator[tuple[int, list[str] | str]]:
        """Number of the line that ends each row below the header, with its cells or what is wrong with it."""
        with self.path.open("rb") as file:
            lines = _Lines(file)
            reader = csv.reader(lines, delimiter=self._dialect, strict=True)
            first = True
            while True:
                lines.problem = ""
                try:
                    cells: list[str] | str = next(reader)
                except StopIteration:
                    return
                except csv.Error:
                    cells = "a cell is too long or its quotes never end"
                if lines.problem:
                    cells = lines.problem
                if first:
                    first = False
                elif cells:
                    yield lines.number, cells


class _Lines:
    """The lines of a file as text for the csv module; one that is none comes as an empty line, with the problem."""

    def __init__(self, file: BinaryIO) -> None:
        self.number = 0
        self.problem = ""
        self._lines = bounded_lines(file)

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        self.number, line = next(self._lines)
        if line is None:
            self.problem = f"the line is longer than {MAX_LINE_BYTES:,} bytes"
        elif b"\0" in line:
            self.problem = "the line holds a NUL"
        else:
            try:
                return line.decode("utf-8-sig" if self.number == 1 else "utf-8")
            except UnicodeDecodeError:
                self.problem = "the line is not UTF-8"
        return "\n"


def _header(path: Path, line: bytes) -> tuple[str, list[str]]:
    """The delimiter and the column names."""
    try:
        text = line.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise SourceError(f"{path} is not UTF-8; save it as CSV in UTF-8.") from error
    headers: dict[str, list[str]] = {}
    for delimiter in _DELIMITERS:
        with contextlib.suppress(csv.Error):
            headers[delimiter] = [name.strip() for name in next(csv.reader([text], delimiter=delimiter), [])]
    for delimiter, names in headers.items():
        with contextlib.suppress(SourceError):
            choose_columns(path, names)
            return delimiter, names
    choose_columns(path, max(headers.values(), key=len, default=[]))  # raises, with the columns found
    raise AssertionError("no delimiter gave a column for pictures")
