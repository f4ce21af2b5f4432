from __future__ import annotations

import base64
import io

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from sightline.images import Pixels
from training.batch import Batch
from training.watching.held_out import AT_ONCE, THUMBNAIL_PX, HeldOut, evaluating, spread_rows


def held_out(num: int, side: int = 8) -> HeldOut:
    pixels = np.random.default_rng(0).integers(0, 256, (num, side, side, 3), np.uint8)
    tokens = np.arange(num, dtype=np.int64)[:, None].repeat(4, axis=1)
    return HeldOut(pixels, None, tokens, tuple(f"caption {i}" for i in range(num)))


class Towers(nn.Module):
    """Gives each picture its first pixel and each text its first token, and drops out what it should not."""

    def __init__(self) -> None:
        super().__init__()
        self.dropout = nn.Dropout(0.5)
        self.norm = nn.BatchNorm1d(2)
        self.frozen = nn.BatchNorm1d(2).eval()

    def encode(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        assert batch.pixels is not None
        assert not self.training
        images = torch.from_numpy(batch.pixels[:, 0, 0, :2].astype(np.float32))
        texts = torch.from_numpy(batch.tokens[:, :2].astype(np.float32))
        self.norm(images)
        return self.dropout(images), self.dropout(texts)


@pytest.mark.parametrize("num", [1, AT_ONCE, 2 * AT_ONCE + 3])
def test_every_pair_is_encoded_once_in_order(num: int) -> None:
    pairs, towers = held_out(num), Towers()
    images, texts = pairs.encode(towers, towers.encode)
    assert pairs.pixels is not None
    assert np.array_equal(images, pairs.pixels[:, 0, 0, :2])
    assert np.array_equal(texts, pairs.tokens[:, :2])


def test_looking_changes_neither_modes_nor_statistics_nor_randomness() -> None:
    towers = Towers().train()
    towers.frozen.eval()
    torch.manual_seed(5)
    before, mean = torch.get_rng_state(), towers.norm.running_mean
    assert mean is not None
    held_out(9).encode(towers, towers.encode)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(mean, torch.zeros(2))
    assert towers.training
    assert towers.norm.training
    assert not towers.frozen.training


def test_modes_come_back_after_an_error_too() -> None:
    towers = Towers().train()
    with pytest.raises(ZeroDivisionError), evaluating(towers):
        raise ZeroDivisionError
    assert towers.dropout.training


def test_fewer_pairs_are_spread_over_all() -> None:
    assert spread_rows(10, 4).tolist() == [0, 2, 5, 7]
    assert spread_rows(3, 10).tolist() == [0, 1, 2]
    some = held_out(10).first(4)
    assert some.captions == ("caption 0", "caption 2", "caption 5", "caption 7")
    assert some.tokens[:, 0].tolist() == [0, 2, 5, 7]
    assert held_out(10).first(20).captions == held_out(10).captions
    assert len(held_out(10).first(0)) == 0


def test_thumbnails_are_small_jpegs() -> None:
    (text,) = held_out(1, side=200).thumbnails()
    picture = Image.open(io.BytesIO(base64.b64decode(text)))
    assert (picture.format, picture.size) == ("JPEG", (THUMBNAIL_PX, THUMBNAIL_PX))


@pytest.mark.parametrize("pixels", [None, np.zeros((3, 8, 8, 3), np.uint8)])
def test_cached_features_are_encoded_instead_of_pixels(pixels: Pixels | None) -> None:
    pairs = HeldOut(pixels, np.eye(3, dtype=np.float32), np.zeros((3, 2), np.int64), ("a", "b", "c"))
    assert len(pairs.thumbnails()) == (0 if pixels is None else 3)

    def encode(batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        assert batch.pixels is None
        assert batch.features is not None
        return torch.from_numpy(batch.features), torch.from_numpy(batch.features)

    images, _ = pairs.encode(nn.Linear(1, 1), encode)
    assert np.array_equal(images, np.eye(3, dtype=np.float32))
