"""B26: millions of damaged files, bodies and filters: no crash, and none takes a second."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests import fuzzing

pytestmark = [pytest.mark.fault, pytest.mark.timeout(0), pytest.mark.filterwarnings("ignore")]


@pytest.mark.parametrize(
    ("fuzz", "number"),
    [(fuzzing.fuzz_pictures, 400_000), (fuzzing.fuzz_bodies, 1_000_000), (fuzzing.fuzz_filters, 1_000_000)],
    ids=["pictures", "bodies", "filters"],
)
def test_no_damage_does_harm(fuzz: Callable[..., int], number: int) -> None:
    """B26"""
    assert fuzz(number, seed=26) > number // 100
