from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from training.data import Negatives, NegativeSettings
from training.data.negatives import supplied_negatives

CAPTION = "a red ball left of a blue cube"


def made(seed: int = 0, supplied: tuple[str, ...] = (), **settings: Any) -> Negatives:
    return Negatives(NegativeSettings(**settings), [supplied] * 3, seed)


def test_as_many_as_asked_for_all_different_and_the_same_again() -> None:
    negatives = made(per_image=3, kinds=("attributes", "relations", "roles", "colours"))
    found = [negatives.of(CAPTION, 1, step) for step in range(20)]
    assert all(len(several) == len(set(several)) == 3 and CAPTION not in several for several in found)
    assert found == [made(per_image=3, kinds=("attributes", "relations", "roles", "colours")).of(CAPTION, 1, step)
                     for step in range(20)]  # fmt: skip
    assert len({tuple(several) for several in found}) > 5
    assert negatives.of(CAPTION, 2, 0) != found[0] or negatives.of(CAPTION, 2, 1) != found[1]


def test_kinds_take_turns() -> None:
    negatives = made(per_image=2, kinds=("relations", "colours"))
    for step in range(20):
        assert "a red ball right of a blue cube" in negatives.of(CAPTION, 0, step)


def test_a_caption_that_gives_too_few_gives_what_it_has() -> None:
    assert made(per_image=4, kinds=("attributes", "relations")).of("a dog", 0, 0) == []
    assert len(made(per_image=4, kinds=("relations",)).of(CAPTION, 0, 0)) == 1


def test_supplied_ones_are_used_but_never_the_caption_itself() -> None:
    negatives = made(supplied=("A dog.", "a cat"), per_image=2, kinds=("supplied",))
    assert negatives.of("a dog", 0, 0) == ["a cat"]


def test_where_supplied_negatives_are_found() -> None:
    metadata: list[dict[str, Any]] = [
        {"negatives": ["a", " a ", "b", ""]}, {"negatives": "c"}, {}, {"negatives": None}, {"negatives": [["d"], 3]},
        {"swap": {"swapped": "e"}}, {"swap.swapped": "f"},
    ]  # fmt: skip
    assert supplied_negatives(metadata, "negatives") == [("a", "b"), ("c",), (), (), ("d",), (), ()]
    assert supplied_negatives(metadata, "swap.swapped")[-2:] == [("e",), ("f",)]


@pytest.mark.parametrize(
    "wrong",
    [{"kinds": ()}, {"kinds": ("supplied", "supplied")}, {"kinds": ("verbs",)}, {"per_image": -1},
     {"exclusive": (("dog",),)}, {"exclusive": (("dog", "big cat"),)}, {"count": 1}],
)  # fmt: skip
def test_impossible_settings_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        NegativeSettings(**wrong)
