"""What one request carries through the service: its id, its deadline and the time its stages took."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from sightline.errors import DeadlineExceeded, InputError

StageObserver = Callable[[str, float], None]
"""Called with a stage's name and its duration in seconds."""


@dataclass
class RequestContext:
    """Lives as long as its request; used by that request's task alone.

    ``deadline`` is on the clock of ``time.monotonic``, in seconds; a request that turns out to be bulk work and named
    no deadline of its own gets until ``bulk_deadline``. ``admitted``: part of its work has been in the queue already.
    ``stages`` holds seconds for each stage passed, ``cache_outcomes`` how the request's inputs were met: hit, shared or
    miss.
    """

    request_id: str
    deadline: float
    bulk_deadline: float
    observe: StageObserver
    count_bytes: Callable[[int], None] = lambda _: None
    """Counts bytes that are fetched for this request against the limits of bodies; raises what those raise."""
    reached_queue: Callable[[], None] = lambda: None
    """To be called when the request's work is admitted; the door counts it until then."""
    admitted: bool = False
    stages: dict[str, float] = field(default_factory=dict)
    intervals: list[tuple[str, float, float]] = field(default_factory=list)
    """Each stage as it was passed: name, begin and end on the clock of ``time.perf_counter``."""
    started: float = field(default_factory=time.perf_counter)
    started_ns: int = field(default_factory=time.time_ns)
    traceparent: tuple[str, str, int] | None = None
    """The caller's trace id, span id and flags."""
    trace_id: str | None = None
    key_name: str | None = None
    error_code: str | None = None
    num_bytes_in: int = 0
    cache_outcomes: set[str] = field(default_factory=set)

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Measure a stage, for the metrics and the ``Server-Timing`` header."""
        started = time.perf_counter()
        try:
            yield
        finally:
            ended = time.perf_counter()
            seconds = ended - started
            self.intervals.append((name, started, ended))
            self.stages[name] = self.stages.get(name, 0.0) + seconds
            self.observe(name, seconds)

    def wall_ns(self, moment: float) -> int:
        """A moment of ``time.perf_counter`` as nanoseconds since 1970."""
        return self.started_ns + int((moment - self.started) * 1e9)

    def allow_more(self, seconds: float) -> None:
        """Move both deadlines."""
        self.deadline += seconds
        self.bulk_deadline += seconds

    def check_deadline(self) -> None:
        """Raise DeadlineExceeded when the caller's time is over."""
        if time.monotonic() >= self.deadline:
            raise deadline_exceeded()


@contextlib.contextmanager
def naming_input(position: int, num_inputs: int) -> Iterator[None]:
    """Say in an input's error which of several inputs it is about: ``input`` counts from 0."""
    try:
        yield
    except InputError as error:
        if num_inputs > 1:
            error.details["input"] = position
        raise


def deadline_exceeded() -> DeadlineExceeded:
    return DeadlineExceeded(
        "The answer was not ready before the request's deadline; try again later or allow more time "
        "with X-Request-Timeout-Ms."
    )
