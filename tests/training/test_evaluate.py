from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from sightline.errors import SourceError
from sightline.images import Pixels, PixelSpec
from training.data import Captioned, read_captioned, split_source
from training.evaluate import evaluate
from training.metrics import Vectors
from training.world.scene import COLOURS, SHAPES, Scene, from_record

SPEC = PixelSpec(height_px=32, width_px=32, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
KINDS = len(COLOURS) * len(SHAPES)


class Oracle:
    """Knows every picture and caption of some data, and reads phrases and swap captions word by word."""

    def __init__(self, data: Captioned) -> None:
        self.rows = {pixels.tobytes(): row for row, pixels in enumerate(data.pixels)}
        self.texts = {text: row for row, several in enumerate(data.captions) for text in several}
        self.scenes = [from_record(record) for record in data.metadata]

    def encode_pixels(self, pixels: Pixels) -> Vectors:
        return self._unit([self._image(self.rows[one.tobytes()]) for one in pixels])

    def encode_texts(self, texts: Sequence[str]) -> Vectors:
        return self._unit([self._text(text) for text in texts])

    def _image(self, row: int) -> Vectors:
        vector = self._blank()
        vector[row] = 1
        scene = self.scenes[row]
        if scene is not None:
            self._describe(vector, [(t.colour, t.shape) for t in scene.things])
        return vector

    def _text(self, text: str) -> Vectors:
        vector = self._blank()
        if text in self.texts and not re.search(r" (left of|above) ", text):
            vector[self.texts[text]] = 1
        else:
            self._describe(vector, re.findall(rf"({'|'.join(COLOURS)}) ({'|'.join(SHAPES)})", text))
            if text in self.texts:
                vector[self.texts[text]] = 1
        return vector

    def _describe(self, vector: Vectors, kinds: Sequence[tuple[str, str]]) -> None:
        for position, (colour, shape) in enumerate(kinds):
            number = COLOURS.index(colour) * len(SHAPES) + SHAPES.index(shape)
            vector[len(self.rows) + position * KINDS + number] = 1

    def _blank(self) -> Vectors:
        return np.zeros(len(self.rows) + 3 * KINDS, np.float32)

    @staticmethod
    def _unit(vectors: list[Vectors]) -> Vectors:
        stacked: Vectors = np.stack(vectors)
        stacked /= np.linalg.norm(stacked, axis=1, keepdims=True)
        return stacked


class Collapsed:
    """Gives the same vector to everything."""

    def encode_pixels(self, pixels: Pixels) -> Vectors:
        return np.tile(np.array([[0.6, 0.8]], np.float32), (len(pixels), 1))

    def encode_texts(self, texts: Sequence[str]) -> Vectors:
        return np.tile(np.array([[0.6, 0.8]], np.float32), (len(texts), 1))


@pytest.fixture(scope="module")
def data(world: Path) -> Captioned:
    return read_captioned(split_source(str(world), "held-out"), SPEC)


def test_an_encoder_that_knows_all_scores_one(data: Captioned) -> None:
    report = evaluate(Oracle(data), data)
    scenes = [scene for record in data.metadata if isinstance(scene := from_record(record), Scene)]
    assert report.num_single == sum(len(scene.things) == 1 for scene in scenes) > 0
    assert report.num_swaps == sum(len(scene.things) == 2 for scene in scenes) > 0
    values = report.values()
    for name in (
        "text_to_image_recall_at_1",
        "any_text_to_image_recall_at_1",
        "image_to_text_recall_at_1",
        "zero_shot_colour",
        "zero_shot_shape",
        "swaps_ranked_rightly",
    ):
        assert values[name] == 1, name


def test_a_collapsed_encoder_scores_chance(data: Captioned) -> None:
    values = evaluate(Collapsed(), data).values()
    assert values["text_to_image_recall_at_1"] == pytest.approx(1 / len(data), abs=1e-4)
    assert values["image_to_text_recall_at_1"] == pytest.approx(1 / len(data), abs=1e-4)
    assert values["zero_shot_colour"] == pytest.approx(1 / 8, abs=1e-4)
    assert values["swaps_ranked_rightly"] == 0.5


def test_data_without_scenes_are_only_retrieved(data: Captioned) -> None:
    plain = Captioned(data.pixels, data.captions, tuple({} for _ in data.metadata), data.rejected, data.digest)
    values = evaluate(Oracle(plain), plain).values()
    assert values["num_images"] == 24
    assert not {"zero_shot_colour", "swaps_ranked_rightly"} & set(values)


def test_progress_counts_every_picture_and_caption(data: Captioned) -> None:
    seen: list[int] = []
    evaluate(Collapsed(), data, progress=seen.append)
    assert sum(seen) == 24 * 6


def test_splits(world: Path, tmp_path: Path) -> None:
    assert split_source(str(world), "train") == str(world / "train-[0-9]*.tar")
    assert split_source(str(world), "dev") == str(world)
    with pytest.raises(SourceError, match=r"no split 'dev'; it has held-out, train"):
        split_source(str(world), "dev", required=True)
    (tmp_path / "photos-dev-0000.tar").touch()
    assert split_source(str(tmp_path), "dev") == str(tmp_path / "*-dev-[0-9]*.tar")
    (tmp_path / "train").mkdir()
    assert split_source(str(tmp_path), "train") == str(tmp_path / "train")
    assert split_source(str(tmp_path), "held-out") == str(tmp_path)


def test_data_without_captions_are_refused(tmp_path: Path, data: Captioned) -> None:
    from PIL import Image

    for number in range(3):
        Image.fromarray(data.pixels[number]).save(tmp_path / f"{number}.png")
    with pytest.raises(SourceError, match=r"holds no captioned pictures .*no_caption 3.*; give pictures with"):
        read_captioned(str(tmp_path), SPEC)
    (tmp_path / "0.txt").write_text("  \n")
    (tmp_path / "1.txt").write_text("a picture\n\nanother sentence\n")
    with pytest.raises(SourceError, match=r"2 of 3 samples .* cannot be used"):
        read_captioned(str(tmp_path), SPEC)


def test_a_few_bad_pictures_are_left_out_and_counted(tmp_path: Path, data: Captioned) -> None:
    from PIL import Image

    for number in range(24):
        Image.fromarray(data.pixels[number]).save(tmp_path / f"{number:02}.png")
        (tmp_path / f"{number:02}.txt").write_text(f"picture {number}")
    (tmp_path / "07.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    found = read_captioned(str(tmp_path), SPEC)
    assert len(found) == 23
    assert sum(found.rejected.values()) == 1
    assert ("picture 7",) not in found.captions
    assert (found.pixels[0] == data.pixels[0]).all()
