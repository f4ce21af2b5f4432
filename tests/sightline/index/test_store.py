"""Vectors on files: what is read is what was written, or an error with a sentence."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from sightline.errors import CollectionCorrupt, FileChanged, VectorsWrong
from sightline.index.store import ShardFiles
from tests.sightline.index.worlds import on_files, unit


def test_rows_and_blocks_cross_shards(tmp_path: Path) -> None:
    vectors = unit(100).astype(np.float16)
    store = on_files(vectors, tmp_path)
    rows = np.array([99, 0, 50, 49, 62, 61, 0])
    np.testing.assert_array_equal(store.take(rows), vectors[rows])
    np.testing.assert_array_equal(store.block(40, 90), vectors[40:90])
    np.testing.assert_array_equal(store.block(0, 100), vectors)
    assert store.block(7, 7).shape == (0, 16)
    assert store.take(np.empty(0, np.int64)).shape == (0, 16)


def test_empty_shards_are_passed_over(tmp_path: Path) -> None:
    paths = []
    for number, rows in enumerate([0, 3, 0, 2]):
        paths.append(tmp_path / f"{number}.npy")
        np.save(paths[-1], np.full((rows, 4), number, np.float16))
    store = ShardFiles(paths, 4)
    assert store.block(0, 5)[:, 0].tolist() == [1, 1, 1, 3, 3]
    assert store.take(np.array([4, 2]))[:, 0].tolist() == [3, 1]


def test_a_shard_cut_short_in_place_is_an_error_and_no_signal(tmp_path: Path) -> None:
    store = on_files(unit(100).astype(np.float16), tmp_path)
    with (tmp_path / "img_emb_2.npy").open("r+b") as file:
        file.truncate(200)
    with pytest.raises(FileChanged, match="has changed since it was opened"):
        store.take(np.array([99]))
    with pytest.raises(FileChanged, match="restore it"):
        store.block(90, 100)


def test_a_shard_overwritten_in_place_is_noticed(tmp_path: Path) -> None:
    store = on_files(unit(100).astype(np.float16), tmp_path)
    with (tmp_path / "img_emb_0.npy").open("r+b") as file:
        file.seek(-10, 2)
        file.write(b"\0" * 10)
    with pytest.raises(FileChanged):
        store.take(np.array([3]))


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (np.zeros((3, 4), np.float32), VectorsWrong),
        (np.zeros((3, 5), np.float16), VectorsWrong),
        (np.zeros(3, np.float16), VectorsWrong),
        (np.asfortranarray(np.zeros((3, 4), np.float16)), VectorsWrong),
    ],
)
def test_other_arrays_are_refused(tmp_path: Path, content: npt.NDArray[np.generic], error: type[Exception]) -> None:
    np.save(tmp_path / "0.npy", content)
    with pytest.raises(error, match="build the collection again"):
        ShardFiles([tmp_path / "0.npy"], 4)


def test_damaged_headers_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "0.npy"
    for content in (b"", b"\x93NUMPY", b"\x93NUMPY\x01\x00v\x00{'shape'", b"junk" * 50):
        path.write_bytes(content)
        with pytest.raises(CollectionCorrupt):
            ShardFiles([path], 4)
    np.save(path, np.zeros((3, 4), np.float16))
    path.write_bytes(path.read_bytes() + b"more")
    with pytest.raises(CollectionCorrupt, match="as long as"):
        ShardFiles([path], 4)
    with pytest.raises(CollectionCorrupt):
        ShardFiles([tmp_path / "none.npy"], 4)
