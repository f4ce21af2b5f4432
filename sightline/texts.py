"""Texts before the tokenizer: bounded, so that no caption or query can cost more than it should.

open_clip's byte-pair tokenizer is super-linear in the length of a word (16,000 letters take 9.8 s) and remembers every
word it has seen. Queries over a limit are refused (``check_text``); captions of a data set, which nobody can correct
one by one, are cut to what a text tower reads anyway (``fit_caption``). Cleaning itself (lower-casing, canonical
punctuation, padding) belongs to the checkpoint's tokenizer and is never done here: doing it twice or differently
changes the vectors.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from sightline.errors import TextError

_LONE_SURROGATES = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True)
class TextLimits:
    """``max_chars``: 1,024 characters are over three times what 77 tokens hold. ``max_word_chars`` bounds the
    tokenizer's time on one word (100 letters cost about a millisecond)."""

    max_chars: int = 1024
    max_word_chars: int = 100


@dataclass(frozen=True)
class TextSpec:
    """How a checkpoint reads texts; written into its bundle, part of its fingerprint.

    ``tokenizer`` names the kind and origin (``clip-bpe`` or a hub id), ``context_length`` counts tokens, ``clean`` is
    the tokenizer's own cleaning and ``padding`` says whether padding is read (``max_length``) or ignored (``causal``).
    """

    tokenizer: str
    context_length: int
    clean: str
    padding: str


def check_text(text: str, limits: TextLimits) -> str:
    """Return the text with lone surrogates replaced, or raise TextError naming the limit."""
    if not text.strip():
        raise TextError("The text is empty; write at least one word.")
    if len(text) > limits.max_chars:
        raise TextError(
            f"The text has {len(text):,} characters and the limit is {limits.max_chars:,}; shorten it.",
            limit_chars=limits.max_chars,
        )
    if any(len(word) > limits.max_word_chars for word in text.split()):
        raise TextError(
            f"A word of the text has more than {limits.max_word_chars} characters; split or shorten it.",
            limit_word_chars=limits.max_word_chars,
        )
    return _LONE_SURROGATES.sub("\ufffd", text)


def fit_caption(text: str, limits: TextLimits) -> str:
    """Cut a caption to the limits: over-long words, then the tail. Raises TextError when nothing is left."""
    try:
        return check_text(text, limits)
    except TextError:
        words = [word[: limits.max_word_chars] for word in text[: 4 * limits.max_chars].split()]
        if not words:
            raise
        fitted = " ".join(words)[: limits.max_chars]
        return _LONE_SURROGATES.sub("\ufffd", fitted)
