from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from sightline.errors import SourceError
from tests.training.evaluation.vectors import unit
from training.evaluation.bootstrap import Bootstrap
from training.evaluation.zero_shot import DEFAULT_TEMPLATES, class_vectors, read_classes, zero_shot


def test_class_vectors_are_unit_means() -> None:
    vectors = class_vectors([np.eye(2, dtype=np.float32)])
    assert vectors[0] == pytest.approx([math.sqrt(0.5)] * 2)


def test_accuracy_in_all_and_within_each_class() -> None:
    classes = np.eye(4, dtype=np.float32)
    labels = np.array([0, 0, 0, 1, 1, 2])
    seen = np.array([0, 0, 1, 1, 1, 0])
    found = zero_shot("class", ["a", "b", "c", "d"], classes[seen], classes, labels, Bootstrap(num_resamples=100))
    assert found.accuracy == pytest.approx(4 / 6)
    assert found.per_class[:3] == pytest.approx([2 / 3, 1, 0]) and np.isnan(found.per_class[3])
    assert found.mean_per_class == pytest.approx((2 / 3 + 1 + 0) / 3)
    assert found.confusion.sum() == 6 and found.confusion[0, 1] == 1
    assert found.mistakes(5) == [("a", "b", 1, 3), ("c", "a", 1, 1)]
    assert found.interval is not None and found.interval[0] <= found.accuracy <= found.interval[1]


def test_top_5_and_ties() -> None:
    rng = np.random.default_rng(0)
    classes, images, labels = unit(rng, 9), unit(rng, 50), rng.integers(0, 9, 50)
    order = np.argsort(-(images @ classes.T), axis=1)
    found = zero_shot("class", [str(n) for n in range(9)], images, classes, labels)
    assert found.accuracy == pytest.approx((order[:, 0] == labels).mean())
    assert found.top_5 == pytest.approx((order[:, :5] == labels[:, None]).any(axis=1).mean())
    same = zero_shot("class", [str(n) for n in range(9)], images, np.tile(classes[:1], (9, 1)), labels)
    assert same.accuracy == pytest.approx(1 / 9) and same.top_5 == pytest.approx(5 / 9)


def write(path: Path, tree: object) -> Path:
    path.write_text(json.dumps(tree))
    return path


def test_a_classes_file(tmp_path: Path) -> None:
    path = write(tmp_path / "c.json", {"classes": ["dog", "cat"], "templates": ["a {}"], "label": "kind"})
    classes = read_classes(path)
    assert classes.prompts("dog") == ["a dog"]
    metadata: list[dict[str, object]] = [{"kind": "cat"}, {"kind": 0}, {"kind": "cow"}, {"kind": 2}, {"kind": True}, {}]
    assert classes.labels(metadata) == {0: 1, 1: 0}
    plain = read_classes(write(tmp_path / "d.json", {"classes": ["{x}", "cat"]}))
    assert plain.templates == DEFAULT_TEMPLATES and plain.label == "label"
    assert plain.prompts("{x}")[0] == "a photo of a {x}."


@pytest.mark.parametrize(
    ("tree", "sentence"),
    [
        ({"classes": ["dog"]}, "classes: tuple should have at least 2 items"),
        ({"classes": ["dog", "dog"]}, "names a class twice"),
        ({"classes": ["dog", "cat"], "templates": ["a photo"]}, "exactly one {} in every template"),
        ({"classes": ["dog", "cat"], "template": ["a {}"]}, "the keys are classes, templates and label"),
        ([], "c.json: the file:"),
    ],
)
def test_a_wrong_classes_file_is_said_in_a_sentence(tmp_path: Path, tree: object, sentence: str) -> None:
    with pytest.raises(SourceError) as caught:
        read_classes(write(tmp_path / "c.json", tree))
    assert sentence in str(caught.value) and str(caught.value).endswith(".")


def test_a_file_that_is_not_json(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="cannot be read as JSON"):
        read_classes(tmp_path / "missing.json")
