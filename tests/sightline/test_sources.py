from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import pytest

from sightline.errors import SourceError
from sightline.sources import Record, Rejected, open_source
from tests.pictures import flat

PNG = flat("red")


def read(source: str | Path) -> tuple[list[Record], dict[str, str]]:
    """Records, and the reason of each rejected input by uri."""
    entries = list(open_source(str(source)))
    records = [entry for entry in entries if isinstance(entry, Record)]
    return records, {entry.uri: entry.reason for entry in entries if isinstance(entry, Rejected)}


def write_tar(path: Path, members: list[tuple[str, bytes]]) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def test_a_folder_gives_every_picture_in_path_order(tmp_path: Path) -> None:
    (tmp_path / "b" / "c").mkdir(parents=True)
    for name in ("z.png", "a.JPG", "b/one.webp", "b/c/two.jpeg"):
        (tmp_path / name).write_bytes(PNG)
    (tmp_path / "a.txt").write_text("a first caption\n\na second one\n")
    (tmp_path / "a.json").write_text(json.dumps({"caption": "a third", "camera": "X100"}))
    (tmp_path / "scan.tiff").write_bytes(b"II*\0")
    (tmp_path / "notes.pdf").write_bytes(b"%PDF")
    (tmp_path / ".hidden.png").write_bytes(PNG)
    source = open_source(str(tmp_path))
    records, rejected = read(tmp_path)
    assert source.num_inputs == 6
    assert [record.uri for record in records] == ["a.JPG", "z.png", "b/one.webp", "b/c/two.jpeg"]
    assert records[0].captions == ("a first caption", "a second one", "a third")
    assert records[0].metadata == {"camera": "X100"}
    assert rejected == {"scan.tiff": "unsupported_format", "notes.pdf": "not_an_image"}


def test_links_that_leave_the_folder_are_not_followed(tmp_path: Path) -> None:
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    inside.mkdir()
    outside.mkdir()
    (outside / "secret.png").write_bytes(PNG)
    (inside / "own.png").write_bytes(PNG)
    (inside / "leak.png").symlink_to(outside / "secret.png")
    (inside / "folder").symlink_to(outside)
    (inside / "dangling.png").symlink_to(inside / "gone.png")
    records, rejected = read(inside)
    assert [record.uri for record in records] == ["own.png"]
    assert rejected == {"leak.png": "link_outside", "dangling.png": "missing_file", "folder": "link_to_folder"}


def test_a_webdataset_groups_members_by_key(tmp_path: Path) -> None:
    write_tar(
        tmp_path / "s-000.tar",
        [
            ("000.jpg", PNG), ("000.txt", b"a dog"), ("000.json", b'{"captions": ["a dog", "a hound"], "w": 3}'),
            ("sub/001.1.png", PNG), ("002.txt", b"words only"), ("003.tif", b"II*\0"), ("004.jpg", PNG),
            ("004.json", b"{"),
        ],
    )  # fmt: skip
    write_tar(tmp_path / "s-001.tar", [("000.png", PNG)])
    records, rejected = read(tmp_path / "s-{000..001}.tar")
    assert [record.uri for record in records] == [
        "s-000.tar/000", "s-000.tar/sub/001", "s-000.tar/004", "s-001.tar/000",
    ]  # fmt: skip
    assert records[0].captions == ("a dog", "a hound")
    assert records[0].metadata == {"w": 3}
    assert rejected == {"s-000.tar/002": "no_image", "s-000.tar/003": "unsupported_format"}
    assert read(tmp_path / "s-*.tar") == read(tmp_path) == (records, rejected)


def test_hostile_archives_write_nothing_and_run_nothing(tmp_path: Path) -> None:
    path = tmp_path / "evil.tar"
    with tarfile.open(path, "w") as archive:
        for name in ("../escape.png", "/absolute.png"):
            info = tarfile.TarInfo(name)
            info.size = len(PNG)
            archive.addfile(info, io.BytesIO(PNG))
        link = tarfile.TarInfo("link.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
        pickled = tarfile.TarInfo("x.pkl")
        pickled.size = 4
        archive.addfile(pickled, io.BytesIO(b"\x80\x04N."))
    before = sorted(tmp_path.rglob("*"))
    records, rejected = read(path)
    assert sorted(tmp_path.rglob("*")) == before
    assert [record.uri for record in records] == ["evil.tar/../escape", "evil.tar/absolute"]  # names, never paths
    assert rejected == {"evil.tar/link.png": "not_a_file", "evil.tar/x": "no_image"}


def test_a_broken_archive_is_counted_and_the_next_one_read(tmp_path: Path) -> None:
    whole = write_tar(tmp_path / "a.tar", [(f"{n}.png", PNG) for n in range(5)]).read_bytes()
    (tmp_path / "a.tar").write_bytes(whole[: len(whole) // 4])
    write_tar(tmp_path / "b.tar", [("0.png", PNG)])
    (tmp_path / "c.tar").write_bytes(b"not a tar at all")
    records, rejected = read(tmp_path)
    assert rejected == {"a.tar": "broken_archive", "c.tar": "broken_archive"}
    assert records[-1].uri == "b.tar/0"


def test_captions_jsonl(tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "one.png").write_bytes(PNG)
    lines = [
        {"image": "pictures/one.png", "captions": ["one", "", 3, "one", "uno"], "shop": "A"},
        {"image": "pictures/gone.png"},
        {"image": "../outside.png"},
        {"image": str(tmp_path / "pictures" / "one.png")},
        {"picture": "pictures/one.png"},
    ]
    text = "\n".join(json.dumps(line) for line in lines) + "\nnot json\n\n"
    (tmp_path / "captions.jsonl").write_text(text)
    records, rejected = read(tmp_path)
    assert [(r.uri, r.captions, r.metadata) for r in records] == [("pictures/one.png", ("one", "uno"), {"shop": "A"})]
    assert rejected == {
        "pictures/gone.png": "missing_file",
        "captions.jsonl:3": "path_outside",
        "captions.jsonl:4": "path_outside",
        "captions.jsonl:5": "bad_line",
        "captions.jsonl:6": "bad_line",
    }
    assert open_source(str(tmp_path)).num_inputs == 6


@pytest.mark.parametrize(
    "name", ["missing", "missing.tar", "empty", "file.doc", "pipe:cat x", "s3://bucket/x.tar", "*.tar"]
)
def test_unusable_sources_say_what_would_do(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file.doc").write_text("a,b")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SourceError, match=r"folder|captions\.jsonl"):
        open_source(name)


def test_a_missing_archive_of_a_range_is_named(tmp_path: Path) -> None:
    write_tar(tmp_path / "s-0.tar", [("0.png", PNG)])
    with pytest.raises(SourceError, match=r"s-1\.tar"):
        open_source(f"{tmp_path}/s-{{0..1}}.tar")
