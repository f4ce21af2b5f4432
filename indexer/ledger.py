"""The count of everything that was seen: each input ends in exactly one place, with a reason if it is not indexed."""

from __future__ import annotations

import collections

from sightline.collection import Counts
from sightline.errors import TooManyFailures

_MIN_INPUTS_FOR_A_RATE = 100


class Ledger:
    """Counts outcomes; one thread. ``max_error_rate`` is a share of pictures from 0 to 1."""

    def __init__(self, max_error_rate: float) -> None:
        self.max_error_rate = max_error_rate
        self._outcomes: collections.Counter[str] = collections.Counter()
        self._reasons: collections.Counter[str] = collections.Counter()
        self._captions: collections.Counter[str] = collections.Counter()

    def indexed(self) -> None:
        """A picture is in."""
        self._outcomes["indexed"] += 1

    def rejected(self, outcome: str, reason: str) -> None:
        """A picture is not: ``outcome`` is duplicate, skipped or failed."""
        self._outcomes[outcome] += 1
        self._reasons[reason] += 1

    def captions(self, indexed: int, skipped: int, reason: str = "caption_empty") -> None:
        """Captions of one picture: how many are in and how many are not."""
        self._captions["indexed"] += indexed
        self._captions["skipped"] += skipped
        if skipped:
            self._reasons[reason] += skipped

    def counts(self) -> Counts:
        """What the manifest and the report say."""
        return Counts(
            seen=sum(self._outcomes.values()),
            indexed=self._outcomes["indexed"],
            duplicates=self._outcomes["duplicate"],
            skipped=self._outcomes["skipped"],
            failed=self._outcomes["failed"],
            captions_seen=sum(self._captions.values()),
            captions_indexed=self._captions["indexed"],
            captions_skipped=self._captions["skipped"],
            reasons=dict(sorted(self._reasons.items())),
        )

    def error_rate(self) -> float:
        """The share of pictures that failed, 0 to 1."""
        return self._outcomes["failed"] / max(sum(self._outcomes.values()), 1)

    def too_many_failures(self) -> TooManyFailures | None:
        """The error to end the run with, once what is good is safe; None when the share is within bounds."""
        seen, failed = sum(self._outcomes.values()), self._outcomes["failed"]
        if self.error_rate() <= self.max_error_rate or (seen < _MIN_INPUTS_FOR_A_RATE and failed < seen):
            return None
        return TooManyFailures(
            f"{failed} of {seen} pictures could not be read (limit {self.max_error_rate:.0%}); the others are indexed. "
            "See ledger.jsonl in the generation for each reason, or raise --max-error-rate.",
            failed=failed,
            seen=seen,
        )
