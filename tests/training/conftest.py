from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path

import open_clip
import pytest

from training.recipe import Recipe, parse_recipe
from training.world.shards import World, draw_world

TINY_RECIPE = """
name = "tiny"
seed = 3

[model]
embed_dim = 16
vision = { image_size = 16, patch_size = 8, layers = 1, width = 16, head_width = 8, patch_dropout = 0.25 }
text = { context_length = 32, layers = 1, width = 16, heads = 2 }

[training]
num_steps = 8
batch_size = 8
learning_rate = 3e-3
warmup_steps = 2
precision = "fp32"
checkpoint_every_steps = 3
"""


@pytest.fixture(scope="session", autouse=True)
def one_tokenizer() -> Iterator[None]:
    """The built-in tokenizer unpacks its vocabulary each time it is made, which takes longer than a tiny run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(open_clip, "SimpleTokenizer", functools.cache(open_clip.SimpleTokenizer))
        yield


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    draw_world(World(seed=1, num_train=40, num_held_out=24), folder, num_processes=1)
    return folder


@pytest.fixture(scope="session")
def tiny() -> Recipe:
    return parse_recipe(TINY_RECIPE, "tiny.toml")
