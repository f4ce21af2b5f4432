"""Rules that make a false caption of a true one, in English and without a parser.

Each rule takes a caption and returns every negative it can make, none of them equal to the caption or, as far as
``training.data.meaning`` can tell, of the same meaning. A caption that denies something gives none: what is false of
"no dog" may be anything. The kinds follow NegCLIP (Yuksekgonul et al. 2023, arXiv 2210.01936) and SugarCrepe (Hsieh et
al. 2023, arXiv 2306.14610).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import combinations

from training.data.captioned import caption_key
from training.data.lexicon import (
    ACTIONS,
    ASYMMETRIC,
    ATTRIBUTES,
    COLOURS,
    COPULAS,
    EXCLUSIVE,
    FLIPPED,
    FUNCTION_WORDS,
    JOINTS,
    NEAR_COLOURS,
    NEGATORS,
    OPPOSITES,
    SAME,
    SINGULAR,
)
from training.data.meaning import meaning, stem, words_of

Exclusive = tuple[tuple[str, ...], ...]
Rule = Callable[[str, Exclusive], tuple[str, ...]]

_BLACK_AND_WHITE = re.compile(r"\bblack[ -](?:and|&)[ -]white\b", re.IGNORECASE)
_IN_ORDER = re.compile(
    r"\bfrom (?:the )?(?:left|right|top|bottom) to (?:the )?(?:left|right|top|bottom)\b", re.IGNORECASE
)
_DIRECTION = re.compile(
    r"\b(?:(?<=\bthe )|(?<=\bon )|(?<=\bto )|(?<=\btop )|(?<=\bbottom )|(?<=\bupper )|(?<=\blower )|(?<=\bfar ))"
    r"(left|right)\b|\b(left|right)(?= (?:of|side|corner|edge|hand)\b)",
    re.IGNORECASE,
)
_END = re.compile(r"(?<=\bthe )(top|bottom)\b|\b(top|bottom)(?= (?:left|right|corner|edge)\b)", re.IGNORECASE)
_NO_PLACE = re.compile(
    r"\bon (?:(?:a|an|the|its|his|her|their) )?(?:\w+ ){0,2}(?:background|day|night|side|left|right|top|bottom|way|"
    r"fire|foot|edge|phone|tv|television)\b",
    re.IGNORECASE,
)
_NAMES = sorted({*FLIPPED, *SAME, *ASYMMETRIC, *ACTIONS}, key=lambda name: -len(name))
_BETWEEN = re.compile(
    rf"\s+(?:(?:is|are|was|were)\s+)?(?:\w+ing\s+)?(?:to the\s+|on the\s+)?(?:{'|'.join(_NAMES)})\s+(?=\w)",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class _Edit:
    """Put ``text`` in place of what stands from ``start`` to ``end``."""

    start: int
    end: int
    text: str


def swapped_attributes(text: str, exclusive: Exclusive = ()) -> tuple[str, ...]:
    """Two attributes of one kind that belong to different things change places."""
    words = words_of(text)
    found = [(place, ATTRIBUTES[word], head) for place, (word, _, _) in enumerate(words)
             if word in ATTRIBUTES and (head := _head(words, place)) is not None]  # fmt: skip
    edits = []
    for (first, (kind, plain), head), (second, (other_kind, other), other_head) in combinations(found, 2):
        if kind == other_kind and plain != other and stem(head) != stem(other_head):
            edits.append(_exchanged(text, words[first][1:], words[second][1:]))
    return _negatives(text, edits)


def turned_relations(text: str, exclusive: Exclusive = ()) -> tuple[str, ...]:
    """A relation or a side becomes its opposite, everywhere in the caption at once."""
    if _IN_ORDER.search(text):
        return ()  # what was listed from left to right may read the same from right to left
    edits = []
    for one, other in OPPOSITES:
        places = list(_occurrences(text, one, other))
        if places:
            edits.append([_Edit(match.start(), match.end(), to) for match, to in places])
    return _negatives(text, edits)


def swapped_roles(text: str, exclusive: Exclusive = ()) -> tuple[str, ...]:
    """Subject and object of a relation that has a direction change places; their articles stay."""
    edits = []
    for match in _BETWEEN.finditer(text):
        before, after = _phrase_before(text, match.start()), _phrase_after(text, match.end())
        if before is not None and after is not None:
            edits.append(_exchanged(text, before, after))
    return _negatives(text, edits)


def replaced_objects(text: str, exclusive: Exclusive = ()) -> tuple[str, ...]:
    """A thing becomes another of its list that the caption does not name."""
    words = words_of(text)
    named = {stem(word) for word, _, _ in words}
    edits = []
    for several in (*EXCLUSIVE, *exclusive):
        plurals = {_plural(word): word for word in several}
        for word, start, end in words:
            single = plurals.get(word, word)
            if single not in several:
                continue
            others = (other for other in several if stem(other) not in named)
            edits += [[_Edit(start, end, other if word == single else _plural(other))] for other in others]
    return _negatives(text, edits)


def replaced_colours(text: str, exclusive: Exclusive = ()) -> tuple[str, ...]:
    """A colour becomes one that nobody would call the same and the caption does not name."""
    words = words_of(text)
    spared = [match.span() for match in _BLACK_AND_WHITE.finditer(text)]
    named = {ATTRIBUTES[word][1] for word, _, _ in words if word in ATTRIBUTES}
    edits = []
    for place, (word, start, end) in enumerate(words):
        plain = ATTRIBUTES.get(word, ("", ""))[1]
        if plain not in COLOURS or _head(words, place) is None or any(a <= start < b for a, b in spared):
            continue
        others = (other for other in COLOURS if other not in named and frozenset((plain, other)) not in NEAR_COLOURS)
        edits += [[_Edit(start, end, other)] for other in others]
    return _negatives(text, edits)


RULES: dict[str, Rule] = {
    "attributes": swapped_attributes,
    "relations": turned_relations,
    "roles": swapped_roles,
    "objects": replaced_objects,
    "colours": replaced_colours,
}


def vocabulary(exclusive: Exclusive = ()) -> Iterator[str]:
    """Every word that the rules may put in."""
    yield from ("a", "an", *COLOURS)
    for pair in OPPOSITES:
        for phrase in pair:
            yield from phrase.split()
    for several in (*EXCLUSIVE, *exclusive):
        for word in several:
            yield from (word, _plural(word))


def _negatives(text: str, edits: Iterable[list[_Edit]]) -> tuple[str, ...]:
    """The caption with each of these groups of edits, without repeats and without those that say the same."""
    if any(word in NEGATORS for word, _, _ in words_of(text)):
        return ()
    made = (_edited(text, group) for group in edits)
    said, key = meaning(text), caption_key(text)
    return tuple(dict.fromkeys(one for one in made if caption_key(one) != key and meaning(one) != said))


def _edited(text: str, edits: list[_Edit]) -> str:
    """The text with its edits: a capital at a place stays there, and a or an fits what follows."""
    parts: list[str] = []
    last = 0
    for edit in sorted(edits, key=lambda edit: edit.start):
        before = text[last : edit.start]
        new = edit.text
        if text[edit.start].isupper() != new[0].isupper() and text[edit.start].isalpha():
            new = (new[0].upper() if text[edit.start].isupper() else new[0].lower()) + new[1:]
        article = re.search(r"\b([Aa])n?(\s+)$", before)
        if article is not None:
            before = before[: article.start()] + article[1] + ("n" if new[0] in "aeiouAEIOU" else "") + article[2]
        parts += [before, new]
        last = edit.end
    return "".join(parts) + text[last:]


def _exchanged(text: str, first: tuple[int, int], second: tuple[int, int]) -> list[_Edit]:
    return [_Edit(*first, text[slice(*second)]), _Edit(*second, text[slice(*first)])]


def _head(words: list[tuple[str, int, int]], place: int) -> str | None:
    """The noun that an attribute belongs to: the next word that is no attribute, or, for "the ball is red", the last
    one before; None where neither can be told."""
    for word, _, _ in words[place + 1 :]:
        if word in ATTRIBUTES or word in JOINTS:
            continue
        if word not in FUNCTION_WORDS:
            return word
        break
    skipped = False
    for word, _, _ in reversed(words[:place]):
        if word in COPULAS or (skipped and (word in ATTRIBUTES or word in JOINTS)):
            skipped = True
            continue
        return word if skipped and word not in FUNCTION_WORDS else None
    return None


def _occurrences(text: str, one: str, other: str) -> Iterator[tuple[re.Match[str], str]]:
    """Where either of two opposites stands as a relation or a side, each with its opposite."""
    if one in ("left", "top"):
        for match in (_DIRECTION if one == "left" else _END).finditer(text):
            yield match, other if match[0].casefold() == one else one
        return
    if one == "on":
        for match in re.finditer(r"\bon(?= (?:a|an|the|his|her|its|their|some) )", text, re.IGNORECASE):
            if _NO_PLACE.match(text, match.start()) is None:
                yield match, other
        return
    for match in re.finditer(rf"\b(?:{re.escape(one)}|{re.escape(other)})\b", text, re.IGNORECASE):
        yield match, other if match[0].casefold() == one else one


def _phrase_before(text: str, end: int) -> tuple[int, int] | None:
    """Where the noun phrase that ends at ``end`` stands, without its article; None where that cannot be told."""
    words = words_of(text[:end])
    for place in range(len(words) - 1, max(len(words) - 6, -1), -1):
        if words[place][0] in SINGULAR:
            return (words[place + 1][1], words[-1][2]) if place + 1 < len(words) else None
        if words[place][0] in FUNCTION_WORDS or words[place][0] in JOINTS:
            return None
    return None


def _phrase_after(text: str, start: int) -> tuple[int, int] | None:
    """Where the noun phrase that begins at ``start`` with an article stands, without that article."""
    words = words_of(text[start:])
    if not words or words[0][0] not in SINGULAR:
        return None
    inside: list[tuple[str, int, int]] = []
    for word in words[1:6]:
        if word[0] in FUNCTION_WORDS or word[0] in JOINTS or word[0].endswith("ing"):
            break
        inside.append(word)
    return (start + inside[0][1], start + inside[-1][2]) if inside else None


def _plural(noun: str) -> str:
    if noun == "sheep":
        return noun
    if noun.endswith(("s", "x", "ch", "sh")):
        return noun + "es"
    if noun.endswith("y") and noun[-2] not in "aeiou":
        return noun[:-1] + "ies"
    return noun + "s"
