"""Metadata by column: what filters look at, so that a million rows cost milliseconds and not seconds.

Every key (a top-level key, or a path like ``scene.things.colour`` into nested objects and lists) has one column with
all its values and the row of each: numbers as float64, strings as codes of a dictionary, true and false as two sets of
rows. A row may have no value, one, or several (a list). Whole numbers that float64 cannot hold exactly are kept apart
as Python integers, so comparisons stay exact.
"""

from __future__ import annotations

import json
import math
import operator
from array import array
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

Mask = npt.NDArray[np.bool_]
Compare = Callable[[Any, Any], Any]
"""A comparison of the module ``operator``."""

_EXACT = 2**53


class Column:
    """Every value at one key. Grows by ``add``, is asked once it is complete; then thread-safe."""

    def __init__(self) -> None:
        self._number_rows, self._numbers = array("i"), array("d")
        self._large: list[tuple[int, int]] = []  # (row, whole number beyond float64's exact ones)
        self._string_rows, self._codes = array("i"), array("i")
        self._dictionary: dict[str, int] = {}
        self._bool_rows = (array("i"), array("i"))  # rows with false, rows with true

    def add(self, row: int, value: object) -> None:
        """One value of a row; what is no scalar can never match and is not kept."""
        if isinstance(value, str):
            self._string_rows.append(row)
            self._codes.append(self._dictionary.setdefault(value, len(self._dictionary)))
        elif isinstance(value, bool):
            self._bool_rows[value].append(row)
        elif isinstance(value, float) or (isinstance(value, int) and -_EXACT <= value <= _EXACT):
            self._number_rows.append(row)
            self._numbers.append(value)
        elif isinstance(value, int):
            self._large.append((row, value))

    def values(self) -> list[str | int | float | bool]:
        """Every value of every row, in no order that means anything."""
        strings = list(self._dictionary)
        large = [number for _, number in self._large]
        truths = [truth for truth in (False, True) for _ in self._bool_rows[truth]]
        return [*(strings[code] for code in self._codes), *self._numbers, *large, *truths]

    def equal_to(self, wanted: Collection[str | int | float | bool], num_rows: int) -> Mask:
        """bool ``[N]``: rows with a value equal to one of these; true is not 1."""
        mask = np.zeros(num_rows, dtype=np.bool_)  # [N]
        for truth in {one for one in wanted if isinstance(one, bool)}:
            mask[_as_numpy(self._bool_rows[truth])] = True
        codes = [self._dictionary[one] for one in wanted if isinstance(one, str) and one in self._dictionary]
        if codes:
            chosen = np.zeros(len(self._dictionary), dtype=np.bool_)
            chosen[codes] = True
            _mark(mask, self._string_rows, chosen[_as_numpy(self._codes)])
        numbers = {one for one in wanted if isinstance(one, int | float) and not isinstance(one, bool)}
        exact = [_nearest(one) for one in numbers if _nearest(one) == one]
        if exact and self._numbers:
            _mark(mask, self._number_rows, np.isin(_as_numpy(self._numbers), exact))
        mask[[row for row, number in self._large if number in numbers]] = True
        return mask

    def within(self, bounds: Collection[tuple[Compare, int | float]], num_rows: int) -> Mask:
        """bool ``[N]``: rows with a number for which every comparison with its bound holds."""
        mask = np.zeros(num_rows, dtype=np.bool_)  # [N]
        if self._numbers:
            values = _as_numpy(self._numbers)
            tests = [compare(values, bound) for compare, bound in (_for_floats(*one) for one in bounds)]
            _mark(mask, self._number_rows, np.logical_and.reduce(tests))
        inside = [row for row, number in self._large if all(compare(number, bound) for compare, bound in bounds)]
        mask[inside] = True
        return mask


def _as_numpy(values: array[Any]) -> npt.NDArray[Any]:
    """The array's memory, not copied."""
    return np.frombuffer(values, dtype=values.typecode) if values else np.empty(0, dtype=values.typecode)


def _mark(mask: Mask, rows: array[int], held: Mask) -> None:
    """Set the rows of the values that ``held``; several values may belong to one row."""
    places = _as_numpy(rows)
    if len(places) == len(mask) and np.array_equal(places, np.arange(len(mask))):  # one value in every row
        np.logical_or(mask, held, out=mask)
    else:
        mask[places[held]] = True


def _nearest(number: int | float) -> float:
    try:
        return float(number)
    except OverflowError:
        return math.inf if number > 0 else -math.inf


def _for_floats(compare: Compare, bound: int | float) -> tuple[Compare, float]:
    """The same comparison for float64 values, where numpy would round a large whole bound and Python would not."""
    near = _nearest(bound)
    if near > bound:  # no float lies between the two
        return (operator.ge, near) if compare in (operator.gt, operator.ge) else (operator.lt, near)
    if near < bound:
        return (operator.gt, near) if compare in (operator.gt, operator.ge) else (operator.le, near)
    return compare, near


_EMPTY = Column()


class MetadataColumns:
    """The columns of a table of metadata. Immutable once built, thread-safe."""

    def __init__(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """One pass over the rows; they are not kept."""
        self._columns: dict[str, Column] = {}
        self.num_rows = 0
        for number, row in enumerate(rows):
            self.num_rows = number + 1
            if row:
                self._add(number, row)

    @classmethod
    def from_json(cls, texts: Iterable[str]) -> MetadataColumns:
        """From one JSON object a row."""
        return cls(_EMPTY_ROW if text == "{}" else json.loads(text) for text in texts)

    @property
    def keys(self) -> list[str]:
        """The keys that any row has a value at."""
        return list(self._columns)

    def column(self, key: str) -> Column:
        """The values at a key; an empty column where no row has it."""
        return self._columns.get(key, _EMPTY)

    def _add(self, number: int, row: Mapping[str, Any]) -> None:
        columns = self._columns
        nested: list[tuple[str, Any]] = []
        for key, value in row.items():
            if isinstance(value, dict | list):
                for one in value if isinstance(value, list) else (value,):
                    if isinstance(one, dict):
                        nested.append((key, one))
                    elif one is not None:
                        self._column(key).add(number, one)
            elif value is not None:
                column = columns.get(key)
                if column is None:
                    column = columns[key] = Column()
                column.add(number, value)
        if nested:
            self._add_nested(number, row, nested)

    def _add_nested(self, number: int, row: Mapping[str, Any], ahead: list[tuple[str, Any]]) -> None:
        """Objects with the path that leads to them. A key with a dot in it is reached by no path, and a path that is a
        key of the row as it stands means that key."""
        ahead = [(path, value) for path, value in ahead if "." not in path]
        while ahead:
            path, value = ahead.pop()
            for part, inner in value.items():
                if "." in part:
                    continue
                whole = f"{path}.{part}"
                for one in inner if isinstance(inner, list) else (inner,):
                    if isinstance(one, dict):
                        ahead.append((whole, one))
                    elif one is not None and whole not in row:
                        self._column(whole).add(number, one)

    def _column(self, key: str) -> Column:
        return self._columns.setdefault(key, Column()) if key not in self._columns else self._columns[key]


_EMPTY_ROW: Mapping[str, Any] = {}
