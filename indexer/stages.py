"""Where the time of a run went, and which stage bounds it."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass

STAGES = ("read", "decode", "encode_images", "encode_texts", "write")


@dataclass(frozen=True)
class StageTimes:
    """Seconds that each stage worked, all of its threads together; ``total`` is the wall clock's.

    ``wait`` is how long no batch could be formed for want of pictures. ``publish`` comes after
    the stages, not beside them.
    """

    total: float
    read: float
    decode: float
    encode_images: float
    encode_texts: float
    write: float
    wait: float
    publish: float
    num_decode_threads: int
    num_encoders: int

    @property
    def bound_by(self) -> str:
        """The stage that was busy for the largest share of the time: making another one faster gains nothing."""
        shares = {
            "read": self.read,
            "decode": self.decode / max(self.num_decode_threads, 1),
            "encode": (self.encode_images + self.encode_texts) / max(self.num_encoders, 1),
            "write": self.write,
        }
        return max(shares, key=lambda stage: shares[stage])

    def as_dict(self) -> dict[str, float]:
        """For reports, rounded to hundredths."""
        names = ("total", *STAGES, "wait", "publish")
        return {name: round(getattr(self, name), 2) for name in names}


class StageClock:
    """Adds up the working seconds of the stages; thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._seconds: dict[str, float] = {}
        self._started = time.monotonic()

    def add(self, stage: str, seconds: float) -> None:
        """A stage has worked for so long."""
        with self._lock:
            self._seconds[stage] = self._seconds.get(stage, 0.0) + seconds

    @contextlib.contextmanager
    def measure(self, stage: str) -> Iterator[None]:
        """The block is work of this stage."""
        started = time.monotonic()
        try:
            yield
        finally:
            self.add(stage, time.monotonic() - started)

    def times(self, num_decode_threads: int, num_encoders: int) -> StageTimes:
        """What has been measured so far."""
        with self._lock:
            seconds = {name: self._seconds.get(name, 0.0) for name in (*STAGES, "wait", "publish")}
        return StageTimes(
            total=time.monotonic() - self._started,
            num_decode_threads=num_decode_threads,
            num_encoders=num_encoders,
            **seconds,
        )
