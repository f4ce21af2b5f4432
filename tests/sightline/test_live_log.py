"""The log of live changes: durable, one change an item, refused when it is not what was written."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from sightline.collection import live_log
from sightline.collection.live_log import LiveChange, LiveLog, open_live_log, require_fingerprint
from sightline.errors import EncoderMismatch, LiveLogDamaged, LiveLogLocked, StorageError

DIM = 8


def put(item_id: str, number: int = 0, *, num_captions: int = 2, encoder: str = "e" * 64) -> LiveChange:
    generator = np.random.default_rng(number)
    return LiveChange(
        item_id, "put", encoder, "gen-000001", "2026-01-31T12:00:00+00:00", uri=f"{item_id}.png",
        captions=tuple(f"caption {one}" for one in range(num_captions)), metadata={"number": number, "é": [1.5, None]},
        sha256=f"{number:064x}", width_px=30, height_px=20,
        vector=generator.standard_normal(DIM).astype(np.float16),
        caption_vectors=generator.standard_normal((num_captions, DIM)).astype(np.float16),
        thumbnail=b"RIFF....WEBP" + bytes([number]),
    )  # fmt: skip


def delete(item_id: str) -> LiveChange:
    return LiveChange(item_id, "delete", "e" * 64, "gen-000001", "2026-01-31T12:00:00+00:00")


def writer(folder: Path) -> LiveLog:
    log = open_live_log(folder, writable=True)
    assert log is not None
    return log


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    log = writer(tmp_path)
    (written,) = log.append([put("a", 7)])
    log.close()
    again = open_live_log(tmp_path)
    assert again is not None
    (found,) = again.read()
    assert (found.item_id, found.captions, found.metadata, found.uri, found.sequence) == (
        "a", ("caption 0", "caption 1"), {"number": 7, "é": [1.5, None]}, "a.png", 1,
    )  # fmt: skip
    np.testing.assert_array_equal(found.vector, put("a", 7).vector)
    np.testing.assert_array_equal(found.caption_vectors, put("a", 7).caption_vectors)
    assert again.thumbnail(written.sequence) == put("a", 7).thumbnail


def test_only_the_latest_change_of_an_item_stays_and_numbers_only_grow(tmp_path: Path) -> None:
    log = writer(tmp_path)
    first = log.append([put("a", 1), put("b", 2)])
    (second,) = log.append([put("a", 3)])
    (gone,) = log.append([delete("b")])
    assert [one.sequence for one in (*first, second, gone)] == [1, 2, 3, 4]
    assert [(one.item_id, one.kind, one.sequence) for one in log.read()] == [("a", "put", 3), ("b", "delete", 4)]
    assert [one.item_id for one in log.read(after=3)] == ["b"]
    assert log.thumbnail(1) is None
    assert log.last_sequence() == 4


def test_pruning_remembers_how_far(tmp_path: Path) -> None:
    log = writer(tmp_path)
    log.append([put("a"), put("b"), put("c")])
    assert log.pruned_through() == 0
    assert log.prune(2) == 2
    assert log.prune(1) == 0
    assert (log.pruned_through(), [one.item_id for one in log.read()]) == (2, ["c"])
    log.prune(3)
    log.close()
    again = writer(tmp_path)
    assert again.last_sequence() == 3, "an empty log must not begin to count anew"
    assert again.append([put("d")])[0].sequence == 4


def test_there_is_one_writer_and_readers_do_not_mind(tmp_path: Path) -> None:
    log = writer(tmp_path)
    log.append([put("a")])
    with pytest.raises(LiveLogLocked, match="Another process writes"):
        open_live_log(tmp_path, writable=True)
    reader = open_live_log(tmp_path)
    assert reader is not None and not reader.writable
    log.append([put("b")])
    assert [one.item_id for one in reader.read()] == ["a", "b"]
    with pytest.raises(StorageError, match="cannot be written"):
        reader.append([put("c")])
    log.close()
    writer(tmp_path).close()


def test_no_log_is_no_log(tmp_path: Path) -> None:
    assert open_live_log(tmp_path) is None
    assert list(tmp_path.iterdir()) == []


def test_a_batch_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    log = writer(tmp_path)
    with pytest.raises(UnicodeEncodeError):
        log.append([put("a"), put("\ud800")])
    assert log.read() == []
    assert log.append([put("b")])[0].sequence > 0


def test_every_damage_is_found(tmp_path: Path) -> None:
    """Each flipped byte of the file is noticed or without effect; no reading gives another answer."""
    log = writer(tmp_path)
    log.append([put("a", 1, num_captions=1), delete("b")])
    log.close()
    path = tmp_path / "live.db"
    whole = path.read_bytes()
    expected = [(one.item_id, one.kind, one.captions, one.vector.tobytes()) for one in open_or_fail(tmp_path).read()]
    used = [place for place in range(len(whole)) if whole[place]]
    refused = 0
    for place in used[:: max(1, len(used) // 300)]:
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
        try:
            damaged = open_or_fail(tmp_path)
            found = damaged.read()
            thumbnail = damaged.thumbnail(1)
        except LiveLogDamaged as error:
            refused += 1
            assert str(path) in error.message
        else:
            told = [(one.item_id, one.kind, one.captions, one.vector.tobytes()) for one in found]
            assert told == expected and thumbnail == put("a", 1).thumbnail, place
    assert refused > 100


def open_or_fail(folder: Path) -> LiveLog:
    log = open_live_log(folder)
    assert log is not None
    return log


@pytest.mark.parametrize("content", [b"not a database at all, " * 500, b"SQLite format 3\0" + bytes(100)])
def test_a_file_of_something_else(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "live.db").write_bytes(content)
    for writable in (False, True):
        with pytest.raises(LiveLogDamaged, match="restore it from a backup"):
            open_live_log(tmp_path, writable=writable)
    (tmp_path / "live.db").unlink()
    writer(tmp_path).close()  # the lock was given back


def test_a_newer_schema(tmp_path: Path) -> None:
    writer(tmp_path).close()
    with sqlite3.connect(tmp_path / "live.db") as connection:
        connection.execute("PRAGMA user_version=99")
    with pytest.raises(LiveLogDamaged, match="newer Sightline"):
        open_live_log(tmp_path)


def test_another_encoders_vectors(tmp_path: Path) -> None:
    require_fingerprint([put("a"), delete("b")], "e" * 64)
    with pytest.raises(EncoderMismatch, match="another encoder"):
        require_fingerprint([put("a")], "f" * 64)


def test_what_append_has_returned_survives_kill_9(tmp_path: Path) -> None:
    """The process kills itself right after each append: nothing is closed, nothing is checkpointed."""
    program = (
        "import os, sys; from pathlib import Path; from tests.sightline.test_live_log import put, writer\n"
        "writer(Path(sys.argv[1])).append([put(sys.argv[2])]); os.kill(os.getpid(), 9)"
    )
    for name in ("a", "b", "c"):
        done = subprocess.run([sys.executable, "-c", program, str(tmp_path), name], cwd=Path(__file__).parents[2])
        assert done.returncode == -9
    assert [one.item_id for one in writer(tmp_path).read()] == ["a", "b", "c"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_read_only_folder(tmp_path: Path) -> None:
    log = writer(tmp_path)
    log.append([put("a")])
    log.close()
    tmp_path.chmod(0o555)
    try:
        assert [one.item_id for one in open_or_fail(tmp_path).read()] == ["a"]
        with pytest.raises(StorageError):
            open_live_log(tmp_path, writable=True)
    finally:
        tmp_path.chmod(0o755)


def test_a_disk_without_space(tmp_path: Path) -> None:
    log = writer(tmp_path)
    log.append([put("a")])
    log._connection.execute(
        f"PRAGMA max_page_count={log._connection.execute('PRAGMA page_count').fetchone()[0]}"
    )  # SQLite answers as it does on a full disk
    big = put("b", num_captions=4000)
    with pytest.raises(StorageError, match="no space is left"):
        log.append([put("c"), big])
    assert [one.item_id for one in log.read()] == ["a"]


def test_digests_tell_fields_apart() -> None:
    assert live_log._digest("ab", "c") != live_log._digest("a", "bc")
