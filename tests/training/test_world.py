from __future__ import annotations

import io
import json
import re
import tarfile
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest
from PIL import Image

from sightline.errors import SourceError
from training.world.compose import FAMILY_SIZE, chance, core_of, held_out_scenes, split_of, training_scene
from training.world.grammar import HELD_OUT_DETAILS, SYNONYMS, swap_of
from training.world.paint import INK, PAPER, Painter
from training.world.scene import Scene, Thing, from_record, to_record
from training.world.shards import World, draw_world, samples_of

COUNT = 1000


@pytest.fixture(scope="module")
def held_out_captions() -> list[str]:
    return [text for sample in samples_of(World(), "held-out", 0, COUNT) for text in sample.captions]


def test_same_seed_gives_the_same_bytes_and_another_seed_others(tmp_path: Path) -> None:
    small = World(seed=5, num_train=12, num_held_out=6)
    first = [path.read_bytes() for path in draw_world(small, tmp_path / "a", num_processes=1)]
    second = [path.read_bytes() for path in draw_world(small, tmp_path / "b", num_processes=1)]
    other = draw_world(World(seed=6, num_train=12, num_held_out=6), tmp_path / "c", num_processes=1)
    assert first == second
    assert first[0] != other[0].read_bytes()


def test_worker_processes_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(num_train=4, num_held_out=2)
    alone = draw_world(world, tmp_path / "a", num_processes=1)
    together = draw_world(world, tmp_path / "b", num_processes=2)
    assert [p.name for p in together] == ["train-00000.tar", "held-out-00000.tar"]
    assert [p.read_bytes() for p in alone] == [p.read_bytes() for p in together]


def test_a_scene_does_not_depend_on_how_many_are_drawn() -> None:
    assert list(held_out_scenes(0, 5)) == list(held_out_scenes(0, 9))[:5]
    assert next(samples_of(World(), "train", 7, 8)) == list(samples_of(World(), "train", 0, 8))[7]


def test_held_out_captions_are_all_distinct(held_out_captions: list[str]) -> None:
    assert len(held_out_captions) == COUNT * len(HELD_OUT_DETAILS)
    assert len(set(held_out_captions)) == len(held_out_captions)


def test_no_held_out_caption_is_said_of_a_training_scene(held_out_captions: list[str]) -> None:
    for seed in (0, 1):
        seen = {text for sample in samples_of(World(seed=seed), "train", 0, 4000) for text in sample.captions}
        assert not seen & set(held_out_captions)


def test_splits_share_no_core_and_no_swapped_core() -> None:
    train = {core_of(training_scene(0, number)) for number in range(4000)}
    held_out = list(held_out_scenes(0, COUNT))
    assert len({core_of(scene) for scene in held_out}) == COUNT
    assert not train & {core_of(scene) for scene in held_out}
    for scene in held_out:
        if len(scene.things) == 2:
            first, second = scene.things
            exchanged = scene.model_copy(
                update={
                    "things": (
                        first.model_copy(update={"colour": second.colour}),
                        second.model_copy(update={"colour": first.colour}),
                    )
                }
            )
            assert split_of(exchanged) == "held-out"
            assert core_of(exchanged) not in train


def test_more_scenes_than_the_world_holds_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    only = next(held_out_scenes(0, 1))
    monkeypatch.setattr("training.world.compose._draw", lambda rng, split: only)
    with pytest.raises(SourceError, match="ask for fewer"):
        list(held_out_scenes(0, 2))


def test_swapped_captions_are_false_of_their_scene_and_true_ones_true() -> None:
    scenes = [scene for scene in held_out_scenes(0, 400) if len(scene.things) == 2]
    assert len(scenes) > 150
    for scene in scenes:
        swap = swap_of(scene)
        assert swap is not None
        true, swapped = swap
        assert says(true, scene)
        assert not says(swapped, scene)
        assert sorted(words_of(true)) == sorted(words_of(swapped))


def test_every_caption_names_only_what_the_scene_holds() -> None:
    colours, shapes = set(INK), {"circle", "square", "triangle", "star", "heart", "cross", "ring", "diamond"}
    plain = {other: word for word, other in SYNONYMS.items()}
    for sample in samples_of(World(), "train", 0, 500):
        for caption in sample.captions:
            text = caption
            for other, word in plain.items():
                text = re.sub(rf"\b{other}\b", word, text)
            words = set(re.findall(r"[a-z]+", text))
            assert words & shapes == {thing.shape for thing in sample.scene.things}
            assert words & colours <= {thing.colour for thing in sample.scene.things}
            assert words & (set(PAPER) - {"beige"}) <= {sample.scene.background}


def test_things_lie_inside_the_picture_and_apart() -> None:
    for number in range(600):
        things = training_scene(2, number).things
        for thing in things:
            assert thing.radius <= thing.x <= 1 - thing.radius
            assert thing.radius <= thing.y <= 1 - thing.radius
        for first, second in pairwise(things):
            apart = max(abs(first.x - second.x), abs(first.y - second.y))
            assert apart > first.radius + second.radius


def test_relations_hold() -> None:
    for number in range(300):
        scene = training_scene(3, number)
        things = scene.things
        if scene.relation in ("left of", "row"):
            assert [thing.x for thing in things] == sorted(thing.x for thing in things)
        if scene.relation in ("above", "column"):
            assert [thing.y for thing in things] == sorted(thing.y for thing in things)


def test_the_middle_of_a_thing_has_its_colour() -> None:
    thing = Thing(
        colour="blue", shape="square", size="large", place="centre", x=0.5, y=0.5, radius=0.22, tilt_degrees=0
    )
    scene = Scene(things=(thing,), relation="alone", background="white")
    picture = Painter(64).paint(scene, chance(0, "train", 0, "inks"))
    middle, corner = picture.getpixel((32, 32)), picture.getpixel((1, 1))
    assert isinstance(middle, tuple) and isinstance(corner, tuple)
    assert all(abs(a - b) <= 10 for a, b in zip(middle, INK["blue"], strict=True))
    assert corner == PAPER["white"][0]


def test_a_sample_is_a_picture_a_caption_and_its_record(world: Path) -> None:
    with tarfile.open(world / "held-out-00000.tar") as tar:
        members = tar.getmembers()
        content = {member.name: file.read() for member in members if (file := tar.extractfile(member))}
    assert {member.mtime for member in members} == {0}
    keys = sorted({name.partition(".")[0] for name in content})
    assert len(keys) == 24
    for key in keys:
        picture = Image.open(io.BytesIO(content[f"{key}.png"]))
        assert picture.mode == "RGB" and picture.size == (128, 128)
        record = json.loads(content[f"{key}.json"])
        assert content[f"{key}.txt"].decode() == record["captions"][0]
        scene = from_record(record)
        assert scene is not None and to_record(scene) == record["scene"]
        assert (record["swap"] is None) == (len(scene.things) != 2)


def test_other_metadata_are_no_scene() -> None:
    assert from_record({}) is None
    assert from_record({"scene": "a forest"}) is None
    assert from_record({"scene": {"kind": "photo"}}) is None


def words_of(caption: str) -> list[str]:
    return [word for word in re.findall(r"[a-z]+", caption) if word not in ("a", "an")]


def says(caption: str, scene: Scene) -> bool:
    """Whether "a RED circle left of a BLUE square" is true of a scene, read by position and not by relation."""
    match = re.fullmatch(r"an? (\w+) (\w+) (left of|above) an? (\w+) (\w+)", caption)
    assert match is not None
    axis = "x" if match[3] == "left of" else "y"
    found = {(thing.colour, thing.shape): getattr(thing, axis) for thing in scene.things}
    first, second = (match[1], match[2]), (match[4], match[5])
    return first in found and second in found and found[first] < found[second]


def test_training_scenes_come_in_families_of_near_twins() -> None:
    kinds: Counter[str] = Counter()
    for family in range(60):
        first, *twins = (training_scene(5, FAMILY_SIZE * family + member) for member in range(FAMILY_SIZE))
        assert len({core_of(scene) for scene in (first, *twins)}) == FAMILY_SIZE
        for twin in twins:
            assert twin.background == first.background
            assert sorted(thing.colour for thing in twin.things) == sorted(thing.colour for thing in first.things)
            if twin.relation != first.relation:
                kinds["turned"] += 1
                assert [(t.y, t.x, t.shape) for t in twin.things] == [(t.x, t.y, t.shape) for t in first.things]
                continue
            assert [(t.x, t.y, t.size) for t in twin.things] == [(t.x, t.y, t.size) for t in first.things]
            same_shapes = [t.shape for t in twin.things] == [t.shape for t in first.things]
            kinds["exchanged" if same_shapes else "reshaped"] += 1
    assert min(kinds["turned"], kinds["exchanged"], kinds["reshaped"]) > 20
