from __future__ import annotations

import colorsys
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from sightline.images import Pixels
from training.data import Augmentation, AugmentationSettings
from training.data.augmentation import _crop_box

JITTER: dict[str, Any] = {"brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.1}
EVERYTHING: dict[str, Any] = {"crop_scale": (0.5, 1.0), "mirror": 0.5, "greyscale": 0.2, **JITTER}


def noise(count: int, side_px: int = 12) -> Pixels:
    return np.random.default_rng(5).integers(0, 256, (count, side_px, side_px, 3), np.uint8)


def apply(pixels: Pixels, said: str = "a dog", *, step: int = 0, seed: int = 0, **settings: Any) -> Pixels:
    augmentation = Augmentation(AugmentationSettings(**settings), seed)
    return augmentation.apply(pixels, [[said]] * len(pixels), step, np.arange(len(pixels)))


def test_it_is_off_by_default_and_then_changes_nothing() -> None:
    assert not AugmentationSettings().on
    assert np.array_equal(apply(noise(3)), noise(3))


def test_the_same_seed_step_and_row_give_the_same_picture_whatever_the_batch() -> None:
    pixels = noise(8)
    augmentation = Augmentation(AugmentationSettings(**EVERYTHING), 7)
    whole = augmentation.apply(pixels, [["a dog"]] * 8, 3, np.arange(8))
    part = augmentation.apply(pixels[[6, 1]], [["a dog"]] * 2, 3, np.array([6, 1]))
    assert np.array_equal(part, whole[[6, 1]])
    assert not np.array_equal(whole, augmentation.apply(pixels, [["a dog"]] * 8, 4, np.arange(8)))
    assert not np.array_equal(whole, apply(pixels, step=3, seed=8, **EVERYTHING))
    assert whole.shape == pixels.shape and whole.dtype == np.uint8


def test_the_number_of_threads_changes_nothing() -> None:
    pixels, said = noise(9), [["a dog"], ["a red dog left of a cat"], []] * 3
    found = [
        Augmentation(AugmentationSettings(**EVERYTHING), 7, num_threads=count).apply(pixels, said, 3, np.arange(9))
        for count in (1, 2, 5)
    ]
    assert np.array_equal(found[0], found[1]) and np.array_equal(found[0], found[2])


def test_what_came_in_is_not_changed() -> None:
    pixels = noise(4)
    apply(pixels, **EVERYTHING)
    assert np.array_equal(pixels, noise(4))


def test_a_mirror_turns_left_and_right() -> None:
    assert np.array_equal(apply(noise(4), mirror=1.0), noise(4)[:, :, ::-1])
    mirrored = apply(noise(400, 2), mirror=0.3)
    share = np.mean([not np.array_equal(one, old) for one, old in zip(mirrored, noise(400, 2), strict=True)])
    assert share == pytest.approx(0.3, abs=0.08)


@pytest.mark.parametrize(
    "caption",
    [
        "a dog left of a cat",
        "The Left-hand door",
        "turn RIGHT!",
        "ein Hund links neben einer Katze",
        "die rechte Hand",
        "un chien à gauche d'un chat",
        "la main droite",
        "un perro a la izquierda",
        "la mano derecha",
        "左の犬",
    ],
)
def test_no_mirror_where_the_caption_names_a_side(caption: str) -> None:
    assert np.array_equal(apply(noise(4), caption, mirror=1.0), noise(4))
    assert not np.array_equal(apply(noise(4), caption, mirror=1.0, caption_aware=False), noise(4))


@pytest.mark.parametrize(
    "caption", ["a brightly lit leftover", "the righteous", "der Rechtsanwalt", "a bird in flight"]
)
def test_a_word_inside_another_is_none(caption: str) -> None:
    assert np.array_equal(apply(noise(4), caption, mirror=1.0), noise(4)[:, :, ::-1])


@pytest.mark.parametrize(
    "caption",
    ["a red car", "GREY skies", "ein rotes Auto", "das grüne Haus", "une voiture verte", "una casa roja", "红车"],
)
@pytest.mark.parametrize("settings", [JITTER, {"greyscale": 1.0}])
def test_colours_stay_where_the_caption_names_one(caption: str, settings: dict[str, Any]) -> None:
    assert np.array_equal(apply(noise(4), caption, **settings), noise(4))
    assert not np.array_equal(apply(noise(4), caption, caption_aware=False, **settings), noise(4))
    assert not np.array_equal(apply(noise(4), "a fast car", **settings), noise(4))


def test_a_caption_forbids_only_what_it_names() -> None:
    assert np.array_equal(apply(noise(4), "a red car", mirror=1.0, **JITTER), noise(4)[:, :, ::-1])
    jittered = apply(noise(4), "a dog", **JITTER)
    assert np.array_equal(apply(noise(4), "a dog on the left", mirror=1.0, **JITTER), jittered)


def test_each_picture_goes_by_its_own_captions_all_of_them() -> None:
    augmentation = Augmentation(AugmentationSettings(mirror=1.0), 0)
    said = [["a dog"], ["a dog", "a dog on the left"], []]
    changed = augmentation.apply(noise(3), said, 0, np.arange(3))
    assert np.array_equal(changed[[0, 2]], noise(3)[[0, 2], :, ::-1])
    assert np.array_equal(changed[1], noise(3)[1])


def test_words_of_ones_own_count_too() -> None:
    assert np.array_equal(apply(noise(2), "vasen käsi", mirror=1.0, direction_words=("vasen",)), noise(2))
    assert np.array_equal(apply(noise(2), "punainen auto", greyscale=1.0, colour_words=("punainen",)), noise(2))


def test_greyscale_has_equal_channels_of_the_usual_weights() -> None:
    grey = apply(noise(3), greyscale=1.0)
    assert (grey == grey[..., :1]).all()
    expected = noise(3) @ np.array([0.299, 0.587, 0.114])
    assert np.abs(grey[..., 0] - expected).max() <= 0.51


@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation", "hue"])
def test_a_jitter_changes_what_its_name_says(name: str) -> None:
    pixels = np.tile(np.array([[150, 100, 60], [90, 120, 140]], np.uint8), (30, 3, 4, 1)).reshape(30, 3, 8, 3)
    largest = 0.05 if name == "hue" else 0.3
    settings: dict[str, Any] = {name: largest}
    changed = apply(pixels, **settings).astype(float)
    old = pixels[0].astype(float)
    grey = np.array([0.299, 0.587, 0.114])
    assert len({one.tobytes() for one in changed}) > 20
    for one in changed:
        if name == "brightness":
            ratio = one.mean() / old.mean()
            assert 0.69 < ratio < 1.31
            assert np.abs(one - ratio * old).max() < 1.5
        if name == "contrast":
            assert (one @ grey).mean() == pytest.approx((old @ grey).mean(), abs=1)
        if name in ("saturation", "hue"):
            assert np.abs(one @ grey - old @ grey).max() < 1.5
        if name == "hue":
            before, after = (colorsys.rgb_to_hsv(*picture[0, 0] / 255)[0] for picture in (old, one))
            assert abs(after - before) < 0.08


def test_crops_lie_inside_and_keep_the_share_of_the_area() -> None:
    rng = np.random.default_rng(1)
    for _ in range(300):
        left, top, right, bottom = _crop_box((40, 60, 3), (0.25, 0.8), (0.8, 1.25), rng.random(4))
        assert 0 <= left < right <= 60 and 0 <= top < bottom <= 40
        assert 0.249 < (right - left) * (bottom - top) / 2400 < 0.801


def test_the_whole_picture_as_a_crop_is_the_picture() -> None:
    assert np.array_equal(apply(noise(3), crop_scale=(1.0, 1.0), crop_ratio=(1.0, 1.0)), noise(3))


@pytest.mark.parametrize(
    "wrong",
    [{"crop_scale": (0.0, 1.0)}, {"crop_scale": (0.9, 0.5)}, {"crop_ratio": (2.0, 1.0)}, {"mirror": 1.1}, {"flip": 1}],
)
def test_impossible_settings_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        AugmentationSettings(**wrong)
