"""What pictures cost at the worst, each measured in a process of its own: memory as promised, and seconds at most."""

from __future__ import annotations

import json
import subprocess
import sys
import zlib
from pathlib import Path

import pytest

from sightline.images import ImageLimits, read_header
from tests import hostile_pictures as hostile

pytestmark = [pytest.mark.fault, pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")]

LIMITS = ImageLimits()
MEGABYTE = 1_000_000
MEASURE = """
import json, resource, sys, time, warnings
from pathlib import Path
from sightline.errors import SightlineError
from sightline.images import ImageLimits, PixelSpec, decode_image, to_pixels
warnings.simplefilter("ignore")
spec = PixelSpec(224, 224, (0, 0, 0), (1, 1, 1))
data = Path(sys.argv[1]).read_bytes()
to_pixels(decode_image(Path(sys.argv[2]).read_bytes(), ImageLimits()), spec)
before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
try:
    outcome = list(to_pixels(decode_image(data, ImageLimits()), spec).shape)
except SightlineError as error:
    outcome = error.code
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
print(json.dumps({"outcome": outcome, "peak_bytes": peak * 1024, "seconds": time.process_time() - started}))
"""


def measure(data: bytes, folder: Path) -> tuple[object, int, float]:
    """What decoding these bytes gives, its peak of memory above an ordinary picture's, and its CPU seconds."""
    (folder / "picture").write_bytes(data)
    (folder / "ordinary").write_bytes(hostile.large(64, "jpeg"))
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(folder / "picture"), str(folder / "ordinary")],
        capture_output=True, text=True, check=True, timeout=120,
    )  # fmt: skip
    said = json.loads(done.stdout)
    return said["outcome"], said["peak_bytes"], said["seconds"]


@pytest.mark.parametrize(
    ("width", "height", "kind"), [(13_300, 13_300, "png 1"), (20_000, 20_000, "png 1"), (13_000, 13_000, "jpeg grey")]
)
def test_a_bomb_costs_nothing(tmp_path: Path, width: int, height: int, kind: str) -> None:
    """B2: promised are 200 MB at most."""
    outcome, peak_bytes, seconds = measure(hostile.large(width, kind), tmp_path)
    assert outcome == "image_too_large"
    assert peak_bytes < 10 * MEGABYTE
    assert seconds < 0.5


@pytest.mark.parametrize(("width", "height"), [(1, 4000), (4000, 1), (1, 65_535), (30_000, 1)])
def test_a_strip_costs_nothing(tmp_path: Path, width: int, height: int) -> None:
    """B3: promised are 50 MB at most."""
    data = hostile.black_png(width, height, bits=1, colour=0)
    outcome, peak_bytes, _ = measure(data, tmp_path)
    assert outcome == "image_too_large"
    assert peak_bytes < 10 * MEGABYTE


@pytest.mark.parametrize(("width", "height"), [(1, 100), (100, 1), (16_384, 164), (164, 16_384)])
def test_the_longest_strips_that_are_taken_cost_little(tmp_path: Path, width: int, height: int) -> None:
    """B3: the crop comes before the resize."""
    outcome, peak_bytes, _ = measure(hostile.black_png(width, height), tmp_path)
    assert outcome == [224, 224, 3]
    assert peak_bytes < 50 * MEGABYTE


KINDS = [
    "png", "png alpha", "png alpha 16", "png grey 16", "png grey alpha", "png palette", "png 1", "jpeg", "jpeg grey",
    "jpeg cmyk", "jpeg turned", "jpeg progressive", "webp", "webp alpha", "webp animated", "gif",
]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_a_picture_takes_the_memory_that_its_header_announces(tmp_path: Path, kind: str) -> None:
    """B2, R23: the service admits pictures by this figure, so a wrong one is a way round the memory limit."""
    side_px = 5000
    data = hostile.large(side_px, kind)
    announced_bytes = read_header(data, LIMITS).bytes_per_pixel * side_px**2
    outcome, peak_bytes, _ = measure(data, tmp_path)
    assert outcome == [224, 224, 3]
    assert peak_bytes < announced_bytes + 40 * MEGABYTE


@pytest.mark.parametrize("kind", KINDS)
def test_the_largest_picture_that_is_taken_ends_in_time(tmp_path: Path, kind: str) -> None:
    """R18: 64 million pixels, within the deadline of an interactive request."""
    outcome, peak_bytes, seconds = measure(hostile.large(8000, kind), tmp_path)
    assert outcome == [224, 224, 3]
    assert peak_bytes < 1200 * MEGABYTE
    assert seconds < 10


def test_the_most_passes_that_are_taken_end_in_time(tmp_path: Path) -> None:
    outcome, _, seconds = measure(hostile.jpeg_of_many_scans(40, size=(8000, 8000)), tmp_path)
    assert outcome == [224, 224, 3]
    assert seconds < 10


@pytest.mark.parametrize("size_bytes", [64 * 2**20, 512 * 2**20])
def test_text_that_unpacks_to_much_is_not_unpacked(tmp_path: Path, size_bytes: int) -> None:
    """B9"""
    packer = zlib.compressobj(1)
    text = b"".join([*(packer.compress(bytes(2**20)) for _ in range(size_bytes // 2**20)), packer.flush()])
    for kind, start in ((b"zTXt", b"a\0\0"), (b"iTXt", b"a\0\1\0\0\0"), (b"iCCP", b"a\0\0")):
        data = hostile.black_png(10, 10, chunks=hostile.png_chunk(kind, start + text))
        outcome, peak_bytes, seconds = measure(data, tmp_path)
        assert outcome == "image_corrupt"
        assert peak_bytes < 100 * MEGABYTE
        assert seconds < 1
