"""Scenes in words: captions with paraphrases, and the swapped caption that is false of the same scene.

Every caption of a held-out scene tells the scene's core (see ``compose``), and no two cores give the same
words; so captions of different held-out scenes differ, and none of them is said of a training scene.
Captions are telling on purpose: in a batch of contrasted pairs a vague one fits several pictures.
Synonyms are few and used sparingly: a small encoder has to learn all of them from a few thousand pictures.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

from training.world.scene import Background, Place, Scene, Thing

SYNONYMS: dict[str, str] = {
    "small": "little",
    "large": "big",
    "purple": "violet",
    "circle": "disc",
    "cross": "plus sign",
    "diamond": "rhombus",
}
SYNONYM_CHANCE = 0.08

AT_PLACE: dict[Place, tuple[str, ...]] = {
    "top left": ("in the top left corner", "at the top left"),
    "top": ("at the top", "at the top edge"),
    "top right": ("in the top right corner", "at the top right"),
    "left": ("on the left", "at the left edge"),
    "centre": ("in the centre", "in the middle"),
    "right": ("on the right", "at the right edge"),
    "bottom left": ("in the bottom left corner", "at the bottom left"),
    "bottom": ("at the bottom", "at the bottom edge"),
    "bottom right": ("in the bottom right corner", "at the bottom right"),
}


@dataclass(frozen=True, slots=True)
class Detail:
    """What a caption tells beyond colours and shapes. Without the arrangement it does not tell the core."""

    sizes: bool = True
    background: bool = True
    arrangement: bool = True


FULL = Detail()
CORE = (FULL, FULL, Detail(background=False), Detail(sizes=False))
HELD_OUT_DETAILS = (*CORE, Detail(sizes=False, background=False))
TRAINING_DETAILS = (*HELD_OUT_DETAILS, Detail(background=False, arrangement=False))
"""Training also says what no held-out caption says: the bare things, which people type first."""


def captions_of(scene: Scene, details: Sequence[Detail], rng: random.Random) -> tuple[str, ...]:
    """One caption for each of ``details``, all different; one state of ``rng`` gives the same words."""
    captions: list[str] = []
    for detail in details:
        caption = describe(scene, detail, rng)
        while caption in captions:
            caption = describe(scene, detail, rng)
        captions.append(caption)
    return tuple(captions)


def describe(scene: Scene, detail: Detail, rng: random.Random) -> str:
    """One caption of the scene."""
    if not detail.arrangement:
        body = _list([noun_phrase(thing, detail, rng) for thing in scene.things], rng)
    elif scene.relation == "alone":
        body = _one(scene.things[0], detail, rng)
    elif len(scene.things) == 2:
        first, second = (noun_phrase(thing, detail, rng) for thing in scene.things)
        body = _two(first, second, scene.relation == "left of", rng)
    else:
        # Sizes stay untold for three things: the caption would outgrow a small encoder's context.
        brief = replace(detail, sizes=False)
        names = [noun_phrase(thing, brief, rng) for thing in scene.things]
        body = _three(names[0], names[1], names[2], scene.relation == "row", rng)
    return f"{body} {_on(scene.background, rng)}" if detail.background else body


def swap_of(scene: Scene) -> tuple[str, str] | None:
    """(true caption, swapped caption) of a scene of two things, else None.

    The two captions have the same words in another order. Colours change places; where the colours are the
    same, shapes do. Either way the swap is false of the scene.
    """
    if len(scene.things) != 2:
        return None
    first, second = scene.things
    joint = scene.relation
    true = f"{_article(first.colour)} {first.shape} {joint} {_article(second.colour)} {second.shape}"
    if first.colour != second.colour:
        swapped = f"{_article(second.colour)} {first.shape} {joint} {_article(first.colour)} {second.shape}"
    else:
        swapped = f"{_article(first.colour)} {second.shape} {joint} {_article(second.colour)} {first.shape}"
    return true, swapped


def noun_phrase(thing: Thing, detail: Detail, rng: random.Random) -> str:
    """Such as "a small red circle"."""
    shape = _word(thing.shape, rng)
    words = [_word(thing.colour, rng), shape]
    if detail.sizes:
        words.insert(0, _word(thing.size, rng))
    return _article(" ".join(words))


def _one(thing: Thing, detail: Detail, rng: random.Random) -> str:
    # The size is part of a single thing's core and therefore always told.
    name = noun_phrase(thing, replace(detail, sizes=True), rng)
    where = rng.choice(AT_PLACE[thing.place])
    return rng.choice((f"{name} {where}", f"{name} {where}", f"{where} {name}"))


def _list(names: list[str], rng: random.Random) -> str:
    rng.shuffle(names)
    return " and ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else names[0]


def _two(first: str, second: str, across: bool, rng: random.Random) -> str:
    if across:
        forms = (
            f"{first} left of {second}",
            f"{first} to the left of {second}",
            f"{second} right of {first}",
            f"{second} to the right of {first}",
            f"{first} on the left and {second} on the right",
        )
    else:
        forms = (
            f"{first} above {second}",
            f"{first} over {second}",
            f"{second} below {first}",
            f"{second} under {first}",
            f"{first} at the top and {second} at the bottom",
        )
    return rng.choice(forms)


def _three(first: str, second: str, third: str, across: bool, rng: random.Random) -> str:
    if across:
        forms = (
            f"{first}, {second} and {third} in a row",
            f"from left to right {first}, {second} and {third}",
            f"{second} between {first} on the left and {third} on the right",
        )
    else:
        forms = (
            f"{first}, {second} and {third} in a column",
            f"from top to bottom {first}, {second} and {third}",
            f"{second} between {first} above and {third} below",
        )
    return rng.choice(forms)


def _on(background: Background, rng: random.Random) -> str:
    joint = rng.choice(("on", "on", "against"))
    return f"{joint} {_article(background)} background"


def _word(word: str, rng: random.Random) -> str:
    if word in SYNONYMS and rng.random() < SYNONYM_CHANCE:
        return SYNONYMS[word]
    return word


def _article(words: str) -> str:
    return f"an {words}" if words[0] in "aeiou" else f"a {words}"
