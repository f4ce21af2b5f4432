"""Disks that fail: every operation in its turn, no space, no right to write, and bytes that change afterwards."""

from __future__ import annotations

import contextlib
import errno
import os
import random
import resource
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from sightline import storage
from sightline.collection import open_collection, reader, verify_collection
from sightline.errors import CollectionCorrupt, StorageError
from tests.fault.index_program import OPERATIONS, Counter
from tests.indexer.plain import PlainEncoder, build_plain, digests, draw_folder, ledger
from tests.pictures import encoded, textured

pytestmark = pytest.mark.fault


@contextlib.contextmanager
def failing(monkeypatch: pytest.MonkeyPatch, name: str, number: int) -> Iterator[Counter]:
    """The n-th call of one operation fails as a full disk would; 0: none, to be counted."""

    def fail() -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    counter = Counter(number, fail)
    with monkeypatch.context() as patch:
        patch.setattr(storage, name, counter.wrap(getattr(storage, name)))
        yield counter


@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", OPERATIONS)
def test_every_operation_may_fail_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    source = draw_folder(tmp_path / "pictures", 12)
    with failing(monkeypatch, name, 0) as counter:
        build_plain(source, tmp_path / "expected")
    expected = digests(tmp_path / "expected")
    numbers = range(1, counter.count + 1)
    for number in numbers if counter.count <= 150 else sorted(random.Random(3).sample(numbers, 150)):
        out = tmp_path / f"out-{number}"
        with failing(monkeypatch, name, number), contextlib.suppress(StorageError):
            build_plain(source, out)
        if (out / "CURRENT").exists():
            verify_collection(out)
        if (out / "building").exists() or not (out / "CURRENT").exists():
            build_plain(source, out)
        assert {name: one for name, one in digests(out).items() if not name.startswith(".")} == expected, number


def test_the_sentence_of_a_full_disk_names_the_fix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = draw_folder(tmp_path / "pictures", 4)
    with failing(monkeypatch, "_write", 4), pytest.raises(StorageError, match=r"no space is left .* run the command"):
        build_plain(source, tmp_path / "out")
    assert not (tmp_path / "out" / "CURRENT").exists()


def test_a_disk_that_is_really_full(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("this machine lets nobody mount a small disk")
    try:
        source = draw_folder(tmp_path / "pictures", 30)
        ballast = disk / "ballast"
        for kibibytes in range(240, 0, -8):
            ballast.write_bytes(b"x" * kibibytes * 1024)
            with contextlib.suppress(StorageError):
                build_plain(source, disk / "out")
            if (disk / "out" / "CURRENT").exists():
                break
        ballast.unlink()
        if not (disk / "out" / "CURRENT").exists():
            build_plain(source, disk / "out")
        build_plain(source, tmp_path / "expected")
        assert digests(disk / "out") == digests(tmp_path / "expected")
    finally:
        subprocess.run(["umount", "--lazy", disk], check=True)


def test_a_limit_on_file_sizes(tmp_path: Path) -> None:
    source = draw_folder(tmp_path / "pictures", 30)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2048, before[1]))
    try:
        with pytest.raises(StorageError):
            build_plain(source, tmp_path / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    build_plain(source, tmp_path / "out")
    verify_collection(tmp_path / "out")


def test_a_folder_that_may_not_be_written(tmp_path: Path) -> None:
    source = draw_folder(tmp_path / "pictures", 4)
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("this machine lets nobody mount a read-only disk")
    try:
        with pytest.raises(StorageError, match="read-only; choose a folder that can be written"):
            build_plain(source, disk / "out")
    finally:
        subprocess.run(["umount", "--lazy", disk], check=True)


def test_a_file_that_changes_while_it_is_read(tmp_path: Path) -> None:
    """What is indexed is what was read, whole: the hash that is kept belongs to the vector that is kept."""
    source = draw_folder(tmp_path / "pictures", 20)

    def change(modality: str, batch: object) -> None:
        (source / "013.png").write_bytes(encoded(textured((24, 18), 500 + os.getpid())))
        (source / "015.png").unlink(missing_ok=True)

    build_plain(source, tmp_path / "out", PlainEncoder(change), num_decode_threads=1, batch_size=1)
    generation = verify_collection(tmp_path / "out")
    counts = generation.manifest.counts
    assert counts.seen == 20
    reasons = ledger(generation.directory)
    assert reasons.get("015.png", "missing_file") == "missing_file"


@pytest.mark.timeout(900)
def test_every_changed_byte_is_noticed_before_it_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build_plain(draw_folder(tmp_path / "pictures", 20), tmp_path / "out")
    generation = open_collection(tmp_path / "out").directory

    def opened(*arguments: object) -> None:
        raise AssertionError("the generation was read before it was compared with its hashes")

    monkeypatch.setattr(reader, "Generation", opened)
    chance = random.Random(7)
    for path in sorted(generation.rglob("*")):
        if not path.is_file():
            continue
        data = path.read_bytes()
        places = {*range(min(4096, len(data))), *(chance.randrange(len(data)) for _ in range(500) if data)}
        for place in sorted(places):
            damaged = bytearray(data)
            damaged[place] ^= 1 << chance.randrange(8)
            path.write_bytes(damaged)
            with pytest.raises(CollectionCorrupt):
                open_collection(tmp_path / "out")
        path.write_bytes(data)
