"""Captions that are false of the picture: supplied by the data, or made from the true one by rules.

What is made for a picture depends on (seed, step, row) and the caption alone. The rules are in
``training.data.false_captions``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any, Literal, get_args

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from training.data.captioned import caption_key
from training.data.false_captions import RULES, vocabulary

Kind = Literal["supplied", "attributes", "relations", "roles", "objects", "colours"]
_PURPOSE = 3  # keeps these draws apart from those of pictures and captions


class NegativeSettings(BaseModel):
    """The [data.negatives] table.

    ``per_image`` negatives stand behind the captions of every batch; 0 is off. ``kinds``, taken in turn where a caption
    allows them: "supplied" are those in the picture's metadata under ``supplied_key`` (a text or a list of texts;
    "swap.swapped" looks inside objects); "attributes" exchanges what is said of two things (a red ball and a blue cube
    → a blue ball and a red cube), "relations" turns a relation round (left of → right of), "roles" exchanges subject
    and object, "objects" and "colours" put another thing or colour in. ``exclusive`` adds lists of things of which a
    thing can be only one. The rules know English. Where a caption gives too few, captions of other pictures fill up.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    per_image: int = Field(default=0, ge=0, le=16)
    kinds: tuple[Kind, ...] = ("supplied", "attributes", "relations", "roles")
    supplied_key: str = Field(default="negatives", min_length=1)
    exclusive: tuple[tuple[str, ...], ...] = ()

    @model_validator(mode="after")
    def _kinds_fit(self) -> NegativeSettings:
        if not self.kinds or len(set(self.kinds)) < len(self.kinds):
            raise ValueError(f"needs kinds as one or more of {', '.join(get_args(Kind))}, each once")
        if any(len(several) < 2 or any(len(word.split()) != 1 for word in several) for several in self.exclusive):
            raise ValueError("needs at least two single words in each list of exclusive")
        return self


class Negatives:
    """Negatives of captions. ``supplied`` has those of each picture, in the order of the data. Thread-safe."""

    def __init__(self, settings: NegativeSettings, supplied: Sequence[tuple[str, ...]], seed: int) -> None:
        self.per_image = settings.per_image
        self.supplied = supplied
        self._settings = settings
        self._seed = seed
        self._made = lru_cache(maxsize=262_144)(self._make)

    def of(self, text: str, row: int, step: int) -> list[str]:
        """At most ``per_image`` different negatives of a caption of picture ``row`` in this step."""
        rng = np.random.default_rng([self._seed, step, row, _PURPOSE])
        pools = [list(pool) for pool in (self._supplied_to(text, row), *self._made(text)) if pool]
        order = rng.permutation(len(pools)).tolist()
        for pool in pools:
            rng.shuffle(pool)
        found: dict[str, str] = {}
        while any(pools) and len(found) < self.per_image:
            for place in order:
                if pools[place] and len(found) < self.per_image:
                    negative = pools[place].pop()
                    found.setdefault(caption_key(negative), negative)
        return list(found.values())

    def words(self) -> Iterator[str]:
        """Every word that a negative may have and its caption has not."""
        yield from vocabulary(self._settings.exclusive)
        for several in self.supplied:
            for text in several:
                yield from text.split()

    def _supplied_to(self, text: str, row: int) -> list[str]:
        """The supplied negatives that are not the caption itself."""
        if "supplied" not in self._settings.kinds:
            return []
        return [one for one in self.supplied[row] if caption_key(one) != caption_key(text)]

    def _make(self, text: str) -> tuple[tuple[str, ...], ...]:
        kinds = (kind for kind in self._settings.kinds if kind != "supplied")
        return tuple(RULES[kind](text, self._settings.exclusive) for kind in kinds)


def supplied_negatives(metadata: Sequence[Mapping[str, Any]], key: str) -> list[tuple[str, ...]]:
    """The texts under ``key`` of each picture's metadata; dots look inside objects. Empty texts do not count."""
    return [tuple(dict.fromkeys(_texts(_inside(entry, key)))) for entry in metadata]


def _inside(entry: Any, key: str) -> Any:
    if isinstance(entry, Mapping) and key in entry:
        return entry[key]
    for name in key.split("."):
        entry = entry.get(name) if isinstance(entry, Mapping) else None
    return entry


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str) and value.strip():
        yield value.strip()
    elif isinstance(value, list):
        for one in value:
            yield from _texts(one)
