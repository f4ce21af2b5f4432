"""Peak memory of a build by the number of inputs: the same work for each input, ever more of them."""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from benchmarks.indexing.builds import BuildOptions, run_build
from benchmarks.indexing.tiny import write_tiny_bundle
from benchmarks.serving.bars import Bar, spread, table
from benchmarks.serving.pictures import Pool

SIZES = (1_000, 10_000, 100_000)
SIDE_PX = (160, 120)
FLAT = 1.10
"""The largest size may take as many times the memory of the smallest."""
_FILES_IN_FOLDER = 1000
_MIB = 2**20


@dataclass(frozen=True)
class Peak:
    """What a build of ``num_inputs`` pictures took."""

    num_inputs: int
    peak_rss_bytes: int
    peak_own_bytes: int
    seconds: float
    publish_seconds: float
    images_per_second: float

    def as_json(self) -> dict[str, Any]:
        return dict(vars(self))


def measure_memory(pool: Pool, sizes: Sequence[int], out: Path, say: Callable[[str], None]) -> list[Peak]:
    """Build collections of these sizes, one after the other, each with its thumbnails and its index.

    Pictures are removed again. Raises CommandFailed.
    """
    write_tiny_bundle(out / "tiny-bundle")
    options = BuildOptions(str(out / "tiny-bundle"))
    small = small_pictures(pool)
    found = []
    for num in sizes:
        source, collection = out / "many", out / "memory-collection"
        for left in (source, collection):
            shutil.rmtree(left, ignore_errors=True)
        say(f"memory: writing {num:,} pictures …")
        write_repeated(small, num, source)
        try:
            watched, report = run_build(options, source, collection, out / "logs" / f"memory-{num}.log")
        finally:
            shutil.rmtree(source, ignore_errors=True)
        shutil.rmtree(collection, ignore_errors=True)
        peak = Peak(
            num, watched.peak_rss_bytes, watched.peak_own_bytes, watched.seconds, report["publish_seconds"],
            num / report["encode_seconds"],
        )  # fmt: skip
        say(
            f"memory: {num:,} inputs, peak {peak.peak_rss_bytes / _MIB:.0f} MiB, of its own "
            f"{peak.peak_own_bytes / _MIB:.0f} MiB, {peak.seconds:.0f} s"
        )
        found.append(peak)
    return found


def small_pictures(pool: Pool) -> list[bytes]:
    """The pool's pictures at 160x120, as JPEG."""
    found = []
    for data in pool.pictures:
        buffer = io.BytesIO()
        with Image.open(io.BytesIO(data)) as image:
            image.convert("RGB").resize(SIDE_PX, Image.Resampling.BOX).save(buffer, "JPEG", quality=85)
        found.append(buffer.getvalue())
    return found


def write_repeated(pictures: Sequence[bytes], num: int, folder: Path) -> None:
    """``num`` files: the pictures over and over, each with its number behind the end of the JPEG, so that no two files
    are the same and their names tell them apart."""
    for number in range(num):
        place = folder / f"{number // _FILES_IN_FOLDER:04d}"
        if number % _FILES_IN_FOLDER == 0:
            place.mkdir(parents=True)
        (place / f"{number:08d}.jpg").write_bytes(pictures[number % len(pictures)] + b"%08d" % number)


def memory_bars(peaks: Sequence[Peak]) -> list[Bar]:
    """Flat: the largest build takes hardly more than the smallest."""
    few, many = min(peaks, key=lambda peak: peak.num_inputs), max(peaks, key=lambda peak: peak.num_inputs)
    grown = f"at {many.num_inputs:,} inputs against {few.num_inputs:,}"
    return [
        Bar(f"peak RSS {grown}", spread([many.peak_rss_bytes / few.peak_rss_bytes]), FLAT, "at most"),
        Bar(f"memory of its own {grown}", spread([many.peak_own_bytes / few.peak_own_bytes]), FLAT, "at most"),
    ]


def memory_page(peaks: Sequence[Peak], bars: Sequence[Bar], machine: str) -> str:
    """Markdown."""
    lines = [
        "| inputs | peak RSS, MiB | of its own, MiB | whole command, s | of it publishing, s | images/s |",
        "|---|---|---|---|---|---|",
    ]
    for peak in peaks:
        lines.append(
            f"| {peak.num_inputs:,} | {peak.peak_rss_bytes / _MIB:,.0f} | {peak.peak_own_bytes / _MIB:,.0f} "
            f"| {peak.seconds:,.1f} | {peak.publish_seconds:,.1f} | {peak.images_per_second:,.0f} |"
        )
    explained = (
        "Pictures of 160x120 in a folder, repeated under other names with their number behind the JPEG's end, so that "
        "no two files are the same; a one-layer encoder with vectors of 512 dimensions, so that this takes minutes; "
        "thumbnails, near duplicates and the index as the command makes them. Peak RSS counts mapped files, which the "
        "kernel can drop; the second column does not."
    )
    return "\n\n".join(["## Memory by the number of inputs", machine, table(bars), "\n".join(lines), explained]) + "\n"
