"""Memory of reading a source does not grow with it: a process of its own, so that only this is measured."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.indexer.test_exchange import clip_folder
from tests.pictures import flat

pytestmark = pytest.mark.slow

READ = """
import resource, sys
from pathlib import Path
from sightline.sources import open_source

def peak_mib():
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) / 1024

for _ in open_source(sys.argv[1]):
    pass
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


def run(code: str, *arguments: object) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True, check=True
    )
    return done.stdout.split()


@pytest.mark.parametrize("kept", [True, False])
def test_a_folder_of_200_000_files_takes_the_memory_of_one_of_1_000(kept: bool, tmp_path: Path) -> None:
    few, many = make(tmp_path / "few", 1000), make(tmp_path / "many", 200_000)
    listing = str(tmp_path / "listing.db") if kept else ""
    num_read, num_inputs, grown_mib = run(READ, few, many, listing)
    assert int(num_read) == int(num_inputs) == 200_000
    assert float(grown_mib) < 8


PAGES = {"use_dictionary": False, "write_batch_size": 1}
"""pyarrow ends a page only after so many rows; by default the 400 MB of this test would be one page."""


def test_a_table_of_pictures_in_one_row_group_is_streamed(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name, count in (("few", 20), ("many", 400)):
        pictures = pa.array([rng.bytes(2**20) for _ in range(count)])
        pq.write_table(pa.table({"image": pictures}), tmp_path / f"{name}.parquet", **PAGES)
    num_read, num_inputs, grown_mib = run(READ, tmp_path / "few.parquet", tmp_path / "many.parquet", "")
    assert int(num_read) == int(num_inputs) == 400
    assert float(grown_mib) < 100


IMPORT = """
import sys
from pathlib import Path
from tests.indexer.test_exchange import bring_in

def peak_mib():
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) / 1024

bring_in(Path(sys.argv[1]), Path(sys.argv[3]))
before = peak_mib()
report = bring_in(Path(sys.argv[2]), Path(sys.argv[3]))
print(report.manifest.num_items, peak_mib() - before)
"""


def test_an_import_takes_the_memory_of_a_block(tmp_path: Path) -> None:
    few, many = clip_folder(tmp_path / "few", (10_000,)), clip_folder(tmp_path / "many", (100_000, 100_000))
    num_items, grown_mib = run(IMPORT, few, many, tmp_path / "out")
    assert int(num_items) == 200_000
    assert float(grown_mib) < 60
