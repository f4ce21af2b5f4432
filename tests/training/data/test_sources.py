from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from sightline.errors import SourceError
from sightline.images import PixelSpec
from training.data import Captioned, read_captioned, split_source

SPEC = PixelSpec(height_px=32, width_px=32, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))


@pytest.fixture(scope="module")
def data(world: Path) -> Captioned:
    return read_captioned(split_source(str(world), "held-out"), SPEC)


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
    (tmp_path / "held-out.jsonl").touch()
    assert split_source(str(tmp_path), "held-out") == str(tmp_path / "held-out.jsonl")


def test_data_without_captions_are_refused(tmp_path: Path, data: Captioned) -> None:
    for number in range(3):
        Image.fromarray(data.pixels[number]).save(tmp_path / f"{number}.png")
    with pytest.raises(SourceError, match=r"holds no captioned pictures .*no_caption 3.*; give pictures with"):
        read_captioned(str(tmp_path), SPEC)
    (tmp_path / "0.txt").write_text("  \n")
    (tmp_path / "1.txt").write_text("a picture\n\nanother sentence\n")
    with pytest.raises(SourceError, match=r"2 of 3 samples .* cannot be used"):
        read_captioned(str(tmp_path), SPEC)


def test_a_few_bad_pictures_are_left_out_and_counted(tmp_path: Path, data: Captioned) -> None:
    for number in range(24):
        Image.fromarray(data.pixels[number]).save(tmp_path / f"{number:02}.png")
        (tmp_path / f"{number:02}.txt").write_text(f"picture {number}")
    (tmp_path / "07.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    found = read_captioned(str(tmp_path), SPEC)
    assert len(found) == 23
    assert sum(found.rejected.values()) == 1
    assert ("picture 7",) not in found.captions
    assert (found.pixels[0] == data.pixels[0]).all()
