from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from indexer.duplicates import near_duplicates
from sightline.collection import open_collection, verify_collection
from tests.indexer.plain import build_plain, ledger
from tests.pictures import encoded, textured


def test_duplicates_across_chunks_are_dropped_and_counted(tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(40):
        (folder / f"{number:02d}.png").write_bytes(encoded(textured((24, 18), number % 20)))
        (folder / f"{number:02d}.txt").write_text(f"caption {number}")
    report = build_plain(folder, tmp_path / "out", near_duplicates=0.0)
    counts = report.manifest.counts
    # the chunks hold 0-15, 16-31 and 32-39: copies of 16-19 join within their chunk, the others come too late
    assert (counts.seen, counts.indexed, counts.duplicates) == (40, 20, 20)
    assert (counts.captions_seen, counts.captions_indexed, counts.captions_skipped) == (40, 20, 20)
    assert counts.reasons == {"same_bytes": 20, "caption_of_duplicate": 20}
    generation = open_collection(tmp_path / "out")
    assert [generation.item(row).uri for row in range(20)] == [f"{number:02d}.png" for number in range(20)]
    assert list(ledger(generation.directory)) == [f"{number}.png" for number in range(20, 40)]


def test_captions_of_a_copy_in_the_same_chunk_stay_with_the_first(tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(8):
        (folder / f"{number}.png").write_bytes(encoded(textured((24, 18), number % 7)))
        (folder / f"{number}.txt").write_text(f"caption {number}\nsaid of every one")
    for segment_seconds in (30.0, 0.0):
        out = tmp_path / f"out{segment_seconds}"
        counts = build_plain(folder, out, segment_seconds=segment_seconds).manifest.counts
        assert (counts.captions_indexed, counts.reasons) == (15, {"same_bytes": 1, "caption_of_duplicate": 1})
        generation = verify_collection(out)
        assert generation.item(0).captions == ("caption 0", "said of every one", "caption 7")
        rows = np.flatnonzero(generation.caption_items() == 0)
        assert [generation.caption(int(row))[0] for row in rows] == ["caption 0", "said of every one", "caption 7"]


def test_near_duplicates_name_the_first_of_their_group(tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(6):
        picture = textured((48, 36), number % 3)
        if number >= 3:
            picture.putpixel((0, 0), (0, 0, 0))
        (folder / f"{number}.png").write_bytes(encoded(picture))
    report = build_plain(folder, tmp_path / "out", near_duplicates=0.999)
    assert report.manifest.index["near_duplicates"] == {"threshold": 0.999, "searched": True, "items": 3, "groups": 3}
    generation = open_collection(tmp_path / "out")
    ids = [generation.item(row).item_id for row in range(6)]
    noted = [generation.item(row).metadata.get("near_duplicate_of") for row in range(6)]
    assert noted == [None, None, None, *ids[:3]]
    off = build_plain(folder, tmp_path / "off", near_duplicates=0.0)
    assert "near_duplicates" not in off.manifest.index
    assert open_collection(tmp_path / "off").item(5).metadata == {}


def naive(vectors: npt.NDArray[np.float16], threshold: float) -> dict[int, int]:
    scores = vectors.astype(np.float32) @ vectors.astype(np.float32).T
    leaders: list[int] = []
    groups: dict[int, int] = {}
    for row in range(len(vectors)):
        leader = next((one for one in leaders if scores[row, one] >= threshold), None)
        if leader is None:
            leaders.append(row)
        else:
            groups[row] = leader
    return groups


@pytest.mark.parametrize("block", [1, 7, 64, 1000])
def test_groups_are_those_of_the_naive_way(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("indexer.duplicates._BLOCK_ROWS", block)
    random = np.random.default_rng(5)
    centres = random.standard_normal((40, 16))
    vectors = centres[random.integers(0, 40, 300)] + 0.15 * random.standard_normal((300, 16))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    halves = vectors.astype(np.float16)
    found = near_duplicates(halves, 0.96)
    assert 100 < len(found) < 290
    assert found == naive(halves, 0.96)


def test_sizes_and_times_of_files_are_kept(tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    (folder / "a.png").write_bytes(encoded(textured((24, 18))))
    build_plain(folder, tmp_path / "out")
    import pyarrow.parquet as pq

    row = pq.read_table(tmp_path / "out" / "gen-000001" / "metadata" / "metadata_0.parquet").to_pylist()[0]
    state = (folder / "a.png").stat()
    assert (row["num_bytes"], row["mtime_ns"]) == (state.st_size, state.st_mtime_ns)
