from __future__ import annotations

from pathlib import Path

import pytest

from sightline.errors import RecipeError
from tests.training.conftest import TINY_RECIPE
from training.model import build_checkpoint
from training.recipe import RECIPES, parse_recipe, read_recipe


def test_our_own_recipes_are_sound() -> None:
    names = [file.stem for file in RECIPES.glob("*.toml")]
    assert "drawn-world" in names
    for name in names:
        recipe = read_recipe(name)
        assert recipe.name == name
    assert build_checkpoint(read_recipe("drawn-world")).texts.tokenizer == "clip-bpe"


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("num_steps = 8", "num_step = 8", "unknown key 'num_step' in [training]; did you mean 'num_steps'?"),
        ('name = "tiny"', 'nmae = "tiny"', "unknown key 'nmae'; did you mean 'name'?"),
        ("seed = 3", "sede = 3", "unknown key 'sede'; did you mean 'seed'?"),
        ("num_steps = 8", "", "lacks the key 'num_steps' in [training]; add it."),
        ("batch_size = 8", "batch_size = 1", "wrong value for 'batch_size' in [training]"),
        ("warmup_steps = 2", "warmup_steps = 8", "[training] needs warmup_steps below num_steps."),
        ("embed_dim = 16", "", "[model] needs either encoder, or all of embed_dim, vision and text."),
        ("embed_dim = 16", 'embed_dim = 16\nencoder = "ViT-B-32:openai"', "keep one of the two"),
        ("[training]", "[training", "is not valid TOML"),
    ],
)
def test_a_wrong_recipe_is_one_sentence_with_the_fix(old: str, new: str, sentence: str) -> None:
    with pytest.raises(RecipeError) as raised:
        parse_recipe(TINY_RECIPE.replace(old, new), "tiny.toml")
    assert sentence in raised.value.message
    assert "\n" not in raised.value.message


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("patch_size = 8", "patchsize = 8", "Unknown key 'patchsize' in [model.vision]; did you mean 'patch_size'?"),
        ("heads = 2", "head = 2", "Unknown key 'head' in [model.text]; did you mean 'heads'?"),
        ("patch_size = 8", "patch_size = 7", "must be a multiple of patch_size"),
        ("patch_size = 8", "patch_size = 8, timm_model_name = 'vit'", "timm"),
        ("heads = 2", "heads = 2, vocab_size = 9", "vocab_size in [model.text] must be 49408"),
        ("heads = 2", "heads = 3", "cannot be built"),
    ],
)
def test_an_impossible_architecture_is_refused(old: str, new: str, sentence: str) -> None:
    with pytest.raises(RecipeError, match=r".") as raised:
        build_checkpoint(parse_recipe(TINY_RECIPE.replace(old, new), "tiny.toml"))
    assert sentence in raised.value.message


STAGE = '[[stages]]\nname = "one"\nnum_steps = 8\ntrain = ["text"]\n'


@pytest.mark.parametrize(
    ("table", "sentence"),
    [
        ("[data]\nmine_wiht = 'x'", "unknown key 'mine_wiht' in [data]; did you mean 'mine_with'?"),
        ("[data.augmentation]\nmiror = 1", "unknown key 'miror' in [data.augmentation]; did you mean 'mirror'?"),
        ("[objective]\nchunksize = 64", "unknown key 'chunksize' in [objective]; did you mean 'chunk_size'?"),
        ("[objective.temperature]\nmoed = 'fixed'", "'moed' in [objective.temperature]; did you mean 'mode'?"),
        ("[adapters.lora]\nrnk = 4", "unknown key 'rnk' in [adapters.lora]; did you mean 'rank'?"),
        ("[watch]\ncanary_pair = 3", "unknown key 'canary_pair' in [watch]; did you mean 'canary_pairs'?"),
        ("[export]\nonxx = true", "unknown key 'onxx' in [export]; did you mean 'onnx'?"),
        ("[trainning]\nx = 1", "unknown key 'trainning'; did you mean 'training'?"),
        (STAGE + "trian = 1", "unknown key 'trian' in [[stages]] number 1; did you mean 'train'?"),
        ("factors = { imag = 0.1 }", "unknown key 'imag' in [training.factors]; did you mean 'image'?"),
        ("factors = { image = -1.0 }", "wrong value for 'image' in [training.factors]: input should be greater than 0"),
        ("micro_batch_size = 16", "[training] needs a micro_batch_size of at most batch_size"),
        (STAGE, "gives num_steps in [training] and in each of [[stages]]; leave it out of [training]."),
        ("[export]\nweights = 'ema'", "asks in [export] for the ema weights, which nobody keeps; set ema_decay"),
    ],
)
def test_every_table_refuses_what_nobody_reads(table: str, sentence: str) -> None:
    with pytest.raises(RecipeError) as raised:
        parse_recipe(f"{TINY_RECIPE}{table}\n", "tiny.toml")
    assert sentence in raised.value.message
    assert "\n" not in raised.value.message


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ('["text"]', "[]", "[[stages]] number 1 freezes everything; name in train what moves"),
        ('["text"]', '["texts"]', "wrong value for 'train' in [[stages]] number 1: input should be 'image', 'text'"),
        ("num_steps = 8", "num_steps = 2", "has a stage 'one' no longer than the warmup_steps of [training]"),
        ("num_steps = 8", "", "lacks the key 'num_steps' in [[stages]] number 1; add it."),
    ],
)
def test_a_stage_that_cannot_be_is_refused(old: str, new: str, sentence: str) -> None:
    text = TINY_RECIPE.replace("num_steps = 8\n", "")
    with pytest.raises(RecipeError) as raised:
        parse_recipe(text + STAGE.replace(old, new), "tiny.toml")
    assert sentence in raised.value.message


def test_a_recipe_without_stages_has_one() -> None:
    (stage,) = parse_recipe(f"{TINY_RECIPE}factors = {{ image = 0.1 }}\n", "tiny.toml").plan
    assert (stage.name, stage.num_steps, stage.factors) == ("all", 8, {"image": 0.1})
    staged = parse_recipe(TINY_RECIPE.replace("num_steps = 8\n", "") + STAGE + STAGE, "tiny.toml")
    assert staged.num_steps == 16


def test_a_recipe_that_is_not_there_names_the_built_in_ones(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"built-in names: .*drawn-world"):
        read_recipe(str(tmp_path / "none.toml"))


def test_the_same_seed_gives_the_same_new_weights() -> None:
    recipe = parse_recipe(TINY_RECIPE, "tiny.toml")
    first, second = build_checkpoint(recipe).model, build_checkpoint(recipe).model
    other = build_checkpoint(recipe.model_copy(update={"seed": 4})).model
    assert all((a == b).all() for a, b in zip(first.parameters(), second.parameters(), strict=True))
    assert any((a != b).any() for a, b in zip(first.parameters(), other.parameters(), strict=True))


def test_a_batch_holds_whole_groups() -> None:
    text = (RECIPES / "drawn-world.toml").read_text(encoding="utf-8")
    with pytest.raises(RecipeError, match="multiple of group_size"):
        parse_recipe(text.replace("batch_size = 256", "batch_size = 255"), "mine")
