"""Columns answer what a look at every row would."""

from __future__ import annotations

import json
import operator
from collections.abc import Mapping
from typing import Any

import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sightline.columns import MetadataColumns
from sightline.filters import parse_filter

COMPARE = {"gt": operator.gt, "gte": operator.ge, "lt": operator.lt, "lte": operator.le}

# The naive evaluation: the meaning of a filter, row by row.


def holds(raw: Mapping[str, Any], row: Mapping[str, Any]) -> bool:
    if "key" in raw:
        values = values_at(row, raw["key"])
        if "range" in raw:
            return any(
                is_number(value) and all(COMPARE[name](value, bound) for name, bound in raw["range"].items())
                for value in values
            )
        wanted = raw["any"] if "any" in raw else [raw["match"]]
        return any(
            value == one and isinstance(value, bool) == isinstance(one, bool) for value in values for one in wanted
        )
    must, should, must_not = (raw.get(name, []) for name in ("must", "should", "must_not"))
    return (
        all(holds(part, row) for part in must)
        and (not should or any(holds(part, row) for part in should))
        and not any(holds(part, row) for part in must_not)
    )


def values_at(row: Mapping[str, Any], key: str) -> list[Any]:
    if key in row:
        found: list[Any] = [row[key]]
    else:
        found = [row]
        for part in key.split("."):
            found = [value[part] for value in flat(found) if isinstance(value, Mapping) and part in value]
    return [value for value in flat(found) if value is not None]


def flat(values: list[Any]) -> list[Any]:
    return [one for value in values for one in (value if isinstance(value, list) else [value])]


def is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


NUMBERS = (
    st.integers(-3, 3)
    | st.sampled_from([0.5, -0.0, 1.0, 2.0**53, 1e300, float("inf"), float("-inf")])
    | st.sampled_from([2**53, 2**53 + 1, -(2**53) - 1, 2**63, 10**300, 10**400, -(10**400)])
)
SCALARS = NUMBERS | st.sampled_from(["a", "b", "", "1", "Ünï", "\ud800"]) | st.booleans()
KEYS = st.sampled_from(["a", "b", "a.b", "", ".", "a.b.a", "a."])
VALUES = st.recursive(
    SCALARS | st.none() | st.just(float("nan")),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=6,
)
ROWS = st.lists(st.dictionaries(KEYS, VALUES, max_size=4), max_size=8)
CONDITIONS = st.one_of(
    st.fixed_dictionaries({"key": KEYS, "match": SCALARS}),
    st.fixed_dictionaries({"key": KEYS, "any": st.lists(SCALARS, max_size=4)}),
    st.fixed_dictionaries(
        {"key": KEYS, "range": st.dictionaries(st.sampled_from(list(COMPARE)), NUMBERS, min_size=1, max_size=3)}
    ),
)
FILTERS = st.recursive(
    CONDITIONS,
    lambda inner: st.dictionaries(
        st.sampled_from(["must", "should", "must_not"]), st.lists(inner, max_size=3), min_size=1
    ),
    max_leaves=5,
).filter(lambda raw: depth(raw) <= 4)


def depth(raw: Mapping[str, Any]) -> int:
    if "key" in raw:
        return 0
    return 1 + max((depth(part) for parts in raw.values() for part in parts), default=0)


@settings(max_examples=400, deadline=None)
@given(ROWS, FILTERS)
@example([{"a.b": None, "a": {"b": 1}}], {"key": "a.b", "match": 1})
@example([{"a": 2**53 + 1}, {"a": float(2**53)}], {"key": "a", "range": {"gt": 2**53}})
@example([{"a": 1e300}, {"a": 10**300}], {"key": "a", "match": 10**300})
@example([{"a": [1, 1]}, {"a": []}], {"key": "a", "match": 1})
def test_columns_and_rows_agree(rows: list[dict[str, Any]], raw: dict[str, Any]) -> None:
    expected = [holds(raw, row) for row in rows]
    assert parse_filter(raw).mask(MetadataColumns(rows)).tolist() == expected


def test_json_rows_are_the_same_rows() -> None:
    rows: list[dict[str, Any]] = [{}, {"a": [1, "x"]}, {}, {"b": {"c": True}}]
    columns = MetadataColumns.from_json(json.dumps(row) for row in rows)
    assert columns.num_rows == 4
    assert parse_filter({"key": "a", "match": "x"}).mask(columns).tolist() == [False, True, False, False]
    assert parse_filter({"key": "b.c", "match": True}).mask(columns).tolist() == [False, False, False, True]


def test_a_mask_is_the_callers_own() -> None:
    columns = MetadataColumns([{"a": 1}, {"a": 2}])
    mask = parse_filter({"key": "a", "match": 1}).mask(columns)
    mask[:] = False
    assert parse_filter({"key": "a", "match": 1}).mask(columns).tolist() == [True, False]


def test_metadata_nested_a_thousand_deep_is_read() -> None:
    deep: Any = 1
    for _ in range(900):
        deep = {"a": deep}
    columns = MetadataColumns([deep])
    assert parse_filter({"key": ".".join("a" * 900), "match": 1}).mask(columns).tolist() == [True]
    np.testing.assert_array_equal(parse_filter({"key": "a", "match": 1}).mask(columns), [False])
