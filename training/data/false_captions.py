"""Rules that make a false caption of a true one, in English and without a parser.

Each rule takes a caption and returns every negative it can make, none of them equal to the caption or, as far as
``training.data.meaning`` can tell, of the same meaning. A caption that denies something gives none: what is false of
"no dog" may be anything. The kinds follow NegCLIP (Yuksekgonul et al. 2023, arXiv 2210.01936) and SugarCrepe (Hsieh et
al. 2023, arXiv 2306.14610).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
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
    NOUNS_IN_ING,
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
_NAMES = sorted({*FLIPPED, *SAME, *ASYMMETRIC, *ACTIONS}, key=lambda name: (-len(name), name))
_VERB = rf"(?:(?:is|are|was|were)\s+)?(?:(?!(?:{'|'.join(sorted(NOUNS_IN_ING))})\b)\w+ing\s+)?"
_BETWEEN = re.compile(rf"\s+{_VERB}(?:to the\s+|on the\s+)?(?:{'|'.join(_NAMES)})\s+(?=\w)", re.IGNORECASE)


_SPECIAL = {
    "left": _DIRECTION,
    "top": _END,
    "on": re.compile(r"\bon(?= (?:a|an|the|his|her|its|their|some) )", re.IGNORECASE),
}
_PLACES = {
    (one, other): _SPECIAL.get(one) or re.compile(rf"\b(?:{one}|{other})\b", re.IGNORECASE) for one, other in OPPOSITES
}
"""Where either of two opposites stands as a relation or a side."""


@dataclass(frozen=True, slots=True)
class _Edit:
    """Put ``text`` in place of what stands from ``start`` to ``end``."""

    start: int
    end: int
    text: str


def swapped_attributes(text: str, exclusive: Exclusive = ()) -> tuple[str, ...]:
    """Two attributes that belong to different things change places: two of one kind, or any two where each is all that
    is said of its thing."""
    words = words_of(text)
    found = [
        (place, *ATTRIBUTES[word], head)
        for place, (word, _, _) in enumerate(words)
        if word in ATTRIBUTES and (head := _head(words, place)) is not None
    ]
    said = Counter(head for _, _, _, head in found)
    edits = []
    for (first, kind, plain, head), (second, other_kind, other, other_head) in combinations(found, 2):
        alone = said[head] == said[other_head] == 1 and "pose" not in (kind, other_kind)
        different = stem(words[head][0]) != stem(words[other_head][0]) and plain != other
        if different and (kind == other_kind or alone):
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
    return _negatives(text, edits, other=True)


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
    return _negatives(text, edits, other=True)


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


def _negatives(text: str, edits: Sequence[list[_Edit]], *, other: bool = False) -> tuple[str, ...]:
    """The caption with each of these groups of edits, without repeats and without those that say the same; ``other``:
    they put in what the caption has not, and cannot."""
    if not edits or any(word in NEGATORS for word, _, _ in words_of(text)):
        return ()
    made = (_edited(text, group) for group in edits)
    if other:
        return tuple(dict.fromkeys(made))
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


def _head(words: list[tuple[str, int, int]], place: int) -> int | None:
    """Where the noun is that an attribute belongs to: the next word that is no attribute, or, for "the ball is red",
    the last one before; None where neither can be told."""
    for after in range(place + 1, len(words)):
        word = words[after][0]
        if word in ATTRIBUTES or word in JOINTS:
            continue
        if word not in FUNCTION_WORDS:
            return after
        break
    skipped = ATTRIBUTES[words[place][0]][0] == "pose"  # "a boy jumping" needs no "is"
    for before in range(place - 1, -1, -1):
        word = words[before][0]
        if word in COPULAS or (skipped and (word in ATTRIBUTES or word in JOINTS)):
            skipped = True
            continue
        return before if skipped and word not in FUNCTION_WORDS else None
    return None


def _occurrences(text: str, one: str, other: str) -> Iterator[tuple[re.Match[str], str]]:
    """Where either of two opposites stands as a relation or a side, each with its opposite."""
    for match in _PLACES[one, other].finditer(text):
        if one == "on":
            if _NO_PLACE.match(text, match.start()) is None:
                yield match, other
        else:
            yield match, other if match[0].casefold() == one else one


def _phrase_before(text: str, end: int) -> tuple[int, int] | None:
    """Where the noun phrase that ends at ``end`` (or before the verb there) stands, without its article; None where
    that cannot be told."""
    words = words_of(text[:end])
    for place in range(len(words) - 1, max(len(words) - 6, -1), -1):
        if words[place][0] in SINGULAR:
            inside = words[place + 1 :]
            if len(inside) > 1 and inside[-2][0] not in ATTRIBUTES and re.search("[^s]s$", inside[-1][0]):
                inside = inside[:-1]  # "a dog leaps": the last word is a verb
            return _span(inside)
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
        verb = word[0].endswith("ing") and word[0] not in NOUNS_IN_ING
        if word[0] in FUNCTION_WORDS or word[0] in JOINTS or verb:
            break
        inside.append(word)
    found = _span(inside)
    return None if found is None else (start + found[0], start + found[1])


def _span(words: list[tuple[str, int, int]]) -> tuple[int, int] | None:
    """From the first to the last of these words; None where they name no thing ("a blue" of "a blue and white sky")."""
    return (words[0][1], words[-1][2]) if words and words[-1][0] not in ATTRIBUTES else None


def _plural(noun: str) -> str:
    if noun == "sheep":
        return noun
    if noun.endswith(("s", "x", "ch", "sh")):
        return noun + "es"
    if noun.endswith("y") and noun[-2] not in "aeiou":
        return noun[:-1] + "ies"
    return noun + "s"
