from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from sightline.errors import SourceError
from sightline.images import Pixels, PixelSpec
from tests.fakes import FakeEncoder, picture_bytes
from tests.training.data.samples import captioned
from training.data import MiningSettings, Neighbours, load_neighbours, read_captioned, save_neighbours
from training.data.mining import Vectors, find_neighbours, mine, neighbours_for


def unit(vectors: npt.NDArray[np.float64]) -> Vectors:
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.float32)


def angled(*degrees: float) -> Vectors:
    turns = np.deg2rad(np.array(degrees))
    return np.stack([np.cos(turns), np.sin(turns)], axis=1).astype(np.float32)


class Angles:
    """Pictures and texts are directions in the plane: the first pixel, or the number in the text, in degrees."""

    fingerprint = "angles"

    def encode_pixels(self, pixels: Pixels) -> Vectors:
        return angled(*pixels[:, 0, 0, 0].tolist())

    def encode_texts(self, texts: Sequence[str]) -> Vectors:
        return angled(*(float(text.split()[-1]) for text in texts))


def test_the_hardest_below_the_margin_come_first() -> None:
    # Caption 0 is at 0 degrees, its picture at 20: pictures at 5 and 12 are nearer and may be right too.
    images = angled(20, 5, 12, 30, 25, 90)
    texts = angled(0, 5, 12, 30, 25, 90)
    data = captioned([[f"caption {row}"] for row in range(6)])
    found = find_neighbours(images, texts, data, MiningSettings(num_neighbours=3, margin=0.0))
    assert found[0].tolist() == [4, 3, 5]
    wide = MiningSettings(num_neighbours=3, margin=float(np.cos(np.deg2rad(20)) - np.cos(np.deg2rad(28))))
    assert find_neighbours(images, texts, data, wide)[0].tolist() == [3, 5, -1]


def test_against_every_pair_written_out() -> None:
    rng = np.random.default_rng(3)
    counts = rng.integers(1, 4, 60)
    captions = [[f"{rng.integers(70)}" for _ in range(count)] for count in counts]
    pixels = np.tile(rng.integers(0, 50, (60, 1, 1, 1), np.uint8), (1, 2, 2, 3))
    data = captioned(captions, pixels=pixels)
    images = unit(rng.normal(size=(60, 16))).astype(np.float16).astype(np.float32)  # as the index keeps them
    owners = data.caption_rows()
    texts = unit(images[owners] + 0.3 * rng.normal(size=(len(owners), 16)))
    settings = MiningSettings(num_neighbours=4, margin=0.05)
    found = find_neighbours(images, texts, data, settings)
    best: list[dict[int, float]] = [{} for _ in range(60)]
    scores = texts @ images.T
    flat = [text for several in captions for text in several]
    for caption, owner in enumerate(owners.tolist()):
        hard = [
            row
            for row in np.argsort(-scores[caption], kind="stable").tolist()
            if scores[caption, row] <= scores[caption, owner] - 0.05
            and not np.array_equal(pixels[row], pixels[owner])
            and flat[caption] not in captions[row]
        ]
        for row in hard[:4]:
            best[owner][row] = max(best[owner].get(row, -2), scores[caption, row])
    for row in range(60):
        expected = sorted(best[row], key=lambda other: -best[row][other])[:4]
        assert found[row][found[row] >= 0].tolist() == expected
        assert row not in found[row]


def test_known_matches_are_never_negatives() -> None:
    pixels = np.array([10, 10, 11, 12, 80], np.uint8).reshape(5, 1, 1, 1).repeat(3, axis=3)
    captions = [["at 9"], ["near 9"], ["At 9."], ["other 9"], ["far 80"]]
    found = mine(Angles(), captioned(captions, pixels=pixels), MiningSettings(num_neighbours=4, margin=0.0))
    assert found.rows[0].tolist() == [3, 4, -1, -1]  # not its copy 1, and not 2, which says the same
    assert found.num_found == 5
    assert found.encoder == "angles"


def test_mining_again_gives_the_same_and_the_table_is_kept(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).permutation(90)[:30].astype(np.uint8).reshape(30, 1, 1, 1).repeat(3, axis=3)
    data = captioned([[f"at {one}"] for one in pixels[:, 0, 0, 0]], pixels=pixels)
    settings = MiningSettings(num_neighbours=5)
    first, second = mine(Angles(), data, settings), mine(Angles(), data, settings)
    assert np.array_equal(first.rows, second.rows)
    save_neighbours(first, tmp_path)
    kept = load_neighbours(tmp_path, data.digest)
    assert np.array_equal(kept.rows, first.rows) and kept.rows.dtype == np.int64
    assert (kept.encoder, kept.data, kept.margin) == ("angles", data.digest, settings.margin)


def test_a_run_mines_with_the_encoders_own_pixels_and_goes_on_with_its_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    colours = ("red", "blue", "magenta", "green")
    lines = []
    for colour in colours:
        (tmp_path / f"{colour}.png").write_bytes(picture_bytes(colour))
        lines.append(json.dumps({"image": f"{colour}.png", "caption": f"a {colour} one"}))
    (tmp_path / "captions.jsonl").write_text("\n".join(lines))
    spec = PixelSpec(4, 4, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))  # the encoder wants 8 px
    data = read_captioned(str(tmp_path), spec)
    loaded: list[str] = []

    def load(name: str, **options: object) -> FakeEncoder:
        loaded.append(name)
        return FakeEncoder(side_px=8)

    monkeypatch.setattr("training.data.mining.load_encoder", load)
    settings = MiningSettings(num_neighbours=2)
    first = neighbours_for("fake", str(tmp_path), data, spec, settings, tmp_path)
    assert first.data == data.digest
    # Magenta is red and blue: it is the hardest for both, and they for it.
    assert first.rows[0, 0] == first.rows[1, 0] == 2
    assert sorted(first.rows[2].tolist()) == [0, 1]
    again = neighbours_for("fake", str(tmp_path), data, spec, settings, tmp_path, resume=True)
    assert np.array_equal(again.rows, first.rows) and loaded == ["fake"]
    other = MiningSettings(num_neighbours=1)
    assert neighbours_for("fake", str(tmp_path), data, spec, other, tmp_path, resume=True).rows.shape == (4, 1)
    assert len(loaded) == 2


def test_a_table_of_other_data_or_none_is_said(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no table of hard neighbours; mine them again"):
        load_neighbours(tmp_path, "x")
    save_neighbours(Neighbours(np.zeros((2, 1), np.int64), "e", "data", 0.0), tmp_path)
    with pytest.raises(SourceError, match="belong to other data; mine them again"):
        load_neighbours(tmp_path, "x")
    (tmp_path / "neighbours.npy").write_bytes(b"damaged")
    with pytest.raises(SourceError, match="no table of hard neighbours"):
        load_neighbours(tmp_path, "data")
