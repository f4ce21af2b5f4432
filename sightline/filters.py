"""Filters on metadata: a small boolean language, evaluated exactly over every row, column by column.

``{"must": [C…], "should": [C…], "must_not": [C…]}`` where a condition C is ``{"key": "camera", "match": "X100"}``,
``{"key": "label", "any": ["cat", "dog"]}``, ``{"key": "year", "range": {"gte": 2020, "lt": 2024}}`` or a nested filter.
All of ``must`` hold, at least one of ``should`` where there are any, none of ``must_not`` (the names are Qdrant's).
A row without the key fails the condition. A list value matches when one of its members does. ``scene.things.colour``
is the path into nested objects and lists.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import Any

import numpy as np

from sightline.columns import Mask, MetadataColumns
from sightline.errors import QueryError

Scalar = str | int | float | bool

COMPARE = {"gt": operator.gt, "gte": operator.ge, "lt": operator.lt, "lte": operator.le}
MAX_CONDITIONS = 64
"""In one filter, groups within groups counted too: each is a look at every row."""
MAX_VALUES = 10_000
"""In one ``any``."""
_MAX_DEPTH = 4


@dataclass(frozen=True)
class OneOf:
    """A row has one of these values at the key."""

    key: str
    values: tuple[Scalar, ...]

    def rows(self, columns: MetadataColumns) -> Mask:
        """bool ``[N]``, an array of its own: which rows fulfil the clause."""
        return columns.column(self.key).equal_to(self.values, columns.num_rows)


@dataclass(frozen=True)
class Within:
    """A row has a number at the key for which every comparison holds; ``bounds`` are (gt, gte, lt or lte, bound)."""

    key: str
    bounds: tuple[tuple[str, int | float], ...]

    def rows(self, columns: MetadataColumns) -> Mask:
        """bool ``[N]``, an array of its own: which rows fulfil the clause."""
        bounds = [(COMPARE[name], bound) for name, bound in self.bounds]
        return columns.column(self.key).within(bounds, columns.num_rows)


@dataclass(frozen=True)
class Group:
    """All of ``must`` hold, one of ``should`` where there are any, none of ``must_not``."""

    must: tuple[Clause, ...]
    should: tuple[Clause, ...]
    must_not: tuple[Clause, ...]

    def rows(self, columns: MetadataColumns) -> Mask:
        """bool ``[N]``, an array of its own: which rows fulfil the clause."""
        kept = np.ones(columns.num_rows, dtype=np.bool_)  # [N]
        for part in self.must:
            kept &= part.rows(columns)
        if self.should:
            kept &= np.logical_or.reduce([part.rows(columns) for part in self.should])
        for part in self.must_not:
            kept &= ~part.rows(columns)
        return kept


Clause = OneOf | Within | Group


@dataclass(frozen=True)
class Filter:
    """A parsed filter; immutable and thread-safe."""

    clause: Clause

    def mask(self, columns: MetadataColumns) -> Mask:
        """bool ``[N]``: which rows the filter keeps."""
        return self.clause.rows(columns)


def parse_filter(raw: object) -> Filter:
    """Parse a filter from JSON. Raises QueryError with what is wrong and what would be right."""
    budget = [MAX_CONDITIONS]
    return Filter(_clause(raw, budget, depth=0))


def _clause(raw: object, budget: list[int], depth: int) -> Clause:
    if depth > _MAX_DEPTH:
        raise QueryError(f"The filter is nested deeper than {_MAX_DEPTH} levels; flatten it.", limit_depth=_MAX_DEPTH)
    if not isinstance(raw, dict) or not raw:
        raise QueryError('A filter is an object like {"must": [{"key": "label", "match": "cat"}]}.')
    if "key" in raw:
        return _condition(raw, budget)
    unknown = set(raw) - {"must", "should", "must_not"}
    if unknown:
        raise QueryError(f"'{min(unknown)[:64]}' is no part of a filter; use must, should and must_not.")
    if depth:
        _spend(budget)
    must, should, must_not = (
        tuple(_clause(part, budget, depth + 1) for part in _list(raw.get(name, []), name))
        for name in ("must", "should", "must_not")
    )
    return Group(must, should, must_not)


def _spend(budget: list[int]) -> None:
    """Count a condition, or a group of them within another: either costs a look at every row."""
    budget[0] -= 1
    if budget[0] < 0:
        raise QueryError(f"The filter has more than {MAX_CONDITIONS} conditions.", limit_conditions=MAX_CONDITIONS)


def _list(raw: object, name: str) -> list[object]:
    if not isinstance(raw, list):
        raise QueryError(f"'{name}' of a filter is a list of conditions.")
    return raw


def _condition(raw: dict[str, Any], budget: list[int]) -> Clause:
    _spend(budget)
    key, tests = raw["key"], set(raw) - {"key"}
    if not isinstance(key, str) or len(tests) != 1 or not tests <= {"match", "any", "range"}:
        raise QueryError("A condition has a key and exactly one of match, any and range.")
    if "range" in raw:
        return _in_range(key, raw["range"])
    wanted = [raw["match"]] if "match" in raw else _list(raw["any"], "any")
    if len(wanted) > MAX_VALUES:
        raise QueryError(f"An any of the filter has more than {MAX_VALUES:,} values.", limit_values=MAX_VALUES)
    return OneOf(key, tuple(_scalar(value) for value in wanted))


def _scalar(value: object) -> Scalar:
    if isinstance(value, bool | int | float | str):
        return value
    raise QueryError("A filter compares with strings, numbers, true and false only.")


def _in_range(key: str, raw: object) -> Clause:
    if not isinstance(raw, dict) or not raw or set(raw) - set(COMPARE):
        raise QueryError('A range is an object with gt, gte, lt or lte, like {"gte": 2020}.')
    if any(isinstance(bound, bool) or not isinstance(bound, int | float) for bound in raw.values()):
        raise QueryError("The bounds of a range are numbers.")
    return Within(key, tuple(raw.items()))
