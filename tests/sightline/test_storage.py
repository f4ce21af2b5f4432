from __future__ import annotations

import os
from pathlib import Path

import pytest

from sightline.errors import StorageError
from sightline.storage import new_directory, replace_file, sha256_of, storage_errors


def test_a_directory_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    final = tmp_path / "made"
    with pytest.raises(RuntimeError), new_directory(final) as directory:
        (directory / "part").write_text("half")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []
    with new_directory(final) as directory:
        (directory / "whole").write_text("all")
        assert not final.exists()
    assert (final / "whole").read_text() == "all"
    assert list(tmp_path.iterdir()) == [final]


def test_an_existing_directory_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "file").write_text("mine")
    with pytest.raises(StorageError, match="exists already"), new_directory(tmp_path / "there"):
        pass
    assert (tmp_path / "there" / "file").read_text() == "mine"


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "CURRENT"
    replace_file(path, b"one")
    replace_file(path, b"two")
    assert path.read_bytes() == b"two"
    assert [p.name for p in tmp_path.iterdir()] == ["CURRENT"]
    assert sha256_of(path) == "3fc4ccfe745870e2c0d99f71f30ff0656c8dedd41cc1d7d3d376b0dbe685e2f3"


def test_system_errors_become_sentences_with_a_fix(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="check the path"), storage_errors("read it"):
        (tmp_path / "missing").read_bytes()
    with pytest.raises(StorageError, match="no space"), storage_errors("write it"):
        raise OSError(28, os.strerror(28))
    with pytest.raises(StorageError, match="a file, not a folder"):
        (tmp_path / "file").write_text("")
        replace_file(tmp_path / "file" / "x", b"")
