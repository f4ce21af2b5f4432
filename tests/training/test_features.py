from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sightline.encoder.checkpoint import Checkpoint
from sightline.errors import EncodingFailed, RecipeError
from tests.training.towers import checkpoint_of, move, tokens_of
from training.adapters import AdapterSettings, LoraSettings
from training.features import cached_features, features_name, require_locked
from training.stages import Part, StageSettings, begin

NUM = 24
LIT = StageSettings(name="lit", num_steps=1, train=("text", "text-head", "logit-scale"))


@pytest.fixture
def pixels() -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.random.default_rng(0).integers(0, 256, (NUM, 32, 32, 3), dtype=np.uint8)


def losses(checkpoint: Checkpoint, pixels: Any, features: Any | None) -> list[float]:
    """A loss curve of locked-image tuning, with the image tower or with what was kept of it."""
    model: Any = checkpoint.model
    begin(model, LIT)
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=3e-3)
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (checkpoint.pixels.mean, checkpoint.pixels.std))
    tokens = tokens_of(checkpoint, NUM)
    found = []
    for step in range(12):
        rows = np.random.default_rng(step).permutation(NUM)[:8]
        if features is None:
            batch = torch.from_numpy(pixels[rows]).permute(0, 3, 1, 2).float().div(255.0).sub(mean).div(std)
            images = model.encode_image(batch)
        else:
            images = torch.from_numpy(np.asarray(features[rows]))
        images = torch.nn.functional.normalize(images, dim=-1)
        texts = torch.nn.functional.normalize(model.encode_text(tokens[rows]), dim=-1)
        loss = torch.nn.functional.cross_entropy(model.logit_scale.exp() * images @ texts.T, torch.arange(8))
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        found.append(float(loss.detach()))
    return found


@pytest.mark.parametrize("kind", ["vit", "resnet"])
def test_the_loss_curve_is_that_of_training_without_the_cache(kind: str, pixels: Any, tmp_path: Path) -> None:
    checkpoint = checkpoint_of(kind)
    checkpoint.model.train()
    features = cached_features(checkpoint, pixels, tmp_path, data_sha256="d")
    assert features.shape == (NUM, 16) and features.dtype == np.float32
    assert checkpoint.model.training and checkpoint.model.visual.training  # type: ignore[union-attr]
    with_cache = losses(checkpoint, pixels, features)
    without = losses(checkpoint_of(kind), pixels, None)
    assert with_cache == pytest.approx(without, abs=2e-5)
    assert without[-1] < without[0] - 0.1


def test_it_is_computed_once_for_the_same_tower_and_data(pixels: Any, tmp_path: Path) -> None:
    checkpoint = checkpoint_of("vit")
    done: list[int] = []

    def ask(data: str = "d", dtype: Any = "float32") -> Any:
        done.clear()
        return cached_features(checkpoint, pixels, tmp_path, data_sha256=data, dtype=dtype, progress=done.append)

    first = ask()
    assert sum(done) == NUM
    assert np.array_equal(ask(), first) and not done
    assert isinstance(ask(), np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        ask()[0, 0] = 1.0
    ask(data="other")
    assert sum(done) == NUM
    halved = ask(dtype="float16")
    assert sum(done) == NUM and halved.dtype == np.float16
    assert np.abs(halved.astype(np.float32) - first).max() <= 1e-3 * np.abs(first).max()
    text = dict(checkpoint.model.named_parameters())["text_projection"]
    move([text])  # another text tower, the same pictures
    assert np.array_equal(ask(), first) and not done
    move([checkpoint.model.visual.proj])  # type: ignore[union-attr,list-item]
    assert not np.array_equal(ask(), first)
    assert sum(done) == NUM


def test_a_file_that_was_not_finished_is_written_again(pixels: Any, tmp_path: Path) -> None:
    checkpoint = checkpoint_of("vit")
    path = tmp_path / features_name(checkpoint, "d")
    whole = cached_features(checkpoint, pixels, tmp_path, data_sha256="d").copy()
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    path.write_bytes(path.read_bytes()[:-40])
    assert np.array_equal(cached_features(checkpoint, pixels, tmp_path, data_sha256="d"), whole)
    np.save(path, whole[:3])
    assert np.array_equal(cached_features(checkpoint, pixels, tmp_path, data_sha256="d"), whole)


def test_values_that_are_not_numbers_leave_nothing_behind(pixels: Any, tmp_path: Path) -> None:
    checkpoint = checkpoint_of("vit")
    with torch.no_grad():
        checkpoint.model.visual.proj[0, 0] = torch.nan  # type: ignore[union-attr,operator]
    with pytest.raises(EncodingFailed, match="not numbers; check its weights"):
        cached_features(checkpoint, pixels, tmp_path, data_sha256="d")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("train", "adapters", "moving"),
    [
        (("image", "text"), None, "image"),
        (("image-head",), None, "image-head"),
        (("adapters",), AdapterSettings(lora=LoraSettings()), "adapters of the image tower"),
    ],
)
def test_a_moving_image_tower_is_refused(
    train: tuple[Part, ...], adapters: AdapterSettings | None, moving: str
) -> None:
    stages = [LIT, StageSettings(name="s", num_steps=1, train=train)]
    with pytest.raises(RecipeError, match=f"this recipe trains {moving}; take that out of every stage"):
        require_locked(stages, adapters)


def test_a_locked_image_tower_is_accepted() -> None:
    require_locked([LIT], None)
    require_locked([], AdapterSettings(text_map=True))
    text_only = AdapterSettings(lora=LoraSettings(towers=("text",)))
    require_locked([StageSettings(name="s", num_steps=1, train=("adapters",))], text_only)
    with pytest.raises(RecipeError):
        require_locked([], None)
