"""Who else used the machine."""

from __future__ import annotations

import os

import pytest

from benchmarks.serving.neighbours import Neighbours, Usage, group_and_ticks, read_totals


def test_the_kernels_counters_are_read() -> None:
    assert read_totals("cpu  100 20 30 4000 50 6 7 8 0 0\ncpu0 1 2") == (163, 8)
    assert group_and_ticks("42 (a (b) c) S 1 77 77 0 -1 4194304 5 0 0 0 10 20 3 4 20 0 1 0 99") == (77, 37)


def test_usage_is_what_is_left_after_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seconds, busy, stolen, ours: 2 s in which 3 core-seconds were used, 2.2 of them by us, and 0.1 stolen."""
    readings = iter([(10.0, 50.0, 1.0, 20.0), (12.0, 53.0, 1.1, 22.2)])
    monkeypatch.setattr(Neighbours, "_now", lambda _: next(readings))
    assert Neighbours().usage() == Usage(other_cores=0.4, stolen_cores=0.05)


def test_this_machine_can_be_watched() -> None:
    usage = Neighbours(group=os.getpgid(0)).usage()
    assert usage.other_cores >= 0
    assert usage.stolen_cores >= 0
