"""Filters on metadata: a small boolean language, evaluated exactly over every row.

``{"must": [C…], "should": [C…], "must_not": [C…]}`` where a condition C is ``{"key": "camera", "match": "X100"}``,
``{"key": "label", "any": ["cat", "dog"]}``, ``{"key": "year", "range": {"gte": 2020, "lt": 2024}}`` or a nested filter.
All of ``must`` hold, at least one of ``should`` where there are any, none of ``must_not`` (the names are Qdrant's).
A row without the key fails the condition. A list value matches when one of its members does. ``scene.things.colour``
is the path into nested objects and lists.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from sightline.errors import QueryError

Predicate = Callable[[Mapping[str, Any]], bool]

_COMPARE = {"gt": operator.gt, "gte": operator.ge, "lt": operator.lt, "lte": operator.le}
_MAX_CONDITIONS = 64
_MAX_DEPTH = 4


@dataclass(frozen=True)
class Filter:
    """A parsed filter; immutable and thread-safe."""

    predicate: Predicate

    def mask(self, metadata: Sequence[Mapping[str, Any]]) -> npt.NDArray[np.bool_]:
        """bool ``[N]``: which rows the filter keeps."""
        return np.fromiter((self.predicate(row) for row in metadata), dtype=np.bool_, count=len(metadata))


def parse_filter(raw: object) -> Filter:
    """Parse a filter from JSON. Raises QueryError with what is wrong and what would be right."""
    budget = [_MAX_CONDITIONS]
    return Filter(_clause(raw, budget, depth=0))


def _clause(raw: object, budget: list[int], depth: int) -> Predicate:
    if depth > _MAX_DEPTH:
        raise QueryError(f"The filter is nested deeper than {_MAX_DEPTH} levels; flatten it.", limit_depth=_MAX_DEPTH)
    if not isinstance(raw, dict) or not raw:
        raise QueryError('A filter is an object like {"must": [{"key": "label", "match": "cat"}]}.')
    if "key" in raw:
        return _condition(raw, budget)
    unknown = set(raw) - {"must", "should", "must_not"}
    if unknown:
        raise QueryError(f"'{min(map(str, unknown))}' is no part of a filter; use must, should and must_not.")
    must, should, must_not = (
        [_clause(part, budget, depth + 1) for part in _list(raw.get(name, []), name)]
        for name in ("must", "should", "must_not")
    )

    def holds(row: Mapping[str, Any]) -> bool:
        return (
            all(part(row) for part in must)
            and (not should or any(part(row) for part in should))
            and not any(part(row) for part in must_not)
        )

    return holds


def _list(raw: object, name: str) -> list[object]:
    if not isinstance(raw, list):
        raise QueryError(f"'{name}' of a filter is a list of conditions.")
    return raw


def _condition(raw: dict[str, Any], budget: list[int]) -> Predicate:
    budget[0] -= 1
    if budget[0] < 0:
        raise QueryError(f"The filter has more than {_MAX_CONDITIONS} conditions.", limit_conditions=_MAX_CONDITIONS)
    key, tests = raw["key"], set(raw) - {"key"}
    if not isinstance(key, str) or len(tests) != 1 or not tests <= {"match", "any", "range"}:
        raise QueryError("A condition has a key and exactly one of match, any and range.")
    if "match" in raw:
        return _matches(key, [_scalar(raw["match"])])
    if "any" in raw:
        return _matches(key, [_scalar(value) for value in _list(raw["any"], "any")])
    return _in_range(key, raw["range"])


def _scalar(value: object) -> str | int | float | bool:
    if isinstance(value, bool | int | float | str):
        return value
    raise QueryError("A filter compares with strings, numbers, true and false only.")


def _same(value: object, wanted: object) -> bool:
    return value == wanted and isinstance(value, bool) == isinstance(wanted, bool)


def _values(row: Mapping[str, Any], key: str) -> list[Any]:
    """Every value at a key; a key that is not there as it stands is a path through objects and lists."""
    if key in row:
        found = [row[key]]
    else:
        found = [row]
        for part in key.split("."):
            found = [value[part] for value in _flat(found) if isinstance(value, Mapping) and part in value]
    return [value for value in _flat(found) if value is not None]


def _flat(values: list[Any]) -> list[Any]:
    return [one for value in values for one in (value if isinstance(value, list) else [value])]


def _matches(key: str, wanted: list[str | int | float | bool]) -> Predicate:
    return lambda row: any(_same(value, one) for value in _values(row, key) for one in wanted)


def _in_range(key: str, bounds: object) -> Predicate:
    if not isinstance(bounds, dict) or not bounds or set(bounds) - set(_COMPARE):
        raise QueryError('A range is an object with gt, gte, lt or lte, like {"gte": 2020}.')
    if any(isinstance(bound, bool) or not isinstance(bound, int | float) for bound in bounds.values()):
        raise QueryError("The bounds of a range are numbers.")
    tests = [(_COMPARE[name], bound) for name, bound in bounds.items()]

    def inside(row: Mapping[str, Any]) -> bool:
        return any(
            isinstance(value, int | float) and not isinstance(value, bool) and all(test(value, b) for test, b in tests)
            for value in _values(row, key)
        )

    return inside
