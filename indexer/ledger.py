"""The count of everything that was seen: each input ends in exactly one place, with a reason if it is not indexed."""

from __future__ import annotations

import collections

from sightline.collection import Counts
from sightline.errors import TooManyFailures

_MIN_INPUTS_FOR_A_RATE = 100


class Ledger:
    """Counts outcomes; one thread."""

    def __init__(self) -> None:
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


def too_many_failures(counts: Counts, max_error_rate: float) -> TooManyFailures | None:
    """The error to end the run with, once what is good is safe; None when the share of failures is within bounds.

    ``max_error_rate`` is a share of pictures from 0 to 1.
    """
    seen, failed = counts.seen, counts.failed
    if failed <= max_error_rate * seen or (seen < _MIN_INPUTS_FOR_A_RATE and failed < seen):
        return None
    return TooManyFailures(
        f"{failed} of {seen} pictures could not be read (limit {max_error_rate:.0%}); the others are indexed. "
        "See ledger.jsonl in the generation for each reason, or raise --max-error-rate.",
        failed=failed,
        seen=seen,
    )
