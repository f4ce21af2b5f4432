"""The drawn world made smaller: 32 pixels, 40 kinds of things, one thing or two: learnt in half a minute.

Scenes, inks and the separation of held-out scenes are those of ``training.world``; sizes are left untold, and there are
few phrases. A second style of the same scenes, with other words and other backgrounds, is the shift.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from sightline.images import Pixels
from training.world.compose import chance, core_of, split_of
from training.world.paint import Painter
from training.world.scene import (
    COLOURS,
    PLACES,
    Background,
    Place,
    Relation,
    Scene,
    Shape,
    Split,
    Thing,
    place_of,
)

SIDE_PX = 32
SHAPES: tuple[Shape, ...] = ("circle", "square", "triangle", "cross", "ring")
SINGLE_SHARE = 0.2


@dataclass(frozen=True, eq=False)
class Style:
    """How scenes look and how they are told. Phrases hold ``{a}`` and ``{b}``, or ``{a}`` and ``{place}``."""

    name: str
    backgrounds: tuple[Background, ...]
    words: Mapping[str, str]
    alone: tuple[str, ...]
    beside: tuple[str, ...]
    over: tuple[str, ...]

    def thing(self, thing: Thing) -> str:
        """Such as "red circle"."""
        return f"{self.words.get(thing.colour, thing.colour)} {self.words.get(thing.shape, thing.shape)}"


PLAIN = Style(
    "plain",
    ("white", "grey", "beige"),
    {},
    ("a {a} at the {place}", "a {a} in the {place} of the picture", "{place}: a {a}"),
    ("a {a} left of a {b}", "a {b} right of a {a}", "a {a} to the left of a {b}"),
    ("a {a} above a {b}", "a {b} below a {a}", "a {a} on top of a {b}"),
)
SHIFTED = Style(
    "shifted",
    ("black", "striped", "dotted"),
    {
        "red": "crimson", "green": "emerald", "blue": "azure", "yellow": "golden", "purple": "violet",
        "orange": "amber", "pink": "rosy", "brown": "chestnut", "circle": "disc", "square": "box", "triangle": "wedge",
        "cross": "plus", "ring": "hoop",
    },
    ("one {a}, {place}", "only one {a}, near the {place}", "look {place}, one {a}"),
    ("one {a}, then one {b} beside it", "one {b} after one {a}", "first one {a}, next to it one {b}"),
    ("one {a}, under it one {b}", "one {b} beneath one {a}", "high one {a}, low one {b}"),
)  # fmt: skip


STYLES = (PLAIN, SHIFTED)


@dataclass(frozen=True)
class Told:
    """Scenes with their captions, not yet drawn.

    ``captions`` N x C; ``swaps`` the same phrases with the two things' colours (where they are equal, shapes)
    exchanged, which is false of the picture, or None for a single thing.
    """

    scenes: tuple[Scene, ...]
    captions: tuple[tuple[str, ...], ...]
    swaps: tuple[tuple[str, ...] | None, ...]

    def __len__(self) -> int:
        return len(self.scenes)

    def paint(self, seed: int) -> Pixels:
        """The pictures, uint8 [N, 32, 32, 3]; the same for the same seed."""
        painter, inks = Painter(SIDE_PX), random.Random(seed)
        return np.stack([np.asarray(painter.paint(scene, inks)) for scene in self.scenes])


def told(seed: int, style: Style, split: Split, num: int, *, mates: bool = True) -> Told:
    """``num`` scenes in a style; the same arguments give the same. Held-out scenes all tell different things.

    Without ``mates`` there is of a scene and its swap only ever one, by a fixed hash.
    """
    scenes = tuple(_scenes(seed, style, split, num, mates))
    swapped = [exchange(scene) for scene in scenes]
    return Told(
        scenes,
        tuple(tell(scene, style) for scene in scenes),
        tuple(None if scene is None else tell(scene, style) for scene in swapped),
    )


def tell(scene: Scene, style: Style) -> tuple[str, ...]:
    """Every phrase of the style for a scene."""
    names = {key: style.thing(thing) for key, thing in zip("ab", scene.things, strict=False)}
    if scene.relation == "alone":
        return tuple(phrase.format(**names, place=scene.things[0].place) for phrase in style.alone)
    phrases = style.beside if scene.relation == "left of" else style.over
    return tuple(phrase.format(**names) for phrase in phrases)


NUM_LISTS = 9
_LISTS = (
    "a {0} and a {1} {how}, {2} and {3}",
    "{2} and {3}: a {0} and a {1} {how}",
    "{2} and {3} things {how}, {0} and {1}",
)
_LISTS_OF_ONE = ("a {0} {1}", "one {0} {1}", "{0}: a {1}")


def list_apart(scene: Scene, seed: int) -> tuple[str, ...]:
    """``NUM_LISTS`` captions that list the shapes and the colours of a scene, each in an order of its own."""
    rng = chance(seed, "train", 0, "lists " + "/".join(core_of(scene)))
    found = []
    for number in range(NUM_LISTS):
        colours, shapes = [thing.colour for thing in scene.things], [thing.shape for thing in scene.things]
        rng.shuffle(colours)
        rng.shuffle(shapes)
        if len(colours) == 1:
            found.append(_LISTS_OF_ONE[number % 3].format(colours[0], shapes[0]))
        else:
            how = "side by side" if scene.relation == "left of" else "one above the other"
            found.append(_LISTS[number % 3].format(*shapes, *colours, how=how))
    return tuple(found)


def exchange(scene: Scene) -> Scene | None:
    """The scene with colours exchanged, or shapes where colours are equal; None for one thing."""
    if len(scene.things) != 2:
        return None
    first, second = scene.things
    key = "colour" if first.colour != second.colour else "shape"
    things = (
        first.model_copy(update={key: getattr(second, key)}),
        second.model_copy(update={key: getattr(first, key)}),
    )
    return scene.model_copy(update={"things": things})


def _scenes(seed: int, style: Style, split: Split, num: int, mates: bool) -> Iterator[Scene]:
    rng = chance(seed, split, 0, f"{style.name} scenes")
    seen: set[tuple[str, ...]] = set()
    found = 0
    while found < num:
        scene = _single(rng, style) if rng.random() < SINGLE_SHARE else _pair(rng, style)
        core = core_of(scene)
        if split_of(scene) != split or (split == "held-out" and core in seen):
            continue
        if not (mates or _is_first_of_two(scene)):
            continue
        seen.add(core)
        found += 1
        yield scene


def _is_first_of_two(scene: Scene) -> bool:
    """Whether a fixed hash prefers the scene to its swap; a single thing has none."""
    swapped = exchange(scene)
    if swapped is None:
        return True
    two = sorted([core_of(scene), core_of(swapped)])
    return core_of(scene) == two[hashlib.blake2b(repr(two).encode(), digest_size=1).digest()[0] % 2]


def _single(rng: random.Random, style: Style) -> Scene:
    row, column = divmod(rng.randrange(9), 3)
    x, y = (0.2 + 0.3 * part + rng.uniform(-0.03, 0.03) for part in (column, row))
    thing = _thing(rng, x, y, PLACES[3 * row + column])
    return Scene(things=(thing,), relation="alone", background=rng.choice(style.backgrounds))


def _pair(rng: random.Random, style: Style) -> Scene:
    across = rng.random() < 0.5
    side = 0.5 + rng.uniform(-0.15, 0.15)
    things: list[Thing] = []
    while len(things) < 2:
        main = (0.27 if not things else 0.73) + rng.uniform(-0.04, 0.04)
        x, y = (main, side) if across else (side, main)
        thing = _thing(rng, x, y, place_of(x, y))
        if not things or (thing.colour, thing.shape) != (things[0].colour, things[0].shape):
            things.append(thing)
    relation: Relation = "left of" if across else "above"
    return Scene(things=tuple(things), relation=relation, background=rng.choice(style.backgrounds))


def _thing(rng: random.Random, x: float, y: float, place: Place) -> Thing:
    return Thing(
        colour=rng.choice(COLOURS), shape=rng.choice(SHAPES), size="medium", place=place, x=x, y=y,
        radius=rng.uniform(0.16, 0.2), tilt_degrees=rng.uniform(-8.0, 8.0),
    )  # fmt: skip
