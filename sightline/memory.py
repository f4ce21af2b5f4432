"""How much memory this process may still take, the machine's or the container's where that is less; and giving back."""

from __future__ import annotations

import contextlib
import ctypes
import gc
from pathlib import Path

_CGROUPS = (
    ("sys/fs/cgroup", "memory.max", "memory.current", "inactive_file"),
    ("sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)
"""The two versions of control groups: folder, limit, use, and the file cache in ``memory.stat`` that would give way."""


def available_bytes(root: Path = Path("/")) -> int | None:
    """Bytes that can be had without swapping or being killed; None where the system does not say."""
    found = (_of_machine(root), *(_of_cgroup(root, *names) for names in _CGROUPS))
    known = [value for value in found if value is not None]
    return max(0, min(known)) if known else None


def give_back() -> None:
    """Give pages that hold nothing any more back to the system; glibc keeps them else. Does nothing elsewhere.

    For a change between two parts of a long job, not for a hot path: it takes some milliseconds.
    """
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def _of_machine(root: Path) -> int | None:
    fields = _fields(root / "proc/meminfo")
    return fields["MemAvailable:"] * 1024 if "MemAvailable:" in fields else None


def _of_cgroup(root: Path, folder: str, limit_name: str, use_name: str, cache_name: str) -> int | None:
    limit, use = _number(root / folder / limit_name), _number(root / folder / use_name)
    if limit is None or use is None:
        return None
    return limit - use + _fields(root / folder / "memory.stat").get(cache_name, 0)


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text(encoding="ascii"))
    except (OSError, ValueError):  # not there, or "max"
        return None


def _fields(path: Path) -> dict[str, int]:
    try:
        lines = [line.split() for line in path.read_text(encoding="ascii").splitlines()]
    except (OSError, ValueError):
        return {}
    return {parts[0]: int(parts[1]) for parts in lines if len(parts) >= 2 and parts[1].isdigit()}
