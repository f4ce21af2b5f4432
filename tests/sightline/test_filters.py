from __future__ import annotations

import pytest

from sightline.columns import MetadataColumns
from sightline.errors import QueryError
from sightline.filters import parse_filter

ROWS = [
    {"label": "cat", "year": 2020, "tags": ["indoor", "night"], "public": True},
    {"label": "dog", "year": 2022, "tags": ["outdoor"], "public": False},
    {"label": "cat", "year": 2023.5},
    {},
    {"label": 1, "public": 1, "year": "2022", "scene": {"things": [{"hue": "red"}, {"hue": None}], "a.b": 3}, "x.y": 1},
]


@pytest.mark.parametrize(
    ("raw", "kept"),
    [
        ({"key": "label", "match": "cat"}, [0, 2]),
        ({"key": "label", "any": ["dog", 1]}, [1, 4]),
        ({"key": "tags", "match": "night"}, [0]),
        ({"key": "year", "range": {"gte": 2020, "lt": 2023}}, [0, 1]),
        ({"key": "year", "range": {"gt": 2020}}, [1, 2]),
        ({"key": "public", "match": True}, [0]),
        ({"key": "public", "match": 1}, [4]),
        ({"must": [{"key": "label", "match": "cat"}], "must_not": [{"key": "year", "range": {"lte": 2020}}]}, [2]),
        ({"should": [{"key": "label", "match": "dog"}, {"key": "tags", "match": "indoor"}]}, [0, 1]),
        ({"must_not": [{"key": "label", "any": ["cat", "dog", 1]}]}, [3]),
        ({"must": []}, [0, 1, 2, 3, 4]),
        ({"key": "scene.things.hue", "match": "red"}, [4]),
        ({"key": "scene.things", "match": "red"}, []),
        ({"key": "x.y", "match": 1}, [4]),
        ({"must": [{"should": [{"key": "label", "match": "dog"}]}]}, [1]),
    ],
)
def test_filters_keep_what_they_say(raw: dict[str, object], kept: list[int]) -> None:
    assert parse_filter(raw).mask(MetadataColumns(ROWS)).nonzero()[0].tolist() == kept


@pytest.mark.parametrize(
    "raw",
    [
        None, [], {}, "label=cat", {"label": "cat"}, {"must": {"key": "a", "match": 1}}, {"key": "a"},
        {"key": "a", "match": 1, "any": [1]}, {"key": "a", "match": None}, {"key": "a", "match": {"x": 1}},
        {"key": "a", "range": {}}, {"key": "a", "range": {"gte": "x"}}, {"key": "a", "range": {"above": 1}},
        {"key": 3, "match": 1}, {"key": "a", "any": 3}, {"must": [{"must": [{"must": [{"must": [{"must": [{}]}]}]}]}]},
        {"must": [{"key": "a", "match": 1}] * 65},
    ],
)  # fmt: skip
def test_what_is_no_filter_is_refused(raw: object) -> None:
    with pytest.raises(QueryError):
        parse_filter(raw)


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        ({"must": [{"key": "a", "match": 1}] * 65}, "more than 64 conditions"),
        ({"must": [{"should": []}] * 65}, "more than 64 conditions"),
        ({"key": "a", "any": list(range(10_001))}, "more than 10,000 values"),
        ({"x" * 1000: []}, "^'x{64}' is no part"),
    ],
    ids=["conditions", "groups", "values", "long key"],
)
def test_a_filter_that_costs_too_much_is_refused(raw: object, words: str) -> None:
    with pytest.raises(QueryError, match=words):
        parse_filter(raw)
    at_the_limit = {"must": [{"key": "a", "any": list(range(10_000))}, *[{"key": "a", "match": 1}] * 63]}
    assert parse_filter(at_the_limit)
