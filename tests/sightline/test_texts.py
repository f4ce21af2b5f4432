from __future__ import annotations

import pytest

from sightline.errors import TextError
from sightline.texts import TextLimits, check_text, fit_caption

LIMITS = TextLimits(max_chars=40, max_word_chars=10)


def test_ordinary_text_passes_unchanged() -> None:
    text = "  A dog, on a beach ☀ "
    assert check_text(text, LIMITS) == text
    assert fit_caption(text, LIMITS) == text


@pytest.mark.parametrize(
    ("text", "words"), [("", "empty"), (" \n", "empty"), ("a " * 21, "characters"), ("b" * 11, "word")]
)
def test_queries_over_a_limit_are_refused(text: str, words: str) -> None:
    with pytest.raises(TextError, match=words):
        check_text(text, LIMITS)


def test_captions_over_a_limit_are_cut() -> None:
    fitted = fit_caption("c" * 100 + " dog " + "and more " * 20, LIMITS)
    assert fitted.startswith("c" * 10 + " dog and")
    assert len(fitted) <= 40
    with pytest.raises(TextError):
        fit_caption("   ", LIMITS)


def test_lone_surrogates_cannot_reach_the_tokenizer() -> None:
    check_text("a \ud800 b", LIMITS).encode("utf-8")
    fit_caption("\udfff" * 30, LIMITS).encode("utf-8")
