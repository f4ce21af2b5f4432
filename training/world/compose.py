"""Make a scene from (seed, split, number), and keep what training sees apart from what is held out.

The separation is by meaning, not by chance. Every caption of a held-out scene tells at least its *core*:
colours, shapes and relation for two or three things; colour, shape, size and place for one. A fixed hash
of the core decides whether it belongs to training or is held out, so no caption of a held-out scene can
occur in training, whatever the seeds. A core and its swap (colours exchanged) always fall on the same
side, so that swap tests use sentences of which training saw neither.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterable, Iterator

from sightline.errors import SourceError
from training.world.scene import (
    BACKGROUNDS,
    COLOURS,
    PLACES,
    SHAPES,
    SIZES,
    Background,
    Colour,
    Relation,
    Scene,
    Shape,
    Size,
    Split,
    Thing,
    place_of,
)

RADIUS: dict[Size, float] = {"small": 0.120, "medium": 0.165, "large": 0.220}
"""Half extents as fractions of the side: 15, 21 and 28 px across in the 64 px that the demo's encoder sees."""

HELD_OUT_SHARE = 5
"""One core in five is held out: some 345 of 1,728 singles, 1,600 of 8,064 pairs, 100,000 of 500,000
triples."""

FAMILY_SIZE = 4

TURNED: dict[Relation, Relation] = {"left of": "above", "above": "left of", "row": "column", "column": "row"}
"""What a relation becomes when a scene is mirrored along its falling diagonal."""

NUM_THINGS_WEIGHTS: dict[Split, tuple[int, int, int]] = {"train": (40, 45, 15), "held-out": (20, 55, 25)}
"""How often a scene has one, two or three things."""


def chance(seed: int, split: Split, number: int, purpose: int | str) -> random.Random:
    """A generator of its own for each (seed, split, number, purpose): no scene depends on another's draws."""
    name = f"{seed}/{split}/{number}/{purpose}".encode()
    state = int.from_bytes(hashlib.blake2b(name, digest_size=16).digest(), "big")
    return random.Random(state)  # noqa: S311 - pictures, not secrets


def core_of(scene: Scene) -> tuple[str, ...]:
    """What every caption of the scene tells: two scenes with different cores never share a caption."""
    if scene.relation == "alone":
        thing = scene.things[0]
        return ("alone", thing.size, thing.colour, thing.shape, thing.place)
    kinds = [f"{thing.colour} {thing.shape}" for thing in scene.things]
    return (scene.relation, *kinds)


def split_of(scene: Scene) -> Split:
    """The split that the scene's core belongs to. It depends on the core alone, never on a seed."""
    if len(scene.things) == 2:
        first, second = scene.things
        kinds = sorted([first.colour, second.colour]) + sorted([first.shape, second.shape])
        key = "/".join([scene.relation, *kinds])  # the same for a scene and its swap
    else:
        key = "/".join(core_of(scene))
    digest = hashlib.blake2b(key.encode(), digest_size=8).digest()
    return "held-out" if int.from_bytes(digest, "big") % HELD_OUT_SHARE == 0 else "train"


def training_scene(seed: int, number: int) -> Scene:
    """Training scene ``number`` of world ``seed``; it depends on these two alone.

    Training scenes come in families of ``FAMILY_SIZE`` consecutive numbers: one drawn at random and its near-twins (see
    ``_twins``). In one batch they are each other's hard negatives.
    """
    family, member = divmod(number, FAMILY_SIZE)
    for attempt in range(1000):
        rng = chance(seed, "train", family, attempt)
        first = _draw(rng, "train")
        scenes = [first, *_twins(rng, first)]
        cores = {core_of(scene) for scene in scenes}
        if len(cores) == FAMILY_SIZE and all(split_of(scene) == "train" for scene in scenes):
            return scenes[member]
    raise AssertionError("four scenes in five belong to training")


def _twins(rng: random.Random, scene: Scene) -> tuple[Scene, Scene, Scene]:
    """The scene with other shapes, with its colours exchanged, and turned so that rows become columns.

    A single thing, and two things of one colour, get other shapes instead where there is nothing to exchange or turn.
    """
    things = scene.things
    exchanged = turned = _reshaped(rng, scene)
    if len(things) > 1 and things[0].colour != things[1].colour:
        colours = (things[1].colour, things[0].colour, *(thing.colour for thing in things[2:]))
        pairs = zip(things, colours, strict=True)
        exchanged = _with_things(scene, (thing.model_copy(update={"colour": colour}) for thing, colour in pairs))
    if len(things) > 1:
        moved = (
            thing.model_copy(update={"x": thing.y, "y": thing.x, "place": place_of(thing.y, thing.x)})
            for thing in things
        )
        turned = _with_things(scene, moved).model_copy(update={"relation": TURNED[scene.relation]})
    if len(things) == 1:
        turned = _reshaped(rng, scene)
    return _reshaped(rng, scene), exchanged, turned


def _reshaped(rng: random.Random, scene: Scene) -> Scene:
    return _with_things(scene, (thing.model_copy(update={"shape": rng.choice(SHAPES)}) for thing in scene.things))


def _with_things(scene: Scene, things: Iterable[Thing]) -> Scene:
    return scene.model_copy(update={"things": tuple(things)})


def held_out_scenes(seed: int, count: int) -> Iterator[Scene]:
    """``count`` held-out scenes of world ``seed`` in order, no two with the same core.

    A longer run starts with the scenes of a shorter one. Singles and pairs run out after a few thousand
    scenes; beyond that only triples are left. Raises SourceError when those run out too.
    """
    seen: set[tuple[str, ...]] = set()
    for number in range(count):
        for attempt in range(100_000):
            scene = _draw(chance(seed, "held-out", number, attempt), "held-out")
            core = core_of(scene)
            if split_of(scene) == "held-out" and core not in seen:
                seen.add(core)
                yield scene
                break
        else:
            raise SourceError(f"The drawn world cannot hold out {count:,} distinct scenes; ask for fewer.")


def _draw(rng: random.Random, split: Split) -> Scene:
    count = rng.choices((1, 2, 3), NUM_THINGS_WEIGHTS[split])[0]
    background = rng.choice(BACKGROUNDS)
    if count == 1:
        return _single(rng, background)
    return _line(rng, background, count)


def _single(rng: random.Random, background: Background) -> Scene:
    size = rng.choice(SIZES)
    place = rng.choice(PLACES)
    row, column = divmod(PLACES.index(place), 3)
    radius = RADIUS[size] * rng.uniform(0.94, 1.06)
    low, high = radius + 0.02, 1 - radius - 0.02
    middles = (0.17, 0.5, 0.83)
    x = min(max(middles[column] + rng.uniform(-0.06, 0.06), low), high)
    y = min(max(middles[row] + rng.uniform(-0.06, 0.06), low), high)
    thing = _thing(rng, rng.choice(COLOURS), rng.choice(SHAPES), size, x, y, radius)
    return Scene(things=(thing,), relation="alone", background=background)


def _line(rng: random.Random, background: Background, count: int) -> Scene:
    """Two or three things of different kinds along one axis, with air between them and some sway across
    it."""
    across = rng.random() < 0.5  # left to right, else top to bottom
    kinds = _distinct_kinds(rng, count)
    sizes: list[Size] = [rng.choice(SIZES) for _ in kinds]
    if count == 3:
        sizes = ["small", "small", rng.choice(SIZES[:2])]  # two medium ones would leave no air
        rng.shuffle(sizes)
    radii = [RADIUS[size] * rng.uniform(0.97, 1.03) for size in sizes]
    free = 0.96 - 2 * sum(radii)
    gap = 0.04
    spare = free - gap * (count - 1)
    cuts = sorted(rng.uniform(0.0, spare) for _ in range(count))
    # Half of the spare room is spread evenly, half falls by chance: scenes look composed, yet no two alike.
    along: list[float] = []
    edge = 0.02
    for index, radius in enumerate(radii):
        offset = 0.5 * cuts[index] + 0.5 * spare * (index + 0.5) / count
        along.append(edge + offset + radius)
        edge += 2 * radius + gap
    base = 0.5 + rng.uniform(-0.17, 0.17)
    things: list[Thing] = []
    for (colour, shape), size, radius, main in zip(kinds, sizes, radii, along, strict=True):
        other = base + rng.uniform(-0.07, 0.07)
        other = min(max(other, radius + 0.02), 1 - radius - 0.02)
        x, y = (main, other) if across else (other, main)
        things.append(_thing(rng, colour, shape, size, x, y, radius))
    names: tuple[Relation, Relation] = ("left of", "above") if count == 2 else ("row", "column")
    relation = names[0] if across else names[1]
    return Scene(things=tuple(things), relation=relation, background=background)


def _distinct_kinds(rng: random.Random, count: int) -> list[tuple[Colour, Shape]]:
    kinds: list[tuple[Colour, Shape]] = []
    while len(kinds) < count:
        kind = (rng.choice(COLOURS), rng.choice(SHAPES))
        if kind not in kinds:
            kinds.append(kind)
    return kinds


def _thing(rng: random.Random, colour: Colour, shape: Shape, size: Size, x: float, y: float, radius: float) -> Thing:
    tilt = rng.uniform(-8.0, 8.0)  # small enough that a tilted square never passes for a diamond
    return Thing(
        colour=colour,
        shape=shape,
        size=size,
        place=place_of(x, y),
        x=round(x, 4),
        y=round(y, 4),
        radius=round(radius, 4),
        tilt_degrees=round(tilt, 2),
    )
