"""Memory of reading a source does not grow with it: a process of its own, so that only this is measured."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.pictures import flat

pytestmark = pytest.mark.slow

READ = """
import resource, sys
from pathlib import Path
from sightline.sources import open_source

def peak_mib():
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) / 1024

list(open_source(sys.argv[1]))
before = peak_mib()
source = open_source(sys.argv[2], listing=Path(sys.argv[3]) if sys.argv[3] else None)
print(sum(1 for _ in source), source.num_inputs, peak_mib() - before)
"""


def make(root: Path, num_files: int) -> Path:
    png = flat("red", (1, 1))
    for number in range(num_files):
        folder = root / f"{number // 1000:04d}"
        if number % 1000 == 0:
            folder.mkdir(parents=True)
        (folder / f"a-rather-long-name-of-a-picture-{number:07d}.png").write_bytes(png)
    return root


@pytest.mark.parametrize("kept", [True, False])
def test_a_folder_of_200_000_files_takes_the_memory_of_one_of_1_000(kept: bool, tmp_path: Path) -> None:
    few, many = make(tmp_path / "few", 1000), make(tmp_path / "many", 200_000)
    listing = str(tmp_path / "listing.db") if kept else ""
    done = subprocess.run(
        [sys.executable, "-c", READ, str(few), str(many), listing], capture_output=True, text=True, check=True
    )
    num_read, num_inputs, grown_mib = done.stdout.split()
    assert int(num_read) == int(num_inputs) == 200_000
    assert float(grown_mib) < 8
