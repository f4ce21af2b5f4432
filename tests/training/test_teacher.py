from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from sightline.encoder.checkpoint import Checkpoint, load_tokenizer
from sightline.errors import RecipeError
from tests.training.conftest import TINY_RECIPE
from training.ema import Ema
from training.model import build_checkpoint
from training.recipe import parse_recipe
from training.teacher import frozen_teacher, load_teacher, mean_teacher
from training.towers import Towers
from training.vocabulary import narrow

TEXTS = ["a red circle", "two blue squares above a small green triangle", "a red circle"]


def checkpoint(*, context: int = 32, seed: int = 3, size: int = 16) -> Checkpoint:
    text = TINY_RECIPE.replace("context_length = 32", f"context_length = {context}")
    text = text.replace("seed = 3", f"seed = {seed}").replace("image_size = 16", f"image_size = {size}")
    return build_checkpoint(parse_recipe(text, "tiny.toml"))


def tokens_of(one: Checkpoint, texts: list[str]) -> torch.Tensor:
    return torch.as_tensor(np.asarray(load_tokenizer(one)(texts)), dtype=torch.int64)


@pytest.mark.parametrize("context", [32, 12])
def test_it_reads_what_the_student_reads_in_its_own_way(context: int) -> None:
    """A teacher with the student's tokenizer and one with another, over the student's narrowed vocabulary."""
    student, teacher = checkpoint(), checkpoint(context=context, seed=4)
    expected = Towers(teacher.model, teacher.pixels.mean, teacher.pixels.std)
    with torch.no_grad():
        wanted = expected.eval().encode_texts(tokens_of(teacher, TEXTS[1:]))
    tokens = tokens_of(student, TEXTS).numpy()
    vocabulary = narrow(student.model, tokens)
    assert vocabulary is not None
    compact = vocabulary.compact(tokens)
    taught = frozen_teacher(
        teacher, student, texts=TEXTS, tokens=compact, vocabulary=vocabulary, precision="fp32"
    ).eval()
    with torch.no_grad():
        found = taught.encode_texts(torch.from_numpy(compact[1:]))
    assert torch.equal(found, wanted)


def test_a_running_mean_teaches_with_the_students_pixels() -> None:
    student = checkpoint()
    ema = Ema(student.model, 0.9)
    pixels = torch.randint(0, 256, (2, 16, 16, 3), dtype=torch.uint8)
    student.model.eval()
    with torch.no_grad():
        expected = Towers(student.model, student.pixels.mean, student.pixels.std).encode_images(pixels)
        assert torch.equal(mean_teacher(student, ema, precision="fp32").encode_images(pixels), expected)


def test_pictures_of_another_size_are_refused(tmp_path: Path) -> None:
    from sightline.encoder import write_bundle

    large = checkpoint(size=24)
    large.model.eval()
    write_bundle(large, tmp_path / "teacher")
    with pytest.raises(RecipeError, match="24 x 24 px and the student of 16 x 16; choose a teacher"):
        load_teacher(str(tmp_path / "teacher"), checkpoint())
