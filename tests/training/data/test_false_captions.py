from __future__ import annotations

import itertools
import random
import re

import pytest

from training.data.captioned import caption_key
from training.data.false_captions import (
    RULES,
    replaced_colours,
    replaced_objects,
    swapped_attributes,
    swapped_roles,
    turned_relations,
    vocabulary,
)
from training.data.meaning import meaning
from training.world.compose import chance, held_out_scenes
from training.world.grammar import FULL, captions_of, swap_of
from training.world.scene import Scene


@pytest.mark.parametrize(
    ("true", "false"),
    [
        ("a red ball and a blue cube", "a blue ball and a red cube"),
        ("A red ball next to an orange cube.", "An orange ball next to a red cube."),
        ("the ball is red and the cube is blue", "the ball is blue and the cube is red"),
        ("a man in red and a woman in blue", "a man in blue and a woman in red"),
        ("a young man with an old dog", "an old man with a young dog"),
        ("a little house and a huge tree", "a huge house and a little tree"),
        ("An old dog sniffs a red bag", "A red dog sniffs an old bag"),
        ("a boy jumping into a pool and a girl swimming", "a boy swimming into a pool and a girl jumping"),
        ("a man is sitting on a bench and a dog is standing", "a man is standing on a bench and a dog is sitting"),
    ],
)
def test_attributes_change_places(true: str, false: str) -> None:
    assert swapped_attributes(true) == (false,)


@pytest.mark.parametrize(
    "caption",
    [
        "a red ball and a red cube",  # nothing would change
        "a grey ball and a gray cube",  # synonyms
        "a little ball and a small cube",
        "a red ball and a blue ball",  # the same two balls
        "two red balls and a blue ball",
        "a red circle and a blue disc",  # the same shape under two names
        "a red and blue ball",  # both of one thing
        "a red ball",
        "a red ball without a blue cube",  # what is denied cannot be exchanged
        "an orange and a lemon",
        "a small red ball and a wooden cube",  # a wooden red ball and a small cube may be there as well
        "a dog running and jumping",
        "",
    ],
)
def test_attributes_that_would_say_the_same_stay(caption: str) -> None:
    assert swapped_attributes(caption) == ()


@pytest.mark.parametrize(
    ("true", "false"),
    [
        ("a dog left of a cat", "a dog right of a cat"),
        ("a dog to the right of a cat", "a dog to the left of a cat"),
        ("a ring on the left and a star on the right", "a ring on the right and a star on the left"),
        ("a lamp above a table", "a lamp below a table"),
        ("a cat on the mat", "a cat under the mat"),
        ("a cat under a chair", "a cat over a chair"),
        ("a man in front of a bus", "a man behind a bus"),
        ("a circle at the top and a heart at the bottom", "a circle at the bottom and a heart at the top"),
        ("a dog inside a house", "a dog outside a house"),
    ],
)
def test_relations_turn_round(true: str, false: str) -> None:
    assert turned_relations(true) == (false,)


@pytest.mark.parametrize(
    "caption",
    [
        "a ball left of a ball",
        "a ball on the left and a ball on the right",
        "the man has left",
        "a dog on a white background",
        "children on a sunny day",
        "from left to right a ball, a cube and a ball",
        "a dog beside a cat",
        "no dog on the mat",
    ],
)
def test_relations_that_cannot_turn_stay(caption: str) -> None:
    assert turned_relations(caption) == ()


@pytest.mark.parametrize(
    ("true", "false"),
    [
        ("a dog chasing a cat", "a cat chasing a dog"),
        ("A man is riding an old horse", "An old horse is riding a man"),
        ("the red cup is on a table", "the table is on a red cup"),
        ("a dog left of an elephant in a park", "an elephant left of a dog in a park"),
    ],
)
def test_roles_change_places(true: str, false: str) -> None:
    assert swapped_roles(true) == (false,)


@pytest.mark.parametrize(
    "caption",
    ["a dog and a cat", "a dog next to a cat", "a ball above a ball", "dogs chasing cats", "a dog is running"],
)
def test_roles_that_make_no_difference_stay(caption: str) -> None:
    assert swapped_roles(caption) == ()


def test_things_and_colours_are_replaced_by_what_excludes_them() -> None:
    objects = replaced_objects("Two dogs and a cat near a bus")
    assert "Two horses and a cat near a bus" in objects and "Two dogs and a cat near a train" in objects
    assert not any("cats" in one or "animal" in one for one in objects)
    colours = replaced_colours("an orange bag, a blue car and a black and white photo")
    assert "a green bag, a blue car and a black and white photo" in colours
    assert all(one.endswith("a black and white photo") for one in colours)
    assert not any(near in one for near in ("red bag", "yellow bag", "purple car", "blue bag") for one in colours)
    assert replaced_objects("a wug", (("wug", "fep"),)) == ("a fep",)


def says(caption: str, scene: Scene) -> bool:
    """Whether "a RED circle left of a BLUE square" is true of a scene, read by position."""
    match = re.fullmatch(r"an? (\w+) (\w+) (left of|right of|above|below) an? (\w+) (\w+)", caption)
    assert match is not None, caption
    axis = "x" if match[3] in ("left of", "right of") else "y"
    found = {(thing.colour, thing.shape): getattr(thing, axis) for thing in scene.things}
    first, second = (match[1], match[2]), (match[4], match[5])
    if first not in found or second not in found:
        return False
    ahead = bool(found[first] < found[second])
    return ahead if match[3] in ("left of", "above") else not ahead


def test_every_negative_of_a_drawn_scene_is_false_of_it() -> None:
    made = dict.fromkeys(RULES, 0)
    for scene in held_out_scenes(0, 300):
        swap = swap_of(scene)
        if swap is None:
            continue
        assert says(swap[0], scene)
        for kind, rule in RULES.items():
            for negative in rule(swap[0], ()):
                assert not says(negative, scene), (swap[0], negative)
                made[kind] += 1
    assert min(made.values()) > 50


def test_nothing_made_from_the_drawn_worlds_captions_says_the_same() -> None:
    num_made = 0
    for number, scene in enumerate(held_out_scenes(1, 50)):
        for caption in captions_of(scene, (FULL, FULL), chance(1, "held-out", number, "words")):
            for rule in RULES.values():
                found = rule(caption, ())
                num_made += len(found)
                assert len({caption_key(one) for one in found}) == len(found)
                for negative in found:
                    assert caption_key(negative) != caption_key(caption)
                    assert meaning(negative) != meaning(caption)
                    assert not re.search(r"\ba [aeiou]|\ban [^aeiou]", negative), negative
    assert num_made > 1500


NOUNS = ["ball", "cube", "dog", "cat", "sofa", "tree", "cup", "balls", "dogs", "disc", "circle"]
WORDS = ["red", "blue", "grey", "gray", "orange", "small", "little", "big", "wooden", "striped", ""]
JOINTS = ["and", "next to", "left of", "right of", "above", "under", "on", "holding", "behind", "with", ", then"]
ENDS = ["", " on the left", " at the top", " in a park", " that is red", "."]


def random_caption(rng: random.Random) -> str:
    def phrase() -> str:
        words = [word for word in (rng.choice(WORDS), rng.choice(WORDS), rng.choice(NOUNS)) if word]
        return f"{rng.choice(('a', 'the', 'two', 'an'))} {' '.join(words)}{rng.choice(ENDS[:-1])}"

    text = f" {rng.choice(JOINTS)} ".join(phrase() for _ in range(rng.randint(1, 3))) + rng.choice(("", "."))
    return text[0].upper() + text[1:] if rng.random() < 0.3 else text


@pytest.mark.parametrize("seed", range(5))
def test_rules_hold_on_random_sentences(seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(100):
        caption = random_caption(rng)
        for rule in RULES.values():
            for negative in rule(caption, ()):
                assert meaning(negative) != meaning(caption), (caption, negative)
                assert caption_key(negative) != caption_key(caption)
                assert "  " not in negative and negative.strip()
                assert negative[0].isupper() == caption[0].isupper()
            assert rule(caption, ()) == rule(caption, ())


def test_whatever_the_rules_put_in_is_in_their_vocabulary() -> None:
    known = set(vocabulary())
    rng = random.Random(9)
    for _ in range(200):
        caption = random_caption(rng)
        own = set(re.findall(r"[\w]+", caption.lower()))
        for negative in itertools.chain.from_iterable(rule(caption, ()) for rule in RULES.values()):
            assert set(re.findall(r"[\w]+", negative.lower())) <= own | known


SAME = [
    ("a dog and a cat", "a cat and a dog."),
    ("a dog left of a cat", "a cat to the right of a dog"),
    ("a lamp above a table", "the table under the lamp"),
    ("a small red ball", "a red little ball"),
    ("a ring on the left and a star on the right", "a star on the right and a ring on the left"),
    ("a dog next to a cat", "a cat next to a dog"),
    ("A man behind a bus", "a bus in front of a man"),
    ("a violet disc", "a purple circle"),
    ("two dogs", "Two dogs"),
]


@pytest.mark.parametrize(("one", "other"), SAME)
def test_sentences_that_say_the_same_share_their_meaning(one: str, other: str) -> None:
    assert meaning(one) == meaning(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("a dog left of a cat", "a cat left of a dog"),
        ("a dog on a cat", "a cat on a dog"),
        ("a red ball and a blue cube", "a blue ball and a red cube"),
        ("a ring on the left and a star on the right", "a ring on the right and a star on the left"),
        ("a dog chasing a cat", "a cat chasing a dog"),
    ],
)
def test_sentences_that_differ_do_not(one: str, other: str) -> None:
    assert meaning(one) != meaning(other)
