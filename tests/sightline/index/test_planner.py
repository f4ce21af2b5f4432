"""The planner's arithmetic, on machines that are made up."""

from __future__ import annotations

import pytest

from sightline.errors import MemoryShort
from sightline.index.calibration import Machine, Speeds, measure, this_machine
from sightline.index.planner import plan
from sightline.index.plans import PLANS

LAPTOP = Machine(memory_bytes=16 * 10**9, num_cores=2)
SPEEDS = Speeds(80e-9, 90e-9, 7e-9, 16e-9, 5e-6, 2e-6, 1e11, 1e12)
"""As measured on two cores of a Sapphire Rapids at 512 dimensions."""


@pytest.mark.parametrize("count", [1, 1_000, 100_000, 300_000])
def test_exact_as_long_as_it_is_fast_enough(count: int) -> None:
    decision = plan(count, 512, LAPTOP, SPEEDS)
    assert decision.chosen == "exact"
    assert decision.candidate("exact").latency_ms == pytest.approx(count * 80e-6, abs=0.3)


def test_a_million_takes_an_approximate_plan_and_says_why() -> None:
    decision = plan(1_000_000, 512, LAPTOP, SPEEDS)
    chosen = decision.candidate(decision.chosen)
    assert not chosen.exact
    assert "exact search would take about 80" in decision.reason
    assert chosen.latency_ms < 80.2 / 5
    assert chosen.memory_bytes < 0.6e9


def test_a_longer_target_keeps_it_exact() -> None:
    assert plan(1_000_000, 512, LAPTOP, SPEEDS, target_ms=100).chosen == "exact"


def test_every_plan_is_a_candidate_with_figures_and_a_reason() -> None:
    decision = plan(5_000_000, 768, LAPTOP, SPEEDS)
    assert {candidate.plan for candidate in decision.candidates} == set(PLANS)
    for candidate in decision.candidates:
        assert candidate.memory_bytes > 0 and candidate.latency_ms > 0 and candidate.why


def test_what_does_not_fit_is_not_chosen() -> None:
    small = Machine(memory_bytes=10**9, num_cores=2)
    decision = plan(10_000_000, 512, small, SPEEDS)
    assert decision.chosen == "ivf-disk"
    assert not decision.candidate("exact").fits
    assert "does not fit" in decision.reason
    assert decision.candidate("codes").why.startswith("needs 1.3 GB")


def test_nothing_fits() -> None:
    with pytest.raises(MemoryShort, match="more memory"):
        plan(10_000_000, 512, Machine(memory_bytes=1000, num_cores=2), SPEEDS)


def test_a_gpu_searches_exactly_until_its_memory_ends() -> None:
    server = Machine(memory_bytes=64 * 10**9, num_cores=16, gpu="H200", gpu_bytes=140 * 10**9)
    assert plan(10_000_000, 512, server, SPEEDS).chosen == "gpu-exact"
    assert plan(200_000_000, 512, server, SPEEDS).chosen != "gpu-exact"
    assert plan(10_000_000, 512, LAPTOP, SPEEDS).candidate("gpu-exact").why == "no GPU"


def test_an_odd_dimension_has_no_product_codes() -> None:
    decision = plan(1_000_000, 511, LAPTOP, SPEEDS)
    assert not decision.candidate("codes").fits
    assert "codes" not in decision.chosen


def test_this_machine_can_be_measured() -> None:
    speeds = measure(64)
    assert all(value > 0 for value in vars(speeds).values())
    assert this_machine(5).memory_bytes == 5
    assert this_machine().num_cores >= 1


def test_codes_beyond_the_caches_are_scanned_more_slowly() -> None:
    few, many = (plan(count, 512, LAPTOP, SPEEDS).candidate("codes").latency_ms / count for count in (100_000, 10**6))
    assert many > few
    assert plan(10**7, 512, LAPTOP, SPEEDS).candidate("codes").latency_ms > 10**7 * SPEEDS.codes_row_far * 1e3
