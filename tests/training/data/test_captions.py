from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from pydantic import ValidationError

from training.data import CaptionSettings, Wording


def said(text: str, *, count: int = 200, seed: int = 0, **settings: Any) -> list[str]:
    """What a caption becomes for pictures 0 to ``count``."""
    wording = Wording(CaptionSettings(**settings), seed)
    return [wording.vary([text], 5, row)[0] for row in range(count)]


def test_it_is_off_by_default() -> None:
    assert not CaptionSettings().on
    assert set(said("A red dog.")) == {"A red dog."}


def test_templates_come_equally_often() -> None:
    counts = Counter(said("dog", templates=("{}", "a photo of a {}", "{}, outdoors")))
    assert set(counts) == {"dog", "a photo of a dog", "dog, outdoors"}
    assert min(counts.values()) > 45


def test_synonyms_replace_whole_words_and_phrases_and_keep_capitals() -> None:
    settings: dict[str, Any] = {"synonyms": {"dog": ("hound",), "traffic light": ("signal",)}, "synonym_chance": 1.0}
    assert set(said("Dog, dogs and a dog at a traffic light", **settings)) == {"Hound, dogs and a hound at a signal"}
    some = said("dog", synonyms={"dog": ("hound", "pup")}, synonym_chance=0.5, count=400)
    assert min(some.count(word) for word in ("dog", "hound", "pup")) > 60


def test_the_longer_phrase_goes_first() -> None:
    settings: dict[str, Any] = {"synonyms": {"light": ("lamp",), "traffic light": ("signal",)}, "synonym_chance": 1.0}
    assert set(said("a traffic light", **settings)) == {"a signal"}


def test_dropout_leaves_words_out_in_order_and_never_all() -> None:
    kept = said("one two three four", word_dropout=0.5)
    for text in kept:
        words = text.split()
        assert words and words == [word for word in ("one", "two", "three", "four") if word in words]
    assert set(said("word", word_dropout=0.9)) == {"word"}
    lengths = sum(len(text.split()) for text in said("a b c d e f g h i j", word_dropout=0.2, count=300))
    assert lengths / 3000 == pytest.approx(0.8, abs=0.03)


def test_seed_step_and_row_decide() -> None:
    settings: dict[str, Any] = {"word_dropout": 0.3, "templates": ("{}", "a picture of {}")}
    text = "a small dog runs over wet grass"
    assert said(text, **settings) == said(text, **settings)
    assert said(text, **settings) != said(text, seed=1, **settings)
    wording = Wording(CaptionSettings(**settings), 0)
    assert [wording.vary([text], step, 0) for step in range(20)] != [wording.vary([text], 0, 0)] * 20


def test_all_words_that_may_come_in_are_known() -> None:
    settings = CaptionSettings(templates=("a photo of {}.",), synonyms={"dog": ("old hound",)})
    assert {"a", "photo", "of", ".", "old", "hound"} <= set(settings.words())


@pytest.mark.parametrize(
    "wrong",
    [{"templates": ("a photo",)}, {"templates": ("{} {}",)}, {"synonyms": {"dog": ()}}, {"synonyms": {"dog": ("",)}},
     {"word_dropout": 1.0}, {"template": ("{}",)}],
)  # fmt: skip
def test_impossible_settings_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        CaptionSettings(**wrong)
