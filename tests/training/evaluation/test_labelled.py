from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sightline.errors import SourceError
from sightline.images import PixelSpec
from training.evaluation.labelled import read_labelled
from training.evaluation.zero_shot import ClassesFile

SPEC = PixelSpec(height_px=8, width_px=8, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
CLASSES = ClassesFile(classes=("dark", "light"), label="kind")


def shop(folder: Path, count: int) -> Path:
    """Dark and light pictures by turns, without captions; every fifth has no class."""
    for number in range(count):
        Image.new("RGB", (9, 9), (250 * (number % 2),) * 3).save(folder / f"{number:03}.png")
        record = {} if number % 5 == 4 else {"kind": ("dark", "light")[number % 2]}
        (folder / f"{number:03}.json").write_text(json.dumps(record))
    return folder


def test_labelled_pictures_need_no_captions(tmp_path: Path) -> None:
    seen: list[int] = []
    found = read_labelled(str(shop(tmp_path, 30)), SPEC, CLASSES, progress=seen.append)
    assert sum(seen) == 30 and found.num_left_out == 6
    assert found.pixels.shape == (24, 8, 8, 3) and len(found.rows) == len(found.labels) == 24
    assert (found.labels == (found.pixels[:, 0, 0, 0] > 100)).all()
    assert (found.rows == np.arange(24)).all()


def test_damaged_pictures_are_counted_and_many_are_refused(tmp_path: Path) -> None:
    shop(tmp_path, 50)
    (tmp_path / "000.png").write_bytes(b"damaged")
    assert read_labelled(str(tmp_path), SPEC, CLASSES).num_left_out == 11
    for number in range(5):
        (tmp_path / f"{number:03}.png").write_bytes(b"damaged")
    with pytest.raises(SourceError, match="4 of 40 labelled pictures"):
        read_labelled(str(tmp_path), SPEC, CLASSES)


def test_pictures_without_a_class_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="No picture has a known class under the metadata key 'label'"):
        read_labelled(str(shop(tmp_path, 4)), SPEC, CLASSES.model_copy(update={"label": "label"}))
