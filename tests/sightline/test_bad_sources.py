"""What people and programs leave in folders, archives and lists: each a ledger line or one sentence, never a traceback.

Pictures that are damaged inside are the image gate's (``test_bad_images``); here is what stands around them.
"""

from __future__ import annotations

import gzip
import io
import json
import os
import tarfile
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from sightline.errors import SourceError
from sightline.sources import MAX_LINE_BYTES, MAX_MEMBER_BYTES, Record, open_source
from sightline.sources import files as source_files
from tests.pictures import flat
from tests.sightline.test_sources import read, write_tar

PNG, BLUE = flat("red"), flat("blue")


def test_names_that_are_not_utf8_stay_apart(tmp_path: Path) -> None:
    for name in (b"\xff.png", b"\xfe.png", "é.png".encode()):
        (tmp_path / os.fsdecode(name)).write_bytes(PNG)
    records, _ = read(tmp_path)
    assert sorted(record.uri for record in records) == ["\\xfe.png", "\\xff.png", "é.png"]
    assert all(record.uri.encode() for record in records)


def test_folders_and_pipes_that_are_called_pictures(tmp_path: Path) -> None:
    (tmp_path / "folder.png").mkdir()
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "own.png").write_bytes(PNG)
    (tmp_path / "loop.png").symlink_to(tmp_path / "loop.png")
    (tmp_path / "again.png").symlink_to("own.png")
    (tmp_path / "to-device.png").symlink_to("/dev/zero")
    records, rejected = read(tmp_path)
    assert [record.uri for record in records] == ["again.png", "own.png"]
    assert rejected == {"pipe.png": "not_a_file", "loop.png": "missing_file", "to-device.png": "link_outside"}


def test_a_file_over_the_limit_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "huge.png").open("wb") as file:
        file.truncate(MAX_MEMBER_BYTES + 1)
    (tmp_path / "a.png").write_bytes(PNG)
    assert read(tmp_path)[1] == {"huge.png": "file_too_large"}


def test_a_folder_that_cannot_be_read_has_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "closed").mkdir()
    (tmp_path / "a.png").write_bytes(PNG)
    scan = os.scandir

    def refuse(path: Any) -> Any:
        if str(path).endswith("closed"):
            raise PermissionError(13, "denied")
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    assert read(tmp_path)[1] == {"closed": "unreadable"}


@pytest.mark.parametrize(("changes", "reason"), [(1, ""), (2, "changed_while_read")])
def test_a_file_that_changes_while_it_is_read_gets_one_more_try(
    changes: int, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.png").write_bytes(PNG)
    read_once = source_files._read
    left = [changes]

    def read_and_change(descriptor: int, num_bytes: int) -> bytes:
        data = read_once(descriptor, num_bytes)
        if left[0]:
            left[0] -= 1
            with (tmp_path / "a.png").open("ab") as file:
                file.write(b"more")
        return data

    monkeypatch.setattr(source_files, "_read", read_and_change)
    records, rejected = read(tmp_path)
    assert rejected == ({"a.png": reason} if reason else {})
    assert [record.image for record in records] == ([] if reason else [PNG + b"more"])


def test_a_tar_that_grows_while_it_is_read_says_so(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", [("0.png", PNG), ("1.png", BLUE)])
    stream = iter(open_source(str(path)))
    assert isinstance(next(stream), Record)
    with path.open("ab") as file:
        file.write(b"\0" * 512)
    assert [getattr(entry, "reason", "") for entry in stream] == ["", "changed_while_read"]


def test_captions_without_a_picture_and_the_reverse(tmp_path: Path) -> None:
    (tmp_path / "alone.txt").write_text("no picture")
    (tmp_path / "alone.json").write_text("{}")
    (tmp_path / "silent.png").write_bytes(PNG)
    (tmp_path / "odd.png").write_bytes(PNG)
    (tmp_path / "odd.json").write_bytes(b'["not", "an object"]')
    (tmp_path / "odd.txt").write_bytes(b"\xff\xfe broken \0 text\n")
    (tmp_path / "big.png").write_bytes(PNG)
    (tmp_path / "big.txt").write_bytes(b"x" * (2**20 + 1))
    records, rejected = read(tmp_path)
    assert not rejected
    assert {record.uri: len(record.captions) for record in records} == {"silent.png": 0, "odd.png": 1, "big.png": 0}


def header(name: str, size: int, kind: bytes = tarfile.REGTYPE) -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.type = size, kind
    return info.tobuf(tarfile.GNU_FORMAT)


def padded(data: bytes) -> bytes:
    return data + b"\0" * (-len(data) % 512)


GOOD = header("0.png", len(PNG)) + padded(PNG)


@pytest.mark.parametrize(
    "rest",
    [
        b"\x01" * 512 + GOOD,  # a damaged header in the middle
        header("1.png", 10_000_000_000)[:512],  # more than there is
        header("1.png", 100) + b"short",
        header("1.png", -5) + padded(PNG),
        b"\0" * 100,  # half an end
        header("././@LongLink", 2**40, tarfile.GNUTYPE_LONGNAME) + b"x" * 1024,
        header("pax", 2**33, tarfile.XHDTYPE) + b"x" * 1024,
        header("pax", 30, tarfile.XHDTYPE) + padded(b"99999999999 size=1\n"),
        header("pax", 24, tarfile.XHDTYPE) + padded(b"24 size=-99999999999999\n") + GOOD,
        os.urandom(512),
    ],
)
def test_a_tar_that_breaks_is_counted_and_what_came_before_kept(rest: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(GOOD + rest)
    source = open_source(str(tmp_path / "a.tar"))
    entries = list(source)
    assert isinstance(entries[0], Record)
    assert [getattr(entry, "reason", "") for entry in entries[1:]][-1] in ("broken_archive", "file_too_large")
    assert list(source.read(1)) == entries[1:]


def test_a_tar_without_an_end_mark_is_whole(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(GOOD)
    assert len(read(tmp_path / "a.tar")[0]) == 1
    (tmp_path / "empty.tar").write_bytes(b"")
    assert read(tmp_path / "empty.tar")[1] == {"empty.tar": "broken_archive"}


def test_gzip_is_known_by_its_bytes_and_its_damage_noticed(tmp_path: Path) -> None:
    whole = gzip.compress(GOOD + header("1.png", len(BLUE)) + padded(BLUE) + b"\0" * 1024)
    (tmp_path / "a.tar").write_bytes(whole)
    assert [record.image for record in read(tmp_path / "a.tar")[0]] == [PNG, BLUE]
    (tmp_path / "b.tgz").write_bytes(whole[: len(whole) // 2])
    assert read(tmp_path / "b.tgz")[1] == {"b.tgz": "broken_archive"}
    (tmp_path / "c.tar").write_bytes(gzip.compress(b"x" * 5000))
    assert read(tmp_path / "c.tar")[1] == {"c.tar": "broken_archive"}


def test_hostile_tars_cost_no_memory(tmp_path: Path) -> None:
    """Two gigabytes of zeros in a header or a member, three hundred members of one sample: a few megabytes."""
    with gzip.open(tmp_path / "long-name.tar.gz", "wb", compresslevel=1) as file:
        file.write(header("././@LongLink", 2**28, tarfile.GNUTYPE_LONGNAME))
        for _ in range(256):
            file.write(bytes(2**20))
    with tarfile.open(tmp_path / "one-sample.tar.gz", "w:gz", compresslevel=1) as archive:
        for number in range(60):
            info = tarfile.TarInfo(f"0.part{number}.png")
            info.size = 2**20
            archive.addfile(info, io.BytesIO(bytes(2**20)))
    for name, expected in (("long-name.tar.gz", {"long-name.tar.gz": "broken_archive"}), ("one-sample.tar.gz", {})):
        tracemalloc.start()
        _, rejected = read(tmp_path / name)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert rejected == expected
        assert peak < 10 * 2**20


@pytest.mark.parametrize("name", ["captions.jsonl", "table.csv"])
def test_lines_of_a_hundred_megabytes_cost_no_memory(name: str, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(PNG)
    start, line = (b"", b'{"image": "a.png"}\n') if name == "captions.jsonl" else (b"image\n", b"a.png\n")
    with (tmp_path / name).open("wb") as file:
        file.write(start + line)
        for _ in range(100):
            file.write(b"x" * MAX_LINE_BYTES)
        file.write(b"\n" + line)
    tracemalloc.start()
    source = open_source(str(tmp_path / name))
    reasons = [getattr(entry, "reason", "") for entry in source]
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert reasons == ["", "bad_line", ""]
    assert peak < 12 * 2**20


def test_metadata_is_always_json_and_utf8(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(PNG)
    hostile = '"a": NaN, "b": [1e999, 1], "c": "\\ud800", "\\udfff": 1, "d": ' + "[" * 900 + "]" * 900
    (tmp_path / "captions.jsonl").write_text('{"image": "a.png", ' + hostile + "}")
    (tmp_path / "a.json").write_text("{" + hostile + "}")
    (tmp_path / "t.csv").write_text('image,e\na.png,"[NaN, 2]"\n')
    for source, key, expected in (("captions.jsonl", "b", [None, 1]), ("t.csv", "e", [None, 2])):
        records, _ = read(tmp_path / source)
        assert records[0].metadata[key] == expected
        json.dumps(records[0].metadata, allow_nan=False, ensure_ascii=False).encode()
    (tmp_path / "captions.jsonl").unlink()
    record = read(tmp_path)[0][0]
    assert (record.metadata["a"], record.metadata["c"], record.metadata["?"]) == (None, "?", 1)


def test_lines_that_are_no_entries(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(PNG)
    lines = [
        b'{"image": "a.png", "caption": "\\ud800 half"}', b'{"image": "\\u0000.png"}', b'{"image": "https://x/y.png"}',
        b'{"image": "pipe:cat a.png"}', b'{"image": ["a.png"]}', b"[" * 100_000, b'{"image": "a.png"', b"\xff\xfe\xfd",
        b'{"image": "."}', b'{"image": ""}', b'{"image": "' + b"n" * 5000 + b'.png"}', b"null",
        b'{"n": NaN, "image": 1}',
    ]  # fmt: skip
    (tmp_path / "captions.jsonl").write_bytes(b"\n".join(lines))
    entries = list(open_source(str(tmp_path)))
    assert isinstance(entries[0], Record)
    assert entries[0].captions == ("? half",)
    assert [getattr(entry, "reason", "") for entry in entries[1:]] == [
        "missing_file", "address", "address", "bad_line", "bad_line", "bad_line", "bad_line", "not_a_file",
        "not_a_file", "missing_file", "bad_line", "bad_line",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "text", ["pipe:cat a", "https://a/b.tar", "a\0b", "/nowhere/{0..99999999}.tar", "{9..0}.tar", "/dev/null", ""]
)
def test_what_names_no_source_is_refused_in_a_sentence(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "inner").mkdir()
    monkeypatch.chdir(tmp_path / "inner")
    with pytest.raises(SourceError, match=r"\.$"):
        open_source(text)


def test_a_folder_of_ready_vectors_names_the_command_for_it(tmp_path: Path) -> None:
    (tmp_path / "img_emb").mkdir()
    with pytest.raises(SourceError, match="index import"):
        open_source(str(tmp_path))
