"""What is said of a picture in one step: templates, synonyms, word dropout, all off by default.

What is drawn for a picture depends on (seed, step, row) alone. Meaning is kept: a synonym table is the user's word for
what means the same, and dropout never takes the last word.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from functools import cached_property

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

_PURPOSE = 2  # keeps these draws apart from those of pictures and negatives


class CaptionSettings(BaseModel):
    """The [data.wording] table.

    ``templates`` such as "a photo of {}" are drawn with equal chances; put "{}" among them to leave some captions as
    they are. ``synonyms`` maps a word or phrase to others of the same meaning; each occurrence is replaced with
    ``synonym_chance``. ``word_dropout`` is the chance of each word to be left out.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    templates: tuple[str, ...] = ()
    synonyms: dict[str, tuple[str, ...]] = {}
    synonym_chance: float = Field(default=0.1, ge=0, le=1)
    word_dropout: float = Field(default=0.0, ge=0, lt=1)

    @model_validator(mode="after")
    def _templates_fit(self) -> CaptionSettings:
        for template in self.templates:
            if template.count("{}") != 1:
                raise ValueError(f"needs exactly one {{}} in each of the templates, and '{template}' has not")
        for word, others in self.synonyms.items():
            if not word.strip() or not others or any(not other.strip() for other in others):
                raise ValueError(f"needs at least one other word for '{word}' in synonyms, and none of them empty")
        return self

    @property
    def on(self) -> bool:
        """Whether any caption may change at all."""
        return bool(self.templates) or bool(self.synonyms and self.synonym_chance) or self.word_dropout > 0

    def words(self) -> Iterator[str]:
        """Every word that these settings may put into a caption."""
        for text in (*self.templates, *(other for others in self.synonyms.values() for other in others)):
            yield from text.replace("{}", " ").split()


class Wording:
    """Random changes of captions. Thread-safe."""

    def __init__(self, settings: CaptionSettings, seed: int) -> None:
        self._settings = settings
        self._seed = seed

    def vary(self, texts: Iterable[str], step: int, row: int) -> list[str]:
        """The captions of the picture ``row`` as they are said in this step."""
        rng = np.random.default_rng([self._seed, step, row, _PURPOSE])
        return [self._one(text, rng) for text in texts]

    def _one(self, text: str, rng: np.random.Generator) -> str:
        settings = self._settings
        if self._pattern is not None:
            text = self._pattern.sub(lambda match: self._other(match[0], rng), text)
        if settings.word_dropout:
            text = _without_some(text, settings.word_dropout, rng)
        if settings.templates:
            text = settings.templates[int(rng.integers(len(settings.templates)))].replace("{}", text)
        return text

    @cached_property
    def _synonyms(self) -> dict[str, tuple[str, ...]]:
        return {word.casefold(): others for word, others in self._settings.synonyms.items()}

    @cached_property
    def _pattern(self) -> re.Pattern[str] | None:
        """Any of the words of the table, the longest first, as whole words in any case."""
        if not self._settings.synonyms or not self._settings.synonym_chance:
            return None
        words = sorted(self._settings.synonyms, key=lambda word: (-len(word), word))
        return re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, words))})(?!\w)", re.IGNORECASE)

    def _other(self, word: str, rng: np.random.Generator) -> str:
        chance, choice = rng.random(2)
        others = self._synonyms.get(word.casefold(), ())
        if not others or chance >= self._settings.synonym_chance:
            return word
        other = others[int(choice * len(others))]
        return other[0].upper() + other[1:] if word[0].isupper() else other


def _without_some(text: str, chance: float, rng: np.random.Generator) -> str:
    words = text.split()
    draws = rng.random(len(words))
    kept = [word for word, draw in zip(words, draws, strict=True) if draw >= chance]
    return " ".join(kept) if kept else words[int(draws.argmax())]
