"""Every recipe of ours, made small, trains and gives a bundle that open_clip itself loads with the same vectors."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch

from sightline.bundle import CONFIG_NAME, BundleManifest
from sightline.encoder import load_encoder, write_bundle
from sightline.errors import RecipeError
from tests.training.towers import CONFIGS, checkpoint_of
from training.recipe import RECIPES, Recipe, read_recipe, starting_from
from training.run import train_bundle

NAMES = sorted(file.stem for file in RECIPES.glob("*.toml"))
PRESETS = {"clip", "align", "siglip", "lit", "eva-clip", "fine-tune", "lora", "text-map", "staged", "drawn-world"}
BASES = {"eva-clip": "timm", "fine-tune": "vit", "lora": "resnet", "lit": "sigmoid", "text-map": "vit"}
LEAVE_IMAGES = {"lit", "text-map"}


def small(name: str, base: str) -> Recipe:
    """A recipe with tiny towers and two steps for each stage; everything else as it stands."""
    tree: dict[str, Any] = tomllib.loads((RECIPES / f"{name}.toml").read_text(encoding="utf-8"))
    model, training = tree["model"], tree["training"]
    if "encoder" in model:
        model["encoder"] = base
    else:
        model["embed_dim"] = 16
        vit = {"image_size": 32, "patch_size": 8, "layers": 2, "width": 32, "head_width": 16}
        resnet = {"image_size": 32, "layers": [1, 1, 1, 1], "width": 8, "head_width": 16}
        model["vision"] = resnet if isinstance(model["vision"]["layers"], list) else vit
        model["text"] = {"context_length": 32, "layers": 1, "width": 16, "heads": 2}
    training |= {"batch_size": 8, "warmup_steps": 0, "precision": "fp32"}
    if "micro_batch_size" in training:
        training["micro_batch_size"] = 4
    for stage in tree.get("stages", [training]):
        stage["num_steps"] = 2
    return Recipe.model_validate(tree)


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bases")
    for kind in CONFIGS:
        write_bundle(checkpoint_of(kind), folder / kind)
    return folder


def test_the_presets_are_there_and_say_why() -> None:
    assert set(NAMES) >= PRESETS
    for name in NAMES:
        assert read_recipe(name).name == name
        assert (RECIPES / f"{name}.toml").read_text(encoding="utf-8").startswith("# ")


@pytest.mark.parametrize("name", NAMES)
def test_a_preset_trains_and_open_clip_loads_what_it_gives(name: str, world: Path, bases: Path, tmp_path: Path) -> None:
    base = str(bases / BASES.get(name, "vit"))
    out = tmp_path / "bundle"
    finished = train_bundle(small(name, base), str(world), out, device="cpu", num_threads=1)
    assert finished.manifest is not None
    assert np.isfinite(finished.last.loss)
    config = json.loads((out / CONFIG_NAME).read_text(encoding="utf-8"))["model_cfg"]
    fine_tuned = read_recipe(name).model.encoder is not None
    assert config.get("quick_gelu", False) == (fine_tuned and CONFIGS[BASES.get(name, "vit")].get("quick_gelu", False))
    compare(out, finished.manifest)
    if name in LEAVE_IMAGES:
        before = load_encoder(base, device="cpu", precision="fp32")
        after = load_encoder(str(out), device="cpu", precision="fp32")
        pixels = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
        assert np.array_equal(before.encode_pixels(pixels), after.encode_pixels(pixels))
        assert finished.manifest.same_images_as == (before.fingerprint,)
        assert before.fingerprint != after.fingerprint
    else:
        assert finished.manifest.same_images_as is None


def test_locked_image_tuning_is_the_same_with_and_without_the_cache(world: Path, bases: Path, tmp_path: Path) -> None:
    recipe = small(
        "lit", str(bases / "resnet")
    )  # its batch norms would drift if the tower were not locked in eval mode
    assert recipe.training.cache_features
    plain = recipe.model_copy(update={"training": recipe.training.model_copy(update={"cache_features": False})})
    curves = []
    for name, one in (("cached", recipe), ("plain", plain)):
        train_bundle(one, str(world), tmp_path / name, device="cpu", num_threads=1)
        lines = (tmp_path / f"{name}.training" / "log.jsonl").read_text(encoding="utf-8").splitlines()
        curves.append([json.loads(line)["loss"] for line in lines])
    assert len(curves[0]) == 2
    assert curves[0] == pytest.approx(curves[1], abs=1e-5)
    states = [
        load_encoder(str(tmp_path / n), device="cpu", precision="fp32").checkpoint.model for n in ("cached", "plain")
    ]
    cached, plain_state = (model.state_dict() for model in states)
    assert all(torch.allclose(cached[name].float(), plain_state[name].float(), atol=1e-5) for name in cached)


def test_a_preset_can_start_from_another_encoder() -> None:
    recipe = starting_from(read_recipe("lora"), "my-bundle")
    assert recipe.model.encoder == "my-bundle"
    assert recipe.training == read_recipe("lora").training
    with pytest.raises(RecipeError, match=r"recipe clip trains an architecture of its own.*leave --encoder out"):
        starting_from(read_recipe("clip"), "my-bundle")


def compare(out: Path, manifest: BundleManifest) -> None:
    """open_clip's own loader, its preprocessing and its tokenizer against ours: a difference of 0."""
    encoder = load_encoder(str(out), device="cpu", precision="fp32")
    model = open_clip.create_model(f"local-dir:{out}").eval()
    spec = manifest.pixels
    assert model.visual.preprocess_cfg["mean"] == list(spec.mean)
    assert model.visual.preprocess_cfg["std"] == list(spec.std)
    assert model.visual.preprocess_cfg["size"] in (spec.height_px, (spec.height_px, spec.width_px))
    pixels = np.random.default_rng(0).integers(0, 256, (3, spec.height_px, spec.width_px, 3), dtype=np.uint8)
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (spec.mean, spec.std))
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2).float().div(255.0).sub(mean).div(std)
    tokenizer = open_clip.get_tokenizer(f"local-dir:{out}", context_length=manifest.texts.context_length)
    texts = ["a red circle", "Two BLUE squares, left of a star"]
    tokens = tokenizer(texts)
    assert np.array_equal(tokens.numpy(), encoder.tokenize(texts))
    with torch.inference_mode():
        theirs = model.encode_image(images), model.encode_text(tokens)
        own: Any = encoder.checkpoint.model
        ours = own.encode_image(images), own.encode_text(tokens)
        served = encoder.encode_pixels(pixels)
    assert all(torch.equal(a, b) for a, b in zip(theirs, ours, strict=True))
    assert np.abs(torch.nn.functional.normalize(theirs[0], dim=-1).numpy() - served).max() <= 1e-6
