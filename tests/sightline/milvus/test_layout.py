"""Rows and queries as servers of half precision take and give them, which Milvus Lite does not."""

from __future__ import annotations

import json

import numpy as np
import pytest

from sightline.filters import Scalar
from sightline.milvus import layout
from sightline.milvus.capabilities import IndexPlan
from sightline.milvus.terms import CUT, MAX_TERM_BYTES, MAX_TERMS, searchable, value_term
from tests.sightline.index.worlds import unit

HALF, SINGLE = IndexPlan("IVF_SQ8", "FLOAT16_VECTOR"), IndexPlan("FLAT")


def test_vectors_in_every_form_that_servers_give() -> None:
    half = unit(3).astype(np.float16)
    single = half.astype(np.float32)
    for given in (
        [one.tobytes() for one in half],
        [[one.tobytes()] for one in half],
        list(single),
        single.tolist(),
        list(half),
    ):
        np.testing.assert_array_equal(layout.vectors_of([{"vector": one} for one in given], 16), single)


def test_queries_have_the_type_of_what_is_stored() -> None:
    assert all(one.dtype == np.float16 for one in layout.queries_for(unit(2), HALF))
    assert layout.queries_for(unit(2), SINGLE) == unit(2).tolist()
    row = layout.caption_row(0, 0, "a", unit(1)[0].astype(np.float16), searchable({}), HALF)
    assert row["vector"].dtype == np.float16


def test_a_description_of_any_length_comes_back() -> None:
    text = json.dumps({"name": "é" * 50_000})
    rows = layout.about_rows(text)
    assert len(rows) == 5
    assert "".join(row["text"] for row in rows) == text


def test_terms_hold_nothing_that_ends_a_string_and_are_never_too_long() -> None:
    nasty = {'k"]\\': ['"', "\\", "\n", "'", "é" * 500, "{x}", "\ud800"], "a" * 600: [1, 2]}
    for term in searchable(nasty).terms:
        assert len(term) <= MAX_TERM_BYTES
        assert set(term) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._~%=:#!-")


@pytest.mark.parametrize(("one", "other"), [(1, 1.0), (10**20, 1e20), (0, -0.0)])
def test_equal_numbers_have_one_term(one: float, other: float) -> None:
    assert value_term("k", one) == value_term("k", other)


def test_values_that_are_not_equal_have_terms_of_their_own() -> None:
    values: list[Scalar] = [1, True, "1", "True", 1.5, "1.5", 2**53, 2**53 + 1, "", False, 0, float("inf")]
    assert len({value_term("k", value) for value in values}) == len(values)
    assert value_term("a=s:b", "c") != value_term("a", "b=s:c")


def test_more_terms_than_fit_are_marked_and_not_cut() -> None:
    assert searchable({"k": list(range(MAX_TERMS + 1))}).terms == [CUT]
    assert len(searchable({"k": [str(number) for number in range(MAX_TERMS)]}).terms) == MAX_TERMS
