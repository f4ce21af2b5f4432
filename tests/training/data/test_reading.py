from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sightline.errors import SourceError, StorageError
from sightline.images import PixelSpec
from training.data import check, read_captioned
from training.data.pixel_store import PixelStore

SPEC = PixelSpec(height_px=16, width_px=16, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))


def write_data(folder: Path, captions: list[list[str]]) -> Path:
    """Different noisy pictures with these captions as a captions.jsonl."""
    rng = np.random.default_rng(0)
    folder.mkdir(exist_ok=True)
    lines = []
    for number, several in enumerate(captions):
        buffer = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (20, 16, 3), np.uint8)).save(buffer, "PNG")
        (folder / f"{number}.png").write_bytes(buffer.getvalue())
        lines.append(json.dumps({"image": f"{number}.png", "captions": several}))
    (folder / "captions.jsonl").write_text("\n".join(lines))
    return folder


@pytest.mark.parametrize("budget_bytes", [0, 3 * 16 * 16 * 3, 10**9])
def test_pixels_on_disk_are_those_in_memory(tmp_path: Path, budget_bytes: int) -> None:
    source = str(write_data(tmp_path / "data", [[f"picture {n}"] for n in range(11)]))
    run = tmp_path / "run"
    run.mkdir()
    in_memory = read_captioned(source, SPEC)
    stored = read_captioned(source, SPEC, folder=run, budget_bytes=budget_bytes)
    assert isinstance(stored.pixels, np.memmap) == (budget_bytes < 10**9)
    assert not isinstance(in_memory.pixels, np.memmap)
    assert stored.digest == in_memory.digest
    assert np.array_equal(stored.pixels, in_memory.pixels)
    rows = np.array([7, 2, 7])
    assert np.array_equal(np.asarray(stored.pixels[rows]), in_memory.pixels[rows])
    assert not list(run.iterdir())  # nothing that would have to be removed


@pytest.mark.parametrize("budget_bytes", [0, 300 * 12, 700 * 12, 10**9])
@pytest.mark.parametrize("count", [1, 255, 256, 257, 1000])
def test_any_number_of_pictures_comes_back(tmp_path: Path, budget_bytes: int, count: int) -> None:
    pictures = np.random.default_rng(count).integers(0, 256, (count, 2, 2, 3), np.uint8)
    store = PixelStore(budget_bytes, tmp_path)
    for picture in pictures:
        store.append(picture)
    assert np.array_equal(store.finish(), pictures)


def test_mapped_pixels_cannot_be_written(tmp_path: Path) -> None:
    store = PixelStore(0, tmp_path)
    store.append(np.zeros((2, 2, 3), np.uint8))
    pixels = store.finish()
    with pytest.raises(ValueError, match="read-only"):
        pixels[0] = 1


def test_a_folder_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    store = PixelStore(0, tmp_path / "missing")
    with pytest.raises(StorageError, match="Could not write the pictures"):
        store.append(np.zeros((2, 2, 3), np.uint8))


def test_pictures_keep_their_names_and_the_left_out_are_named(tmp_path: Path) -> None:
    captions = [[f"picture {n}"] for n in range(30)]
    captions[4] = ["  "]
    data = read_captioned(str(write_data(tmp_path / "data", captions)), SPEC)
    assert data.rejected == {"no_caption": 1}
    assert data.first_rejected == {"no_caption": "4.png"}
    assert len(data.names) == 29 and "4.png" not in data.names
    assert data.name_of(4) == "5.png"
    assert check(data).sentences() == ["1 left out without a caption or with an empty one, the first 4.png."]


def test_nothing_but_empty_captions_names_the_first(tmp_path: Path) -> None:
    source = str(write_data(tmp_path / "data", [[""], [" ", ""]]))
    with pytest.raises(SourceError, match=r"no captioned pictures \(left out: no_caption 2, the first 0.png\)"):
        read_captioned(source, SPEC)


def test_missing_files_are_counted_and_named(tmp_path: Path) -> None:
    folder = write_data(tmp_path / "data", [[f"picture {n}"] for n in range(30)])
    (folder / "9.png").unlink()
    data = read_captioned(str(folder), SPEC)
    assert sum(data.rejected.values()) == 1
    assert list(data.first_rejected.values()) == ["9.png"]
    (folder / "8.png").unlink()
    with pytest.raises(SourceError, match=r"2 of 30 samples .* cannot be used .*the first 8.png.*; repair or remove"):
        read_captioned(str(folder), SPEC)
