"""From single answers to figures: percentiles, goodput, refusals."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

LOST, UNANSWERED = 0, -1
"""Statuses of requests that got none: the connection broke, or the run ended first."""

REFUSAL = 429


@dataclass(frozen=True)
class Sample:
    """One request. Times in seconds of one monotonic clock; ``due`` is when it should have been sent (closed loop: was
    sent), so that a generator or a server that falls behind cannot hide it."""

    due: float
    sent: float
    done: float
    status: int
    retry_after: str | None
    num_bytes: int
    healthy: bool = True


@dataclass(frozen=True)
class Latency:
    """Milliseconds; None where there was nothing to measure."""

    num: int
    p50_ms: float | None
    p90_ms: float | None
    p99_ms: float | None
    p999_ms: float | None
    max_ms: float | None


def percentile(ordered: Sequence[float], share: float) -> float:
    """Nearest rank: the smallest value that at least ``share`` (0 to 1] of the values do not exceed. Sorted input."""
    if not ordered or not 0 < share <= 1:
        raise ValueError("a percentile needs values, and a share above 0 up to 1")
    return ordered[max(math.ceil(share * len(ordered) - 1e-9), 1) - 1]


def latency(seconds: Sequence[float]) -> Latency:
    ordered = sorted(seconds)
    if not ordered:
        return Latency(0, None, None, None, None, None)
    points = [percentile(ordered, share) for share in (0.5, 0.9, 0.99, 0.999, 1.0)]
    return Latency(len(ordered), *(round(1000 * point, 3) for point in points))


def throughput(samples: Sequence[Sample], start: float, end: float) -> float:
    """2xx answers a second from the last answer before the window to the last one within it.

    Servers answer in bursts of a batch. Counting by the clock alone cuts through a burst: batches of 32 that take 3 s
    give anything from 8 to 13 a second in 12 s. From burst to burst the figure is exact. Where something got no answer,
    a server may have stopped early, and the clock counts.
    """
    good = sorted(sample.done for sample in samples if 200 <= sample.status < 300 and sample.done < end)
    before = [done for done in good if done < start]
    within = good[len(before) :]
    lost = any(sample.status in (LOST, UNANSWERED) for sample in samples)
    if lost or not before or not within:
        return len(within) / (end - start)
    return len(within) / (within[-1] - before[-1])


def summarise(samples: Sequence[Sample], start: float, seconds: float) -> dict[str, Any]:
    """Figures of the requests that were due within the window, and goodput of the answers that came within it.

    ``goodput_per_second`` counts 2xx answers by when they came, so a queue left over at the end earns nothing;
    ``throughput_per_second`` is the same without the error of cutting through a batch.
    """
    end = start + seconds
    due = [sample for sample in samples if start <= sample.due < end]
    good = [sample for sample in due if 200 <= sample.status < 300]
    refused = [sample for sample in due if sample.status == REFUSAL]
    came = [sample for sample in samples if 200 <= sample.status < 300 and start <= sample.done < end]
    damaged = [sample for sample in due if not sample.healthy]
    return {
        "seconds": seconds,
        "num_due": len(due),
        "goodput_per_second": round(len(came) / seconds, 3),
        "throughput_per_second": round(throughput(samples, start, end), 3),
        "statuses": dict(sorted(Counter(_name(sample.status) for sample in due).items())),
        "num_ok": len(good),
        "num_refused": len(refused),
        "num_refused_without_retry_after": sum(sample.retry_after is None for sample in refused),
        "num_server_errors": sum(sample.status >= 500 for sample in due),
        "num_lost": sum(sample.status in (LOST, UNANSWERED) for sample in due),
        "num_healthy_failed": sum(sample.healthy and not _answered(sample.status) for sample in due),
        "num_damaged": len(damaged),
        "damaged_statuses": dict(sorted(Counter(_name(sample.status) for sample in damaged).items())),
        "latency": asdict(latency([sample.done - sample.due for sample in good])),
        "refusal_latency": asdict(latency([sample.done - sample.due for sample in refused])),
        "refusal_response": asdict(latency([sample.done - sample.sent for sample in refused])),
        "generator_lag": asdict(latency([sample.sent - sample.due for sample in due])),
        "received_bytes": sum(sample.num_bytes for sample in due),
    }


def _answered(status: int) -> bool:
    """A vector or an honest refusal: nothing that a client would call a failure."""
    return 200 <= status < 300 or status == REFUSAL


def _name(status: int) -> str:
    return {LOST: "lost", UNANSWERED: "unanswered"}.get(status, str(status))
