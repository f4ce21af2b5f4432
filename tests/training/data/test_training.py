"""The [data] table in whole runs: everything on at once, cut off and resumed; hard neighbours of a first encoder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sightline.errors import SourceError
from tests.training.conftest import TINY_RECIPE
from training.loop import Step
from training.recipe import Recipe, parse_recipe
from training.run import train_bundle

EVERYTHING = """
[data]
captions_per_image = 2
no_duplicates = true
pixel_memory_bytes = 0

[data.augmentation]
crop_scale = [0.5, 1.0]
mirror = 0.5
brightness = 0.3
hue = 0.1

[data.wording]
templates = ["{}", "a picture of {}"]
synonyms = { small = ["tiny"] }
word_dropout = 0.1

[data.negatives]
per_image = 2
kinds = ["attributes", "relations", "roles", "objects", "colours"]
"""


class Cut(Exception):
    """Stands for a power cut."""


def losses(folder: Path) -> list[tuple[int, float]]:
    lines = (folder / "log.jsonl").read_text().splitlines()
    return [(entry["step"], entry["loss"]) for entry in map(json.loads, lines) if "loss" in entry]


def test_a_run_with_every_option_goes_on_bit_equal(world: Path, tmp_path: Path) -> None:
    recipe = parse_recipe(TINY_RECIPE + EVERYTHING, "everything.toml")
    whole = train_bundle(recipe, str(world), tmp_path / "whole", device="cpu", num_threads=1)

    def cut(step: Step) -> None:
        if step.step == 5:
            raise Cut

    with pytest.raises(Cut):
        train_bundle(recipe, str(world), tmp_path / "cut", device="cpu", num_threads=1, on_step=cut)
    again = train_bundle(recipe, str(world), tmp_path / "cut", device="cpu", num_threads=1, resume=True)
    assert whole.manifest is not None and again.manifest is not None
    assert again.manifest.fingerprint == whole.manifest.fingerprint
    assert losses(again.folder) == losses(whole.folder)


def test_hard_neighbours_of_a_first_encoder_come_together(world: Path, tiny: Recipe, tmp_path: Path) -> None:
    train_bundle(tiny, str(world), tmp_path / "first", device="cpu", num_threads=1)
    table = f'[data]\nmine_with = "{tmp_path / "first"}"\n[data.mining]\ngroup_size = 2\nmargin = 0.0\n'
    recipe = parse_recipe(TINY_RECIPE + table, "mined.toml")
    finished = train_bundle(recipe, str(world), tmp_path / "second", device="cpu", num_threads=1)
    assert (finished.folder / "neighbours.npy").is_file()
    assert losses(finished.folder) != losses(tmp_path / "first.training")


def test_leaked_pictures_stop_a_run_before_its_first_step(world: Path, tiny: Recipe, tmp_path: Path) -> None:
    source = str(world / "train-[0-9]*.tar")
    with pytest.raises(SourceError, match="40 training pictures are in the evaluation data"):
        train_bundle(tiny, source, tmp_path / "b", held_out=source, device="cpu", num_threads=1)
    allowed = parse_recipe(TINY_RECIPE + "[data]\nallow_leakage = true\n", "leaky.toml")
    said: list[str] = []
    train_bundle(allowed, source, tmp_path / "b", held_out=source, device="cpu", num_threads=1, say=said.append)
    assert any("40 training pictures are in the evaluation data too" in line for line in said)
