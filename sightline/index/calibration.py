"""How fast this machine scans, measured in about a second: predictions from tables are wrong by more than twice."""

from __future__ import annotations

import functools
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from sightline.index.hits import Half, Scores
from sightline.index.runtime import faiss, require_faiss
from sightline.index.scan import score_rows
from sightline.index.store import ShardFiles

SCAN_BYTES = 2**26
"""64 MiB, so that memory is measured and not a cache: with 32 MiB the last cache of a server made scans look twice as
fast as they are on a million rows. Twice this is held at most."""

CODES_NEAR_ROWS = 16_384
"""Few enough that their codes stay in a core's own cache; ``codes_row_far`` is measured beyond it."""

_REPEATS = 3


@dataclass(frozen=True)
class Speeds:
    """Seconds per row of one thread, at the dimension that was measured; ``*_flops``: operations a second, all cores.

    ``encode_row`` is the making of a row's product code, ``refine_row`` the reading and exact scoring of a stored row.
    ``codes_row`` holds for ``CODES_NEAR_ROWS`` rows, in a cache; ``codes_row_far`` for ``SCAN_BYTES`` and more:
    with 128 MB of codes a scan took 2.7 times as long a row as with 2 MB.
    """

    exact_row: float
    sq8_row: float
    codes_row: float
    codes_row_far: float
    encode_row: float
    refine_row: float
    float_flops: float
    bfloat_flops: float


@dataclass(frozen=True)
class Machine:
    """What there is: memory free for an index, cores, and the GPU's name and memory (empty and 0 without one)."""

    memory_bytes: int
    num_cores: int
    gpu: str = ""
    gpu_bytes: int = 0


def this_machine(memory_bytes: int | None = None) -> Machine:
    """The machine we run on; ``memory_bytes`` replaces what the system says is available."""
    free = memory_bytes or os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")
    cores = len(os.sched_getaffinity(0))
    if not torch.cuda.is_available():
        return Machine(free, cores)
    return Machine(free, cores, torch.cuda.get_device_name(), torch.cuda.get_device_properties(0).total_memory)


def measure(dim: int) -> Speeds:
    """Scan, encode and multiply small made-up vectors of ``dim`` (even) dimensions. Raises DependencyMissing."""
    require_faiss()
    generator = np.random.default_rng(0)
    some = generator.standard_normal((1024, dim)).astype(np.float16) / np.float16(dim**0.5)  # [1024, D]
    query = generator.standard_normal((1, dim)).astype(np.float32)
    query /= np.linalg.norm(query)
    encode_row, codes_row, codes_row_far = _codes(some, query, dim)
    return Speeds(
        exact_row=_scan(faiss.ScalarQuantizer.QT_fp16, some.view(np.uint8), query),
        sq8_row=_scan(faiss.ScalarQuantizer.QT_8bit, some.view(np.uint8)[:, :dim].copy(), query),
        codes_row=codes_row,
        codes_row_far=codes_row_far,
        encode_row=encode_row,
        refine_row=_refine(some, query),
        float_flops=_product(dim, torch.float32),
        bfloat_flops=_product(dim, torch.bfloat16),
    )


def _scan(kind: int, codes: npt.NDArray[np.uint8], query: Scores) -> float:
    """Seconds a row, of these codes over and over."""
    dim = query.shape[1]
    index = faiss.IndexScalarQuantizer(dim, kind, faiss.METRIC_INNER_PRODUCT)
    index.train(np.array([[-1.0] * dim, [1.0] * dim], np.float32))
    _repeat(index, codes)
    return _fastest(lambda: index.search(query, 10)) / int(index.ntotal)


def _repeat(index: Any, codes: npt.NDArray[np.uint8]) -> None:
    """Fill an index to ``SCAN_BYTES``."""
    while index.ntotal * codes.shape[1] < SCAN_BYTES:
        index.add_sa_codes(codes)


def _codes(some: Half, query: Scores, dim: int) -> tuple[float, float, float]:
    """Seconds to encode a row with all cores, and to scan one with one thread, in a cache and beyond it."""
    codes = faiss.IndexPQ(dim, dim // 2, 4, faiss.METRIC_INNER_PRODUCT)
    codes.pq.cp.niter = 2
    codes.train(some.astype(np.float32))
    block = np.tile(some, (CODES_NEAR_ROWS // len(some), 1)).astype(np.float32)
    started = time.perf_counter()
    codes.add(block)
    encode = time.perf_counter() - started
    few = codes.sa_encode(block)  # [N, D / 4]
    near = _fastest(functools.partial(faiss.IndexPQFastScan(codes).search, query, 100))
    _repeat(codes, few)
    far = _fastest(functools.partial(faiss.IndexPQFastScan(codes).search, query, 100))
    return encode / len(block), near / len(block), far / int(codes.ntotal)


def _refine(some: Half, query: Scores) -> float:
    with tempfile.TemporaryDirectory(prefix="sightline-plan-") as folder:
        path = Path(folder) / "rows.npy"
        np.save(path, np.tile(some, (8, 1)))
        store = ShardFiles([path], some.shape[1])
        rows = np.random.default_rng(1).permutation(8192)[None, :256]  # [1, 256]
        return _fastest(lambda: score_rows(store, query, rows)) / rows.size


def _product(dim: int, dtype: torch.dtype) -> float:
    left, right = torch.ones(4096, dim, dtype=dtype), torch.ones(dim, 1024, dtype=dtype)
    return 2.0 * 4096 * 1024 * dim / _fastest(lambda: left @ right)


def _fastest(work: Callable[[], object]) -> float:
    """Seconds of the fastest of a few runs: what the machine can do when nothing else disturbs it."""
    times = []
    for _ in range(_REPEATS + 1):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return min(times[1:])
