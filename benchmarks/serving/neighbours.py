"""What else used the machine while something was measured: a neighbour on one of two cores halves a figure unseen."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Usage:
    """Cores that others kept busy on average, and cores that the hypervisor gave to other machines."""

    other_cores: float
    stolen_cores: float


class Neighbours:
    """From construction to ``usage``. ``group`` is the process group under test; this process and the children that it
    has waited for count as ours too."""

    def __init__(self, group: int | None = None) -> None:
        self._group = group
        self._begin = self._now()

    def usage(self) -> Usage:
        seconds, busy, stolen, ours = (now - then for now, then in zip(self._now(), self._begin, strict=True))
        return Usage(round(max(busy - ours, 0) / seconds, 3), round(stolen / seconds, 3))

    def _now(self) -> tuple[float, float, float, float]:
        busy, stolen = read_totals(Path("/proc/stat").read_text(encoding="ascii"))
        times = os.times()
        ours = times.user + times.system + times.children_user + times.children_system
        if self._group is not None:
            ours += sum(_group_ticks(self._group)) / _TICKS
        return time.perf_counter(), busy / _TICKS, stolen / _TICKS, ours


def read_totals(stat: str) -> tuple[int, int]:
    """Ticks of all cores at work, and stolen ones, from the text of ``/proc/stat``."""
    user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, stat.split("\n", 1)[0].split()[1:9])
    return user + nice + system + irq + softirq, steal


def group_and_ticks(stat: str) -> tuple[int, int]:
    """Process group, and ticks used by a process and its ended children, from the text of ``/proc/PID/stat``."""
    fields = stat.rpartition(")")[2].split()
    return int(fields[2]), sum(map(int, fields[11:15]))


def _group_ticks(group: int) -> Iterator[int]:
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            try:
                found, ticks = group_and_ticks((process / "stat").read_text(encoding="utf-8", errors="replace"))
            except (FileNotFoundError, ProcessLookupError):
                continue
            if found == group:
                yield ticks
