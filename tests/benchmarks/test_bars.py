"""Bars: met or missed, and the page that says so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks.serving.bars import Bar, Spread, ratios, spread, table
from benchmarks.serving.ceilings import roofline
from benchmarks.serving.overload import corrupt_bars, overload_bars
from benchmarks.serving.report import OURS, OURS_INT8, PEER, cpu_bars, gpu_bars, page
from benchmarks.serving.run import Results, loads_of
from benchmarks.serving.variants import Variant


def one(value: float) -> Spread:
    return Spread(value, value, value)


@pytest.mark.parametrize(
    ("measured", "direction", "met"),
    [(2.5, "at least", True), (2.49, "at least", False), (2.5, "at most", True), (2.51, "at most", False)],
)
def test_a_bar_is_met_on_its_bound_and_beyond(measured: float, direction: Any, met: bool) -> None:
    assert Bar("x", one(measured), 2.5, direction).met is met


def test_a_bar_says_by_how_much_it_is_missed() -> None:
    assert Bar("x", one(2.0), 2.5, "at least").verdict() == "missed by 20%"
    assert Bar("x", one(1.5), 1.0, "at most").verdict() == "missed by 50%"
    assert Bar("x", one(3), 0, "at most").verdict() == "missed"


def test_what_was_not_measured_is_not_met() -> None:
    bar = Bar("x", None, 0, "at most")
    assert not bar.met
    assert "not measured" in table([bar])


def test_ratios_are_taken_within_repetitions() -> None:
    """A machine that halves its speed in the second repetition changes neither ratio."""
    assert ratios([50, 25], [10, 5]) == Spread(5, 5, 5)
    assert ratios([50, None, 30], [10, 5, 0]) == Spread(5, 5, 5)
    assert ratios([], []) is None
    assert spread([3.0, 1.0, 2.0]) == Spread(2, 1, 3)


def test_roofline_shares_cores_on_a_cpu_and_not_on_a_gpu() -> None:
    assert roofline(2, 0.01, 0.04) == pytest.approx(40)
    assert roofline(2, 0.01, 0.04, "cuda") == pytest.approx(50)


def closed(rate: float, p50_ms: float = 10.0, others: float = 0.0) -> dict[str, Any]:
    latency = {"p50_ms": p50_ms, "p99_ms": 2 * p50_ms, "max_ms": 3 * p50_ms}
    return {
        "throughput_per_second": rate,
        "latency": latency,
        "num_due": 9,
        "num_ok": 9,
        "generator_cores": 0.01,
        "other_cores": others,
        "stolen_cores": 0.0,
    }


def results(rates: dict[str, float], others: float = 0.0) -> Results:
    figures = {
        name: {load.name: [closed(rate, others=others)] for load in loads_of(64)} for name, rate in rates.items()
    }
    ceiling = {
        "precision": "bf16", "decodes_per_second": 300.0, "encoder_images_per_second": 50.0,
        "roofline_images_per_second": 45.0, "encoder_texts_per_second": 200.0,
        "decode_one_seconds": 0.004, "encode_one_seconds": 0.006, "text_one_seconds": 0.0101,
        "other_cores": 0.0, "stolen_cores": 0.02,
    }  # fmt: skip
    return Results(figures, {name: [ceiling] for name in rates if name != PEER})


def verdicts(bars: list[Bar]) -> dict[str, bool]:
    return {bar.name: bar.met for bar in bars}


def test_bars_of_a_cpu() -> None:
    met = verdicts(cpu_bars(results({OURS: 40.0, OURS_INT8: 48.0, PEER: 14.0})))
    assert met == {
        "images/s against Infinity": True,
        "images/s against the roofline": True,
        "images/s against Infinity, int8": False,
        "images/s against the roofline, int8": True,
        "texts/s against Infinity": True,
        "p50 of one image client against decode + encode alone": True,
        "p50 of one text client against tokenize + encode alone": True,
    }


def test_without_the_peer_its_bars_are_not_met() -> None:
    met = verdicts(cpu_bars(results({OURS: 40.0})))
    assert not met["images/s against Infinity"]
    assert met["images/s against the roofline"]


def test_bars_of_a_gpu() -> None:
    measured = results({OURS: 2600.0})
    assert verdicts(gpu_bars(measured, "ViT-B-32")) == {
        "images/s end to end": True, "one text, p50": False, "one text, p99": False,
    }  # fmt: skip
    assert verdicts(gpu_bars(results({OURS: 39.0}), "ViT-L-14"))["images/s against the encoder alone"] is False


def test_the_page_says_when_the_machine_was_not_quiet() -> None:
    variants = [Variant(OURS, "sightline", Path("c"))]
    for others, disturbed in ((0.01, False), (0.8, True)):
        measured = results({OURS: 40.0}, others)
        text = page(measured, cpu_bars(measured), variants, "T", "M")
        assert ("Not a quiet machine" in text) is disturbed
        assert text.index("| bar |") < text.index("| load |")


def overload(**changes: Any) -> list[Bar]:
    over: dict[str, Any] = {
        "goodput_per_second": 38.0, "latency": {"p99_ms": 900.0}, "refusal_response": {"p99_ms": 5.0, "max_ms": 20.0},
        "num_refused_without_retry_after": 0, "num_server_errors": 0, "num_lost": 0, "num_healthy_failed": 0,
    }  # fmt: skip
    usual = {"latency": {"p99_ms": 500.0}}
    watched = {
        "rss_bytes": [2**30, 2**30 + 50 * 2**20],
        "probes": {"/livez": {"statuses": {"200": 300}, "latency": {"max_ms": 30.0}}},
    }
    return overload_bars(closed(40.0), usual, over | changes, closed(42.0), watched)


def test_bars_under_overload() -> None:
    assert all(bar.met for bar in overload())
    missed = {
        bar.name
        for bar in overload(num_server_errors=1, refusal_response={"p99_ms": 5.0, "max_ms": 60.0})
        if not bar.met
    }
    assert missed == {"slowest refusal, from when it was sent", "answers of 500 and above"}


def test_no_refusals_at_all_is_not_an_overload() -> None:
    missed = {bar.name for bar in overload(refusal_response={"p99_ms": None, "max_ms": None}) if not bar.met}
    assert missed == {"slowest refusal, from when it was sent", "p99 of refusals, from when they were sent"}


def test_bars_with_damaged_pictures() -> None:
    clean = [closed(40.0) | {"num_healthy_failed": 0, "num_damaged": 0, "damaged_statuses": {}}]
    damaged = [closed(39.0) | {"num_healthy_failed": 0, "num_damaged": 4, "damaged_statuses": {"422": 4}}]
    assert all(bar.met for bar in corrupt_bars(clean, damaged))
    worse = [damaged[0] | {"num_healthy_failed": 1, "damaged_statuses": {"422": 3, "500": 1}}]
    assert [bar.met for bar in corrupt_bars(clean, worse)] == [True, False, False]
