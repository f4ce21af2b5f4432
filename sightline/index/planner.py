"""Which index, before anything is built: memory, build time, latency and why, from the count and the machine's speed.

Exact search until it misses the target, because there is nothing to tune and nothing to lose; then the fastest plan
that fits. The share of rows that a plan must look at to reach recall@10 of 0.95 on text queries is an estimate from
``benchmarks.search``; building measures it on the collection's own captions.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from sightline.errors import MemoryShort
from sightline.index.calibration import CODES_NEAR_ROWS, SCAN_BYTES, Machine, Speeds
from sightline.index.plans import (
    CODES_SAMPLE,
    HNSW_LINKS,
    PLANS,
    SAMPLE_PER_LIST,
    Plan,
    num_lists,
)

TARGET_MS = 25.0
"""A search box feels immediate below 100 ms, of which the encoder and the answer take most on a CPU."""

_PROBED_SHARE = 0.3
_EF_SEARCH = 1024
_ROUNDS = 8
_ASSIGNMENT = 2.0
"""FAISS finds each row's list at about half the speed of the matrix product in it."""
_OVERHEAD = 2e-4
_ROW_BYTES_OF_ID = 8
_DISK_BYTES_PER_SECOND = 5e8
_GPU_BYTES_PER_SECOND = 1e12
_MAX_MEMORY_SHARE = 0.8


@dataclass(frozen=True)
class Candidate:
    """One plan for one collection. ``latency_ms`` is that of a single query with warm caches and one thread."""

    plan: str
    memory_bytes: int
    disk_bytes: int
    build_seconds: float
    latency_ms: float
    exact: bool
    fits: bool
    why: str

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Decision:
    """All candidates, and the name of the one to build with the reason in a sentence."""

    candidates: tuple[Candidate, ...]
    chosen: str
    reason: str

    def candidate(self, name: str) -> Candidate:
        return next(c for c in self.candidates if c.plan == name)


@dataclass(frozen=True)
class _Estimate:
    memory_bytes: float
    disk_bytes: float
    build_seconds: float
    latency_seconds: float


def plan(count: int, dim: int, machine: Machine, speeds: Speeds, target_ms: float = TARGET_MS) -> Decision:
    """Compare the plans for ``count`` vectors of ``dim`` dimensions. Raises MemoryShort where none fits.

    The vectors themselves (2 bytes a dimension) are on disk in every case; exact plans hold them in memory as well.
    """
    candidates = tuple(
        _candidate(PLANS[name], estimate, count, dim, machine, speeds) for name, estimate in _PLANS.items()
    )
    usable = [c for c in candidates if c.fits]
    if not usable:
        raise MemoryShort(
            f"No plan for {count:,} vectors of {dim} dimensions fits into {machine.memory_bytes / 1e9:.1f} GB; "
            "give the machine more memory or split the collection."
        )
    exact = [c for c in usable if c.exact and c.latency_ms <= target_ms]
    if exact:
        best = min(exact, key=lambda c: c.latency_ms)
        reason = f"exact search takes about {best.latency_ms:.3g} ms, within the target of {target_ms:g} ms"
        return Decision(candidates, best.plan, reason)
    best = min(usable, key=lambda c: c.latency_ms)
    slow = next(c for c in candidates if c.plan == "exact")
    missed = f"would take about {slow.latency_ms:.3g} ms" if slow.fits else "does not fit into memory"
    reason = f"exact search {missed}; of what fits, {best.plan} is expected to be fastest, {best.latency_ms:.3g} ms"
    return Decision(candidates, best.plan, reason)


def num_candidates(count: int) -> int:
    """How many stored rows ``codes`` is expected to score again: about 200 for a million vectors."""
    return round(max(50.0, 200.0 * math.pow(count / 1e6, 0.4)))


def _candidate(kind: Plan, estimate: _Estimator, count: int, dim: int, machine: Machine, speeds: Speeds) -> Candidate:
    values = estimate(count, dim, machine, speeds)
    fits, why = True, kind.text
    room = (machine.gpu_bytes if kind.needs_gpu else machine.memory_bytes) * _MAX_MEMORY_SHARE
    if kind.needs_gpu and not machine.gpu_bytes:
        fits, why = False, "no GPU"
    elif values.memory_bytes > room:
        fits, why = False, f"needs {values.memory_bytes / 1e9:.2g} GB of {room / 1e9:.2g} GB"
    elif count < kind.min_rows:
        fits, why = False, f"needs {kind.min_rows:,} vectors to train on"
    elif "codes" in kind.name and dim % 2:
        fits, why = False, "needs an even number of dimensions"
    return Candidate(
        kind.name,
        round(values.memory_bytes),
        round(values.disk_bytes),
        round(values.build_seconds, 1),
        round(values.latency_seconds * 1e3, 3),
        kind.exact,
        fits,
        why,
    )


_Estimator = Callable[[int, int, Machine, Speeds], _Estimate]


def _exact(count: int, dim: int, machine: Machine, speeds: Speeds) -> _Estimate:
    return _Estimate(2.0 * count * dim, 0, 0, count * speeds.exact_row + _OVERHEAD)


def _lists_build(count: int, dim: int, speeds: Speeds) -> float:
    lists = num_lists(count)
    sample = min(SAMPLE_PER_LIST * lists, count)
    return 2.0 * dim * lists * (_ROUNDS * sample / speeds.bfloat_flops + _ASSIGNMENT * count / speeds.float_flops)


def _lists_bytes(count: int, dim: int, code_bytes: float) -> float:
    return count * (code_bytes + _ROW_BYTES_OF_ID) + 4.0 * num_lists(count) * dim


def _ivf_sq8(count: int, dim: int, machine: Machine, speeds: Speeds) -> _Estimate:
    memory = _lists_bytes(count, dim, dim)
    seconds = _PROBED_SHARE * count * speeds.sq8_row + PLANS["ivf-sq8"].refine * speeds.refine_row
    seconds += num_lists(count) * 2 * speeds.exact_row + _OVERHEAD
    return _Estimate(memory, memory, _lists_build(count, dim, speeds) + count * speeds.sq8_row * 8, seconds)


def _ivf_codes(count: int, dim: int, machine: Machine, speeds: Speeds) -> _Estimate:
    memory = _lists_bytes(count, dim, dim / 4)
    seconds = _PROBED_SHARE * count * _codes_row(count, dim, speeds) + PLANS["ivf-codes"].refine * speeds.refine_row
    seconds += num_lists(count) * 2 * speeds.exact_row + _OVERHEAD
    return _Estimate(memory, memory, _lists_build(count, dim, speeds) + _encode(count, speeds), seconds)


def _ivf_disk(count: int, dim: int, machine: Machine, speeds: Speeds) -> _Estimate:
    on_disk = _lists_bytes(count, dim, dim)
    inside = _ivf_sq8(count, dim, machine, speeds)
    cached = min(1.0, machine.memory_bytes / on_disk) if on_disk else 1.0
    missing = (1 - cached) * _PROBED_SHARE * on_disk / _DISK_BYTES_PER_SECOND
    return _Estimate(8.0 * num_lists(count) * dim, on_disk, inside.build_seconds, inside.latency_seconds + missing)


def _codes(count: int, dim: int, machine: Machine, speeds: Speeds) -> _Estimate:
    memory = count * dim / 4
    seconds = count * _codes_row(count, dim, speeds) + num_candidates(count) * speeds.refine_row + _OVERHEAD
    return _Estimate(memory, memory, _encode(count, speeds), seconds)


def _codes_row(count: int, dim: int, speeds: Speeds) -> float:
    """Seconds to scan a row's code: between the two that were measured by the logarithm of the size."""
    near, far = math.log(CODES_NEAR_ROWS * dim / 4), math.log(SCAN_BYTES)
    share = min(max((math.log(max(count, 1) * dim / 4) - near) / (far - near), 0.0), 1.0)
    return speeds.codes_row + share * (speeds.codes_row_far - speeds.codes_row)


def _encode(count: int, speeds: Speeds) -> float:
    return (count + 12 * CODES_SAMPLE) * speeds.encode_row  # 25 rounds of k-means took as long as 12 encodings


def _hnsw(count: int, dim: int, machine: Machine, speeds: Speeds) -> _Estimate:
    """A query looks at about ef × links rows; at random, which costs about twice the row's time in a scan."""
    memory = count * (dim + 4.0 * 2 * HNSW_LINKS + 16)
    look = 2 * speeds.sq8_row
    spread = math.log2(max(count, 2)) / math.log2(1e6)
    seconds = _EF_SEARCH * spread * HNSW_LINKS * look + PLANS["hnsw"].refine * speeds.refine_row
    build = count * 40 * 2 * HNSW_LINKS * spread * look / machine.num_cores * 2
    return _Estimate(memory, memory, build, seconds + _OVERHEAD)


def _gpu_exact(count: int, dim: int, machine: Machine, speeds: Speeds) -> _Estimate:
    size = 2.0 * count * dim
    return _Estimate(size, 0, 0, size / _GPU_BYTES_PER_SECOND + 5 * _OVERHEAD)


def _gpu_ivf(count: int, dim: int, machine: Machine, speeds: Speeds) -> _Estimate:
    inside = _ivf_sq8(count, dim, machine, speeds)
    seconds = _PROBED_SHARE * inside.memory_bytes / _GPU_BYTES_PER_SECOND
    seconds += PLANS["gpu-ivf"].refine * speeds.refine_row + 5 * _OVERHEAD
    return _Estimate(inside.memory_bytes, inside.disk_bytes, inside.build_seconds, seconds)


_PLANS: dict[str, _Estimator] = {
    "exact": _exact,
    "ivf-sq8": _ivf_sq8,
    "hnsw": _hnsw,
    "codes": _codes,
    "ivf-codes": _ivf_codes,
    "ivf-disk": _ivf_disk,
    "gpu-exact": _gpu_exact,
    "gpu-ivf": _gpu_ivf,
}
