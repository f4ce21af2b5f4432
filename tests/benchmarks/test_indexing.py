"""The indexing benchmark's arithmetic, what it reads of both sides, and how it watches a command."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks.indexing.builds import read_report
from benchmarks.indexing.memory import SIDE_PX, Peak, memory_bars, memory_page, small_pictures, write_repeated
from benchmarks.indexing.peer import read_statistics
from benchmarks.indexing.report import OURS_BF16, OURS_INT8, PEER, PEER_DEFAULTS, bars_of, page
from benchmarks.indexing.run import Results, figures_of
from benchmarks.indexing.vectors import lowest_cosine, read_vectors
from benchmarks.indexing.watch import CommandFailed, Watched, status_fields, watch
from benchmarks.serving.bars import Bar
from benchmarks.serving.neighbours import Usage
from benchmarks.serving.pictures import Pool
from sightline.images import ImageLimits, decode_image
from tests.pictures import encoded, textured


def entry(rate: float, others: float = 0.0) -> dict[str, Any]:
    watched = Watched("", 20.0, 900 * 2**20, 700 * 2**20, 1500 * 2**20, Usage(others, 0.0))
    return figures_of(watched, {"num_images": 100, "encode_seconds": 100 / rate, "bound_by": "encode"})


def results(rates: dict[str, list[float]], others: float = 0.0) -> Results:
    figures = {name: [entry(rate, others) for rate in found] for name, found in rates.items()}
    ceiling = {
        "precision": "bf16", "decodes_per_second": 260.0, "encoder_images_per_second": 52.0,
        "roofline_images_per_second": 43.0, "other_cores": 0.0, "stolen_cores": 0.0,
    }  # fmt: skip
    ceilings = {name: [ceiling] * len(found) for name, found in rates.items() if name != PEER}
    return Results(figures, ceilings, {OURS_BF16: 0.99995} if PEER in rates else {})


def verdicts(bars: list[Bar]) -> dict[str, bool]:
    return {bar.name: bar.met for bar in bars}


def test_bars_are_judged_by_ratios_within_a_repetition() -> None:
    # The machine slows down by half for the last two: absolute figures move, ratios do not.
    measured = results({PEER: [14, 7, 7], OURS_BF16: [42, 21, 21], OURS_INT8: [42, 21, 21]})
    assert verdicts(bars_of(measured)) == {
        "images/s against clip-retrieval, bf16": True,
        "images/s against the roofline, bf16": False,
        "images/s against clip-retrieval, int8": False,
        "images/s against the roofline, int8": False,
        "lowest cosine with clip-retrieval's vectors, Sightline bf16": True,
    }
    assert verdicts(bars_of(results({PEER: [14], OURS_BF16: [39]})))["images/s against the roofline, bf16"]


def test_the_peers_defaults_are_a_bar_of_their_own_within_the_repetition_that_has_them() -> None:
    measured = results({PEER: [14, 7], OURS_BF16: [42, 21], PEER_DEFAULTS: [20]})
    met = verdicts(bars_of(measured))
    assert met["images/s against clip-retrieval, bf16"]
    assert not met["images/s against clip-retrieval with its defaults, bf16"]


def test_without_the_peer_its_bars_are_not_met() -> None:
    met = verdicts(bars_of(results({OURS_BF16: [42]})))
    assert met == {"images/s against clip-retrieval, bf16": False, "images/s against the roofline, bf16": True}


def test_the_page_says_what_is_counted_and_when_the_machine_was_not_quiet() -> None:
    for others, disturbed in ((0.01, False), (0.6, True)):
        measured = results({PEER: [14], OURS_BF16: [42]}, others)
        text = page(measured, bars_of(measured), "Machine: M.", "clip-retrieval runs as it comes.")
        assert ("Not a quiet machine" in text) is disturbed
        assert "| Sightline bf16 | 42.0 | 5.00 | 20.0 | 900 | 1,500 | encode |" in text
        assert "0.99995" in text
        assert "**Counted**" in text
        assert "clip-retrieval runs as it comes." in text


def test_the_encode_phase_of_a_build_is_all_but_publication() -> None:
    report = {
        "collection": "/c", "generation": "gen-000001", "encoder": {"precision": "bf16"}, "bound_by": "encode",
        "counts": {"seen": 100, "indexed": 100, "reasons": {}},
        "seconds": {"total": 12.5, "publish": 2.5, "decode": 6.0, "encode_images": 8.0},
    }  # fmt: skip
    read = read_report(json.dumps(report))
    assert (read["num_images"], read["encode_seconds"], read["generation"]) == (100, 10.0, "/c/gen-000001")
    assert read["stages"] == {"decode": 6.0, "encode_images": 8.0}
    report["counts"] = {"seen": 100, "indexed": 99, "reasons": {"image_corrupt": 1}}
    with pytest.raises(CommandFailed, match="99 of 100"):
        read_report(json.dumps(report))


def test_the_peers_finished_statistics_are_added_up(tmp_path: Path) -> None:
    with pytest.raises(CommandFailed, match="no statistics"):
        read_statistics(tmp_path)
    (tmp_path / "stats").mkdir()
    part = {
        "sample_count": 8, "total_duration": 4.0, "read_duration": 1.0, "inference_duration": 2.5,
        "write_duration": 0.5, "start_time": 1e9,
    }  # fmt: skip
    for name in ("0.json", "1.json", "wip_2.json"):
        (tmp_path / "stats" / name).write_text(json.dumps(part), encoding="utf-8")
    read = read_statistics(tmp_path)
    assert (read["num_images"], read["encode_seconds"]) == (16, 8.0)
    assert read["stages"] == {"read and decode": 2.0, "encode": 5.0, "write": 1.0}


def test_vectors_are_compared_by_the_name_of_the_picture(tmp_path: Path) -> None:
    rows = np.random.default_rng(0).normal(size=(6, 16)).astype(np.float32)
    names = [f"{number}.jpg" for number in range(6)]
    write_vectors(tmp_path / "one", ["/somewhere/" + name for name in names], rows)
    order = [3, 1, 5, 0, 2, 4]
    write_vectors(tmp_path / "other", [names[row] for row in order], 7 * rows[order])
    one, other = read_vectors(tmp_path / "one"), read_vectors(tmp_path / "other")
    assert lowest_cosine(one, other) > 0.9999
    assert lowest_cosine(one, other | {"0.jpg": other["1.jpg"]}) < 0.9
    with pytest.raises(ValueError, match="not the same"):
        lowest_cosine(one, {"0.jpg": other["0.jpg"]})


def write_vectors(folder: Path, uris: list[str], rows: np.ndarray[Any, Any]) -> None:
    for name in ("img_emb", "metadata"):
        (folder / name).mkdir(parents=True)
    for shard, part in enumerate((slice(0, 4), slice(4, 6))):
        np.save(folder / "img_emb" / f"img_emb_{shard}.npy", rows[part].astype(np.float16))
        pq.write_table(pa.table({"image_path": uris[part]}), folder / "metadata" / f"metadata_{shard}.parquet")


def test_repeated_pictures_differ_in_bytes_alone(tmp_path: Path) -> None:
    pictures = small_pictures(Pool((encoded(textured((64, 48), 1), "JPEG"), encoded(textured((64, 48), 2))), (), "t"))
    write_repeated(pictures, 5, tmp_path)
    found = [path.read_bytes() for path in sorted(tmp_path.rglob("*.jpg"))]
    assert len(set(found)) == len(found) == 5
    images = [decode_image(data, ImageLimits()) for data in found]
    assert {image.size for image in images} == {SIDE_PX}
    assert images[0].tobytes() == images[2].tobytes() != images[1].tobytes()


def test_memory_that_grows_with_the_inputs_is_not_flat() -> None:
    peaks = [Peak(num, size, size // 2, 9.0, 1.0, 99.0) for num, size in ((1000, 400), (100, 390), (9000, 420))]
    assert all(bar.met for bar in memory_bars(peaks))
    grown = [*peaks, Peak(100_000, 500, 250, 9.0, 1.0, 99.0)]
    assert not any(bar.met for bar in memory_bars(grown))
    assert "| 100,000 |" in memory_page(grown, memory_bars(grown), "Machine: M.")


def test_a_command_is_watched_with_all_that_it_starts(tmp_path: Path) -> None:
    # The child of the command outlives it, unless it is ended with the command's group.
    lines = (
        "import subprocess, sys, time",
        "held = bytearray(96 * 2**20)",
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])",
        "time.sleep(0.5)",
        "print(child.pid)",
    )
    watched = watch([sys.executable, "-c", "\n".join(lines)], tmp_path / "log", os.environ)
    assert watched.peak_rss_bytes >= watched.peak_own_bytes >= 96 * 2**20
    assert watched.peak_group_bytes >= watched.peak_own_bytes
    deadline = time.monotonic() + 60  # a busy machine takes its time to end what was killed
    while alive(watched.stdout.strip()):
        assert time.monotonic() < deadline, "the child outlived the command"
        time.sleep(0.02)


def alive(pid: str) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"


def test_a_command_that_fails_is_shown_with_the_end_of_its_log(tmp_path: Path) -> None:
    with pytest.raises(CommandFailed, match="no such picture"):
        watch([sys.executable, "-c", "raise SystemExit('no such picture')"], tmp_path / "log", os.environ)


def test_sizes_are_read_in_bytes() -> None:
    assert status_fields("Name:\tpython\nVmHWM:\t  12 kB\nThreads:\t3\nRssAnon:\t8 kB\n") == {
        "VmHWM": 12 * 1024, "RssAnon": 8 * 1024,
    }  # fmt: skip
