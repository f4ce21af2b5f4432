from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sightline.errors import SourceError
from sightline.images import Pixels, PixelSpec
from training.data import Captioned, read_captioned, split_source
from training.evaluation import Bootstrap, evaluate
from training.evaluation.measure import caption_weights
from training.evaluation.places import Vectors
from training.evaluation.zero_shot import ClassesFile
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


def with_metadata(data: Captioned, metadata: Sequence[dict[str, Any]]) -> Captioned:
    return Captioned(data.pixels, data.captions, tuple(metadata), data.rejected, data.digest)


def test_an_encoder_that_knows_all_scores_one(data: Captioned) -> None:
    values = evaluate(Oracle(data), data).values()
    scenes = [scene for record in data.metadata if isinstance(scene := from_record(record), Scene)]
    assert values["num_single"] == sum(len(scene.things) == 1 for scene in scenes) > 0
    assert values["num_swaps"] == sum(len(scene.things) == 2 for scene in scenes) > 0
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
    plain = with_metadata(data, [{}] * len(data))
    values = evaluate(Oracle(plain), plain).values()
    assert values["num_images"] == 24
    assert not {"zero_shot_colour", "swaps_ranked_rightly"} & set(values)


def test_progress_counts_every_picture_and_caption(data: Captioned) -> None:
    seen: list[int] = []
    evaluate(Collapsed(), data, progress=seen.append)
    assert sum(seen) == 24 * 6


def test_the_flat_figures_that_others_read_keep_their_names(data: Captioned) -> None:
    values = evaluate(Collapsed(), data).values()
    old = ["num_images", "num_captions"]
    for prefix in ("text_to_image", "any_text_to_image", "image_to_text"):
        old += [f"{prefix}_{name}" for name in ("recall_at_1", "recall_at_5", "recall_at_10", "median_rank")]
    old += ["zero_shot_colour", "zero_shot_shape", "num_single", "swaps_ranked_rightly", "num_swaps"]
    assert set(old) <= values.keys()
    assert all(isinstance(value, int | float) and np.isfinite(value) for value in values.values())


def test_labelled_pictures_are_named_by_class(data: Captioned) -> None:
    kinds = ["first", "second"]
    labelled = with_metadata(data, [{"kind": kinds[row % 2]} if row < 20 else {} for row in range(len(data))])
    classes = ClassesFile(classes=("first", "second"), templates=("{}",), label="kind")
    values = evaluate(Collapsed(), labelled, classes=classes, bootstrap=Bootstrap(num_resamples=20))
    assert values.values()["zero_shot_accuracy"] == 0.5 and values.values()["num_labelled"] == 20
    assert values.per_class() == {"class": {"first": 0.5, "second": 0.5}}
    assert values.intervals()["zero_shot_accuracy"] == (0.5, 0.5)
    with pytest.raises(SourceError, match="No picture has a known class under the metadata key 'kind'"):
        evaluate(Collapsed(), data, classes=classes)


def test_a_typographic_attack_needs_classes(data: Captioned) -> None:
    found = evaluate(Collapsed(), data, typographic=True).values()
    assert found["num_typographic"] == found["num_single"]
    with pytest.raises(SourceError, match=r"give --classes FILE\.json"):
        evaluate(Collapsed(), with_metadata(data, [{}] * len(data)), typographic=True)


def test_an_encoder_keeps_all_neighbours_of_itself(data: Captioned) -> None:
    values = evaluate(Oracle(data), data, base=(Oracle(data), data)).values()
    assert values["neighbour_overlap_at_10"] == 1 and values["text_neighbour_overlap_at_10"] == 1


def test_grades_of_captions_come_from_the_metadata(data: Captioned) -> None:
    assert caption_weights(data) is None
    counts = [len(several) for several in data.captions]
    grades = [1.0, *[0.25] * (counts[0] - 1)]
    graded = with_metadata(data, [{"weights": grades}, {"weights": [2.0] * counts[1]}, {"weights": []}, *[{}] * 21])
    weights = caption_weights(graded)
    assert weights is not None and len(weights) == sum(counts)
    assert weights.tolist() == [*grades, *[1.0] * sum(counts[1:])]


def test_the_worst_queries_are_shown_with_what_they_found(data: Captioned) -> None:
    oracle = Oracle(data)
    assert evaluate(oracle, data).missed_pictures == ()
    oracle.texts[data.captions[0][0]] = 5  # this caption now describes picture 5
    report = evaluate(oracle, data)
    missed = [one for one in report.missed_pictures if one.caption == data.captions[0][0]]
    assert [one.row for one in missed] == [0] and missed[0].found[0] == 5 and missed[0].rank > 1
    collapsed = evaluate(Collapsed(), data)
    assert len(collapsed.missed_pictures) == len(collapsed.missed_captions) == 12
    assert len({one.row for one in collapsed.missed_pictures}) == 12
