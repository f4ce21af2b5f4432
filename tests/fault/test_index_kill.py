"""Building a collection by a process that is killed again and again."""

from __future__ import annotations

import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sightline.collection import verify_collection
from tests.indexer.plain import digests, draw_folder

pytestmark = pytest.mark.fault

REPOSITORY = Path(__file__).parents[2]
NUM_KILLS = 50


class Builder:
    """The program, begun."""

    def __init__(self, *arguments: object) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.fault.index_program", *map(str, arguments)],
            cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "started\n", self.process.communicate()
        self.started = time.monotonic()

    def killed(self) -> bool:
        """Wait for the end; whether it was a kill."""
        _, errors = self.process.communicate(timeout=300)
        assert self.process.returncode in (0, -9), errors
        return self.process.returncode == -9

    def kill_after(self, seconds: float) -> bool:
        """Kill it after so long unless it has ended; whether it was killed."""
        time.sleep(seconds)
        self.process.kill()
        return self.killed()


def whole(out: Path) -> bool:
    """Whether there is a collection, which then is a whole one."""
    if not (out / "CURRENT").exists():
        return False
    verify_collection(out)
    return True


def compare(out: Path, expected: dict[str, str]) -> None:
    """The collection is the expected one, byte for byte, and nothing else is visible beside it."""
    assert {name: one for name, one in digests(out).items() if not name.startswith(".")} == expected


@pytest.mark.timeout(1200)
def test_fifty_kills_change_no_byte(tmp_path: Path) -> None:
    source = draw_folder(tmp_path / "pictures", 70)
    reference = Builder(source, tmp_path / "expected")
    output, _ = reference.process.communicate(timeout=300)
    seconds, operations = time.monotonic() - reference.started, int(output)
    assert whole(tmp_path / "expected")
    expected = digests(tmp_path / "expected")
    chance = random.Random(11)
    kills = finished = 0
    out = tmp_path / "out"
    while kills < NUM_KILLS:
        if kills % 2:
            killed = Builder(source, out).kill_after(chance.uniform(0.0, seconds))
        else:
            killed = Builder(
                source, out, chance.randint(1, operations // 2), chance.choice(["before", "after"])
            ).killed()
        kills += killed
        if whole(out):
            compare(out, expected)
            finished += 1
            shutil.rmtree(out)
    if out.exists():
        assert not Builder(source, out).killed()
        compare(out, expected)
        finished += 1
    assert finished


@pytest.mark.parametrize("share", [0.8, 0.9, 0.95, 0.97, 0.98, 0.99, 1.0])
def test_a_kill_during_publication_changes_no_byte(tmp_path: Path, share: float) -> None:
    source = draw_folder(tmp_path / "pictures", 30)
    output, _ = Builder(source, tmp_path / "expected").process.communicate(timeout=300)
    out = tmp_path / "out"
    assert Builder(source, out, max(int(int(output) * share), 1), "after").killed()
    if not whole(out):
        assert not Builder(source, out).killed()
    compare(out, digests(tmp_path / "expected"))
