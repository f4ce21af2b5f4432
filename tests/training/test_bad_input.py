"""What cannot be trained is refused before the first step, in one sentence with the fix."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from sightline.bundle import WEIGHTS_NAME
from sightline.encoder import write_bundle
from sightline.errors import (
    BundleCorrupt,
    EncoderUnsuitable,
    LicenceRefused,
    RecipeError,
    SightlineError,
    SourceError,
)
from tests.training.conftest import TINY_RECIPE
from training.loop import Step
from training.model import build_checkpoint
from training.recipe import Recipe, parse_recipe
from training.run import train_bundle


def refused(error: type[SightlineError], recipe: Recipe, data: Path, out: Path) -> str:
    """The sentence with which a run is refused; nothing may have been trained or published."""

    def never(step: Step) -> None:
        raise AssertionError("a step was made")

    with pytest.raises(error) as raised:
        train_bundle(recipe, str(data), out, device="cpu", num_threads=1, on_step=never)
    assert not out.exists()
    assert "\n" not in raised.value.message and raised.value.message.endswith(".")
    return raised.value.message


def pictures(folder: Path, captions: list[str]) -> Path:
    """A folder of different pictures with these captions."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    lines = []
    for number, caption in enumerate(captions):
        Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(folder / f"{number}.png")
        lines.append(json.dumps({"image": f"{number}.png", "captions": [caption]}))
    (folder / "captions.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def fine_tuning(spec: str, **keys: Any) -> Recipe:
    tiny = parse_recipe(TINY_RECIPE, "tiny.toml")
    return tiny.model_copy(update={"model": tiny.model.model_validate({"encoder": spec, **keys})})


def test_a_batch_larger_than_the_data(tiny: Recipe, tmp_path: Path) -> None:
    data = pictures(tmp_path / "data", [f"picture {number}" for number in range(7)])
    sentence = refused(SourceError, tiny, data, tmp_path / "out")
    assert "A batch of 8 cannot be drawn from 7 pictures; lower batch_size" in sentence


def test_empty_captions(tiny: Recipe, tmp_path: Path) -> None:
    data = pictures(tmp_path / "data", [" "] * 9)
    assert "caption" in refused(SourceError, tiny, data, tmp_path / "out")


def test_one_caption_for_everything(tiny: Recipe, tmp_path: Path) -> None:
    data = pictures(tmp_path / "data", ["a photo"] * 9)
    assert "same caption ('a photo')" in refused(SourceError, tiny, data, tmp_path / "out")


def test_training_pictures_among_the_held_out_ones(tiny: Recipe, tmp_path: Path) -> None:
    data = pictures(tmp_path / "train", [f"picture {number}" for number in range(9)])
    with pytest.raises(SourceError, match="9 training pictures are in the evaluation data too"):
        train_bundle(tiny, str(data), tmp_path / "out", held_out=str(data), device="cpu")


def test_a_stage_for_a_part_that_the_model_has_not(tmp_path: Path) -> None:
    stage = '[[stages]]\nname = "lora"\nnum_steps = 8\ntrain = ["adapters"]\n'
    recipe = parse_recipe(TINY_RECIPE.replace("num_steps = 8\n", "") + stage, "tiny.toml")
    sentence = refused(RecipeError, recipe, tmp_path / "never-read", tmp_path / "out")
    assert "stage 'lora' trains adapters, which this model does not have; add a table [adapters.lora]" in sentence


@pytest.mark.parametrize("mode", ['mode = "fixed"', 'mode = "scheduled", final_scale = 50.0'])
def test_a_stage_whose_only_part_is_not_learnt(tmp_path: Path, mode: str) -> None:
    fixed = f"[objective]\ntemperature = {{ {mode} }}\n"
    stage = '[[stages]]\nname = "t"\nnum_steps = 8\ntrain = ["logit-scale"]\n'
    recipe = parse_recipe(TINY_RECIPE.replace("num_steps = 8\n", "") + fixed + stage, "tiny.toml")
    sentence = refused(RecipeError, recipe, tmp_path / "never-read", tmp_path / "out")
    assert "The stage 't' trains nothing, because the temperature is not learnt; name in train what else" in sentence


@pytest.mark.parametrize("option", ["[data.negatives]\nper_image = 1\n", "[data.wording]\nword_dropout = 0.1\n"])
def test_a_teacher_that_cannot_read_what_is_made(world: Path, tmp_path: Path, option: str) -> None:
    other = build_checkpoint(parse_recipe(TINY_RECIPE.replace("context_length = 32", "context_length = 30"), "other"))
    other.model.eval()
    write_bundle(other, tmp_path / "teacher")
    taught = TINY_RECIPE + f'[objective.distillation]\nalpha = 0.5\nteacher = "{tmp_path / "teacher"}"\n'
    sentence = refused(RecipeError, parse_recipe(taught + option, "t"), tmp_path / "never-read", tmp_path / "out")
    assert "has another tokenizer or context length than the student" in sentence
    assert "leave [data.wording] and [data.negatives] out." in sentence
    finished = train_bundle(parse_recipe(taught, "t"), str(world), tmp_path / "out", device="cpu", num_threads=1)
    assert finished.last.step == 8


def test_a_tag_whose_activation_does_not_match(tmp_path: Path) -> None:
    """D5: open_clip builds plain GELU for OpenAI's weights and only warns."""
    sentence = refused(EncoderUnsuitable, fine_tuning("ViT-B-32:openai"), tmp_path / "never-read", tmp_path / "out")
    assert "trained with QuickGELU; ask for ViT-B-32-quickgelu:openai instead" in sentence


def test_a_licence_that_forbids_use(tmp_path: Path) -> None:
    recipe = fine_tuning("MobileCLIP2-S0:dfndr2b")
    assert "licence" in refused(LicenceRefused, recipe, tmp_path / "never-read", tmp_path / "out")


def test_weights_with_a_missing_tensor(tmp_path: Path) -> None:
    config = {
        "embed_dim": 16,
        "vision_cfg": {"image_size": 16, "patch_size": 8, "layers": 1, "width": 16, "head_width": 8},
        "text_cfg": {"context_length": 8, "vocab_size": 49408, "layers": 1, "width": 16, "heads": 2},
    }
    (tmp_path / "sightline-test-tiny.json").write_text(json.dumps(config))
    open_clip.add_model_config(tmp_path / "sightline-test-tiny.json")
    state = open_clip.create_model("sightline-test-tiny").state_dict()
    del state["text_projection"]
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, tmp_path / "weights.safetensors")
    recipe = fine_tuning(f"sightline-test-tiny:{tmp_path / 'weights.safetensors'}")
    sentence = refused(EncoderUnsuitable, recipe, tmp_path / "never-read", tmp_path / "out")
    assert "missing, extra or wrongly shaped tensors" in sentence


def test_a_bundle_with_a_missing_tensor(tiny: Recipe, world: Path, tmp_path: Path) -> None:
    train_bundle(tiny, str(world), tmp_path / "base", device="cpu", num_threads=1)
    file = tmp_path / "base" / WEIGHTS_NAME
    state: dict[str, torch.Tensor] = load_file(file)
    del state["text_projection"]
    save_file(state, file, metadata={"format": "pt"})
    refused(BundleCorrupt, fine_tuning(str(tmp_path / "base")), tmp_path / "never-read", tmp_path / "out")
