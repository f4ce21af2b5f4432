"""Any part of a source by position is that part of the whole, and the listing of a folder stays what it was."""

from __future__ import annotations

import json
import os
import tarfile
import threading
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sightline.errors import SourceError, StorageError
from sightline.sources import Folder, Record, open_source
from tests.pictures import flat
from tests.sightline.test_sources import write_tar

PNG, BLUE = flat("red"), flat("blue")


def make_folder(root: Path) -> Path:
    (root / "sub").mkdir(parents=True)
    for number in range(7):
        (root / "sub" / f"{number}.png").write_bytes(PNG)
        (root / "sub" / f"{number}.txt").write_text(f"picture {number}")
    (root / "notes.pdf").write_bytes(b"%PDF")
    (root / "a.png").write_bytes(BLUE)
    return root


def make_tars(root: Path) -> Path:
    root.mkdir()
    for shard in range(3):
        members = [
            (f"{n}.{kind}", data) for n in range(4) for kind, data in (("png", PNG), ("txt", b"words"), ("cls", b"3"))
        ]
        write_tar(root / f"s-{shard}.tar", [*members, ("word.txt", b"no picture"), ("last.png", BLUE)])
    whole = (root / "s-1.tar").read_bytes()
    (root / "s-1.tar").write_bytes(whole[: 512 * 14 + 20])
    return root


def make_gzipped(root: Path) -> Path:
    make_tars(root)
    with tarfile.open(root / "t.tar.gz", "w:gz") as archive:
        archive.add(root / "s-0.tar", "deep.bin")
        for name in ("x.png", "y.png"):
            (root / name).write_bytes(PNG)
            archive.add(root / name, name)
    for path in root.iterdir():
        if path.name != "t.tar.gz":
            path.unlink()
    return root


def make_list(root: Path) -> Path:
    root.mkdir()
    (root / "one.png").write_bytes(PNG)
    lines = [json.dumps({"image": "one.png" if n % 3 else "gone.png", "n": n}) for n in range(9)]
    (root / "captions.jsonl").write_text("\n\n".join([*lines, "x" * 2_000_000, "nonsense"]))
    return root


def make_csv(root: Path) -> Path:
    root.mkdir()
    (root / "one.png").write_bytes(PNG)
    rows = [f'one.png,"caption {n},\nof two lines",{n}' for n in range(9)]
    (root / "table.csv").write_text("\n".join(["image,caption,n", *rows, "one.png,a,1,2,3", "", "gone.png"]))
    return root / "table.csv"


def make_parquet(root: Path) -> Path:
    root.mkdir()
    for number in range(2):
        table = pa.table({"image": [PNG, None, BLUE] * 20, "text": [f"{number} {n}" for n in range(60)]})
        pq.write_table(table, root / f"{number}.parquet", row_group_size=25)
    return root


MAKERS = [make_folder, make_tars, make_gzipped, make_list, make_csv, make_parquet]


@pytest.mark.parametrize("make", MAKERS)
def test_every_slice_is_a_slice_of_the_whole(make: Callable[[Path], Path], tmp_path: Path) -> None:
    source = open_source(str(make(tmp_path / "source")))
    whole = list(source)
    assert len(whole) > 2
    assert any(isinstance(entry, Record) for entry in whole)
    assert source.num_inputs in (None, len(whole))
    step = max(len(whole) // 12, 1)
    for start in range(0, len(whole) + 2, step):
        assert list(source.read(start)) == whole[start:]
        for stop in (start, start + 1, start + 5):
            assert list(source.read(start, stop)) == whole[start:stop]


@pytest.mark.parametrize("make", MAKERS)
def test_identity_changes_with_what_is_listed(make: Callable[[Path], Path], tmp_path: Path) -> None:
    root = make(tmp_path / "source")
    identity = open_source(str(root)).identity
    assert open_source(str(root)).identity == identity
    files = sorted(path for path in [root, *root.rglob("*")] if path.is_file())
    chosen = root / "captions.jsonl" if make is make_list else files[-1]
    if chosen.suffix == ".txt":
        chosen.write_text("other words")  # what is said of a picture counts too
    os.utime(chosen, ns=(1, 1))
    assert open_source(str(root)).identity != identity


def test_a_kept_listing_is_used_as_it_is(tmp_path: Path) -> None:
    root, kept = make_folder(tmp_path / "source"), tmp_path / "building" / "listing.db"
    first = open_source(str(root), listing=kept)
    before = list(first)
    (root / "A-new.png").write_bytes(PNG)
    (root / "sub" / "3.png").unlink()
    again = open_source(str(root), listing=kept)
    assert (again.identity, again.num_inputs) == (first.identity, first.num_inputs)
    after = list(again)
    assert [entry.uri for entry in after] == [entry.uri for entry in before]
    assert [getattr(entry, "reason", "") for entry in after].count("missing_file") == 1
    assert open_source(str(root)).identity != first.identity
    assert sorted(path.name for path in kept.parent.iterdir()) == ["listing.db"]


def test_a_listing_of_another_folder_or_a_damaged_one_is_refused(tmp_path: Path) -> None:
    kept = tmp_path / "listing.db"
    open_source(str(make_folder(tmp_path / "one")), listing=kept)
    with pytest.raises(SourceError, match=r"lists .*one and not"):
        open_source(str(make_folder(tmp_path / "two")), listing=kept)
    kept.write_bytes(b"no database at all" * 100)
    with pytest.raises(SourceError, match="damaged"):
        open_source(str(tmp_path / "one"), listing=kept)


def test_an_unfinished_walk_leaves_no_listing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, kept = make_folder(tmp_path / "source"), tmp_path / "listing.db"
    with monkeypatch.context() as patch:
        patch.setattr("sightline.sources.listing._SCHEMA", "CREATE TABLE broken (")
        with pytest.raises(StorageError, match="no space is left"):
            open_source(str(root), listing=kept)
    assert not list(tmp_path.glob("*.db*"))
    assert not list(tmp_path.glob(".*"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(SourceError, match="no pictures"):
        open_source(str(tmp_path / "empty"), listing=kept)
    assert not kept.exists()


def test_several_threads_read_one_folder(tmp_path: Path) -> None:
    source = open_source(str(make_folder(tmp_path / "source")), listing=tmp_path / "listing.db")
    whole = list(source)
    seen: list[bool] = []
    threads = [threading.Thread(target=lambda: seen.append(list(source) == whole)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == [True] * 4


def test_records_tell_size_and_time_of_the_picture_and_its_sidecars(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "source")
    os.utime(root / "sub" / "0.png", ns=(5, 5))
    os.utime(root / "sub" / "0.txt", ns=(9, 9))
    record = next(entry for entry in Folder(root) if entry.uri == "sub/0.png")
    assert isinstance(record, Record)
    assert (record.num_bytes, record.mtime_ns) == (len(PNG) + len("picture 0"), 9)
