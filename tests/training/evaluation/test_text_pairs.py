from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sightline.errors import SourceError
from sightline.images import Pixels, PixelSpec
from training.evaluation.bootstrap import Bootstrap
from training.evaluation.places import Vectors
from training.evaluation.text_pairs import names_of, pairs_ranked_rightly, read_pairs, score_pairs

SPEC = PixelSpec(height_px=8, width_px=8, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))


class Colours:
    """Red, green and blue pictures and words."""

    def encode_pixels(self, pixels: Pixels) -> Vectors:
        means = pixels.reshape(len(pixels), -1, 3).mean(axis=1).astype(np.float32)
        unit: Vectors = means / np.linalg.norm(means, axis=1, keepdims=True)
        return unit

    def encode_texts(self, texts: Sequence[str]) -> Vectors:
        return np.stack(
            [np.eye(3, dtype=np.float32)[("red", "green", "blue").index(text.split()[-1])] for text in texts]
        )


def suite(folder: Path, count: int, *, wrong: int = 0) -> Path:
    """``count`` red pictures, of which the last ``wrong`` have the true and the false caption exchanged."""
    (folder / "pictures").mkdir()
    entries = {}
    for number in range(count):
        Image.new("RGB", (10, 10), (250, 0, 0)).save(folder / "pictures" / f"{number}.png")
        texts = ["a red", "a green"] if number < count - wrong else ["a green", "a red"]
        entries[str(number)] = {"filename": f"{number}.png", "caption": texts[0], "negative_caption": texts[1]}
    path = folder / "swap_att.json"
    path.write_text(json.dumps(entries))
    return path


def test_swaps_that_tie_count_half() -> None:
    image = np.eye(3, dtype=np.float32)
    bad = np.roll(image, 1, axis=0)
    assert pairs_ranked_rightly(image, image, bad) == 1
    assert pairs_ranked_rightly(image, bad, image) == 0
    assert pairs_ranked_rightly(image, image, image) == 0.5


def test_a_suite_with_pictures(tmp_path: Path) -> None:
    read = read_pairs(suite(tmp_path, 10, wrong=3), tmp_path / "pictures")
    found = score_pairs(Colours(), read, SPEC, Bootstrap(num_resamples=100))
    assert (found.name, found.num_pairs, found.ranked_rightly) == ("swap_att", 10, 0.7)
    assert found.interval is not None and found.interval[0] < 0.7 < found.interval[1]
    assert found.text_cosine == 0


def test_a_suite_as_a_list_without_pictures_compares_the_texts(tmp_path: Path) -> None:
    entries = [{"filename": "a.jpg", "caption": "a red", "negative_caption": "one red", "more": 1}] * 3
    (tmp_path / "add.json").write_text(json.dumps(entries))
    found = score_pairs(Colours(), read_pairs(tmp_path / "add.json"), SPEC)
    assert found.ranked_rightly is None and found.text_cosine == 1 and found.num_missing == 0


def test_missing_pictures_are_counted_and_many_are_refused(tmp_path: Path) -> None:
    path = suite(tmp_path, 40)
    (tmp_path / "pictures" / "7.png").unlink()
    found = score_pairs(Colours(), read_pairs(path, tmp_path / "pictures"), SPEC)
    assert (found.num_pairs, found.num_missing, found.ranked_rightly) == (39, 1, 1)
    for number in range(5):
        (tmp_path / "pictures" / f"{number}.png").write_bytes(b"damaged")
    with pytest.raises(SourceError, match=r"6 of 40 pictures of swap_att cannot be read in .*first: 0.png"):
        score_pairs(Colours(), read_pairs(path, tmp_path / "pictures"), SPEC)


def test_a_suite_reads_nothing_outside_its_folder(tmp_path: Path) -> None:
    Image.new("RGB", (10, 10)).save(tmp_path / "outside.png")
    (tmp_path / "pictures").mkdir()
    for name in ("../outside.png", str(tmp_path / "outside.png")):
        entry = {"filename": name, "caption": "a red", "negative_caption": "a blue"}
        (tmp_path / "s.json").write_text(json.dumps([entry]))
        with pytest.raises(SourceError, match="1 of 1 pictures"):
            score_pairs(Colours(), read_pairs(tmp_path / "s.json", tmp_path / "pictures"), SPEC)


@pytest.mark.parametrize("text", ["", "3", "{}", '[{"filename": "a"}]', '{"0": "x"}'])
def test_what_is_no_suite_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "s.json").write_text(text)
    with pytest.raises(SourceError):
        read_pairs(tmp_path / "s.json")


def test_a_wrong_folder_and_equal_names_are_refused(tmp_path: Path) -> None:
    path = suite(tmp_path, 2)
    with pytest.raises(SourceError, match="check --pairs-images"):
        read_pairs(path, tmp_path / "nowhere")
    with pytest.raises(SourceError, match="Two suites are named swap_att"):
        names_of([read_pairs(path), read_pairs(path)])
    (tmp_path / "e.json").write_text(json.dumps([{"filename": "a", "caption": " ", "negative_caption": "b"}]))
    with pytest.raises(SourceError, match="holds an empty caption"):
        read_pairs(tmp_path / "e.json")


@pytest.mark.realdata
def test_sugarcrepe_is_read_whole(real_data: Path) -> None:
    suites = [read_pairs(path) for path in sorted((real_data / "sugarcrepe").glob("*.json"))]
    assert len(names_of(suites)) == 7
    assert sum(len(one.captions) for one in suites) == 7511
