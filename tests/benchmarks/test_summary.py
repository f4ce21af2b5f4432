"""The generator's arithmetic: percentiles, goodput, refusals and failures."""

from __future__ import annotations

import pytest

from benchmarks.serving.summary import LOST, UNANSWERED, Sample, latency, percentile, summarise


def sample(due: float, took: float, status: int = 200, **more: object) -> Sample:
    given = {"sent": due, "retry_after": None, "num_bytes": 10, **more}
    return Sample(due=due, done=due + took, status=status, **given)  # type: ignore[arg-type]


def test_percentiles_are_nearest_ranks() -> None:
    values = [float(n) for n in range(1, 101)]
    assert [percentile(values, share) for share in (0.01, 0.5, 0.9, 0.99, 0.999, 1.0)] == [1, 50, 90, 99, 100, 100]
    assert percentile([7.0], 0.001) == 7
    assert percentile([1.0, 2.0, 3.0], 0.5) == 2


@pytest.mark.parametrize("share", [0.0, 1.01, -1.0])
def test_a_percentile_outside_of_its_range_is_refused(share: float) -> None:
    with pytest.raises(ValueError, match="share"):
        percentile([1.0], share)


def test_latency_of_nothing_is_nothing() -> None:
    assert latency([]).p99_ms is None
    assert latency([0.002, 0.001]).p50_ms == 1.0


def test_latency_runs_from_when_a_request_was_due() -> None:
    """A generator that falls behind must not hide it: the wait before sending belongs to the latency."""
    figures = summarise([sample(0.0, 3.0, sent=2.5)], 0.0, 10.0)
    assert figures["latency"]["p50_ms"] == 3000
    assert figures["generator_lag"]["p50_ms"] == 2500


def test_goodput_counts_answers_that_came_within_the_window() -> None:
    samples = [sample(-1.0, 1.5), sample(1.0, 1.0), sample(8.0, 1.0), sample(9.0, 5.0)]
    figures = summarise(samples, 0.0, 10.0)
    assert figures["goodput_per_second"] == 0.3  # the first was due before, but its answer came within
    assert figures["num_due"] == figures["num_ok"] == 3  # the last is late but good


def test_throughput_does_not_cut_through_a_batch() -> None:
    """32 answers every 3 s are 10.7 a second, wherever the window begins; the clock alone would say 9.1 to 12.2."""
    bursts = [sample(3.0 * n, 3.0 + m / 1000) for n in range(10) for m in range(32)]
    for start in (4.0, 5.0, 5.9):
        assert summarise(bursts, start, 10.5)["throughput_per_second"] == pytest.approx(32 / 3, rel=0.001)
    goodputs = {summarise(bursts, start, 10.5)["goodput_per_second"] for start in (4.0, 5.0, 5.9)}
    assert goodputs == {9.143, 12.19}


def test_a_server_that_stops_is_timed_by_the_clock() -> None:
    samples = [sample(float(n), 1.0) for n in range(5)] + [sample(5.0, 60.0, UNANSWERED)]
    assert summarise(samples, 2.0, 10.0)["throughput_per_second"] == pytest.approx(0.4)


def test_refusals_are_counted_apart_from_failures() -> None:
    samples = [
        sample(0.0, 0.1),
        sample(1.0, 0.01, 429, retry_after="1"),
        sample(2.0, 0.02, 429),
        sample(3.0, 0.1, 503),
        sample(4.0, 0.1, LOST),
        sample(5.0, 0.1, UNANSWERED),
        sample(6.0, 0.1, 422, healthy=False),
        sample(7.0, 0.1, 422),
    ]
    figures = summarise(samples, 0.0, 10.0)
    assert figures["statuses"] == {"200": 1, "422": 2, "429": 2, "503": 1, "lost": 1, "unanswered": 1}
    assert (figures["num_refused"], figures["num_refused_without_retry_after"]) == (2, 1)
    assert (figures["num_server_errors"], figures["num_lost"]) == (1, 2)
    assert figures["num_healthy_failed"] == 4  # 503, lost, unanswered and the healthy 422; refusals are honest
    assert (figures["num_damaged"], figures["damaged_statuses"]) == (1, {"422": 1})
    assert figures["refusal_latency"]["max_ms"] == pytest.approx(20)
