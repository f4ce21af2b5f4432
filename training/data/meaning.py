"""Whether two captions say the same, as far as rules can tell: what keeps a rule-made negative from being true."""

from __future__ import annotations

import re
from functools import lru_cache

from training.data.lexicon import ACTIONS, ARTICLES, ASYMMETRIC, ATTRIBUTES, FLIPPED, NOUN_SYNONYMS, SAME, SYMMETRIC

_WORD = re.compile(r"[^\W_]+(?:['\u2019-][^\W_]+)*|[^\w\s]")
_SIDES = re.compile(r"\b(?:(?:to|on|at) )?(?:the )?(left|right)(?: hand)?(?: side)? of\b")
_AT_SIDE = re.compile(
    r"\b(?:on|at|to|in) (left|right|top|bottom|centre|center|middle|front|back)\b"
    r"(?: (?:side|edge|corner|hand)\b)?(?! of)"
)
_PLURAL = re.compile(r"(?<=[^s])s$")
_RELATIONS = sorted(
    {*FLIPPED, *SAME, *SYMMETRIC, *ACTIONS, *ASYMMETRIC, "between"} - {"and"}, key=lambda name: (-len(name), name)
)
_RELATION = re.compile(rf"\b(?:{'|'.join(_RELATIONS)})\b")
_PARTS = re.compile(r"\band\b|,|;|\bwhile\b|\bbut\b")


def words_of(text: str) -> list[tuple[str, int, int]]:
    """The words and signs of a text, lower-cased, each with where it starts and ends."""
    return [(match[0].casefold(), match.start(), match.end()) for match in _WORD.finditer(text)]


def stem(noun: str) -> str:
    """A noun in the singular, synonyms as one."""
    noun = NOUN_SYNONYMS.get(noun, noun)
    if len(noun) > 3:
        noun = _PLURAL.sub("", noun)
    return NOUN_SYNONYMS.get(noun, noun)


@lru_cache(maxsize=65_536)
def meaning(text: str) -> str:
    """A form that captions of the same meaning share: articles and synonyms are gone, the order of what is only listed
    does not count, and "B right of A" is "A left of B"."""
    plain = " ".join(word for word, _, _ in words_of(text)).rstrip(" .!")
    plain = re.sub(r"\bplus sign\b", "cross", plain)
    plain = _SIDES.sub(r"\1 of", plain)
    plain = " ".join(word for word in plain.split() if word not in ARTICLES)
    return _said(_AT_SIDE.sub(r"@\1", plain))


def _said(text: str) -> str:
    found = _RELATION.search(text)
    if found is None or not text[: found.start()].strip() or not text[found.end() :].strip():
        parts = (_bag(part) for part in _PARTS.split(text))
        return "+".join(sorted(part for part in parts if part))
    name = found[0]
    sides = [_said(text[: found.start()]), _said(text[found.end() :])]
    if name in FLIPPED:
        name, sides = FLIPPED[name], sides[::-1]
    elif name in SYMMETRIC:
        sides.sort()
    return f"({sides[0]} {SAME.get(name, name)} {sides[1]})"


def _bag(text: str) -> str:
    """Words in their order, but what is said of one thing ("small red", "red small") in no order."""
    found: list[str] = []
    run: list[str] = []
    for word in text.split():
        if word in ATTRIBUTES:
            run.append(ATTRIBUTES[word][1])
        else:
            found += [*sorted(run), stem(word)]
            run = []
    return " ".join(found + sorted(run))
