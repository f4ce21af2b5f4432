"""What is wrong with the data, said before the first step."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from sightline.errors import SourceError
from training.data.captioned import Captioned, caption_key, content_hashes

_NAMED = 3


@dataclass(frozen=True, slots=True)
class Findings:
    """What was found in data that can be trained on.

    ``rejected`` counts what was left out, by reason, and ``first_rejected`` names the first of each. ``duplicates``:
    groups of rows whose pictures are equal pixel for pixel. ``repeated_captions`` counts captions that another picture
    has too. ``leaked``: rows whose pictures are in the evaluation data; ``leaked_captions`` counts captions that are,
    word for word: with short captions that is no fault.
    """

    num_pictures: int
    num_captions: int
    rejected: dict[str, int] = field(default_factory=dict)
    first_rejected: dict[str, str] = field(default_factory=dict)
    duplicates: tuple[tuple[int, ...], ...] = ()
    repeated_captions: int = 0
    leaked: tuple[int, ...] = ()
    leaked_captions: int = 0
    names: tuple[str, ...] = ()

    @property
    def num_duplicates(self) -> int:
        """How many pictures are copies of an earlier one."""
        return sum(len(group) - 1 for group in self.duplicates)

    def sentences(self) -> list[str]:
        """What to tell the user, most serious first; nothing where nothing was found."""
        found: list[str] = []
        if self.leaked:
            found.append(
                f"{len(self.leaked):,} training pictures are in the evaluation data too (such as "
                f"{_some(self.leaked, self.names)}): its figures will be too good."
            )
        for reason, count in sorted(self.rejected.items()):
            what = "without a caption or with an empty one" if reason == "no_caption" else f"with {reason}"
            first = self.first_rejected.get(reason)
            found.append(f"{count:,} left out {what}{f', the first {first}' if first else ''}.")
        if self.duplicates:
            copies = " and ".join(_name(row, self.names) for row in self.duplicates[0][:2])
            found.append(
                f"{self.num_duplicates:,} pictures are copies of others in {len(self.duplicates):,} groups (such as "
                f"{copies}); no_duplicates in [data] keeps them out of one batch."
            )
        if self.repeated_captions:
            found.append(
                f"{self.repeated_captions:,} of {self.num_captions:,} captions belong to several pictures; "
                "no_duplicates or equal_captions_are_positives in [data] keeps them from being each other's negatives."
            )
        return found


def check(
    train: Captioned,
    evaluation: Captioned | None = None,
    *,
    batch_size: int | None = None,
    allow_leakage: bool = False,
) -> Findings:
    """Look for what makes training senseless or its figures false.

    ``evaluation`` must have been read with the same pixels. Raises SourceError for one caption on everything, a batch
    larger than the data, and, unless allowed, training pictures that are in the evaluation data.
    """
    if batch_size is not None and batch_size > len(train):
        raise SourceError(
            f"A batch of {batch_size:,} cannot be drawn from {len(train):,} pictures; "
            "lower batch_size in the recipe or give more data."
        )
    owners: dict[str, set[int]] = defaultdict(set)  # caption → the pictures that have it
    for row, several in enumerate(train.captions):
        for text in several:
            owners[caption_key(text)].add(row)
    if len(owners) == 1 and len(train) > 1:
        raise SourceError(
            f"All {len(train):,} pictures have the same caption ('{train.captions[0][0][:60]}'), so there is nothing "
            "to tell apart; give each picture a caption of its own."
        )
    groups: dict[bytes, list[int]] = defaultdict(list)
    for row, found in enumerate(content_hashes(train.pixels)):
        groups[found].append(row)
    leaked: tuple[int, ...] = ()
    leaked_captions = 0
    if evaluation is not None:
        if evaluation.pixels.shape[1:] != train.pixels.shape[1:]:
            raise ValueError("the evaluation data were read with other pixels")
        inside = set(content_hashes(evaluation.pixels))
        leaked = tuple(row for found, rows in groups.items() if found in inside for row in rows)
        known = {caption_key(text) for several in evaluation.captions for text in several}
        leaked_captions = sum(caption_key(text) in known for several in train.captions for text in several)
    if leaked and not allow_leakage:
        raise SourceError(
            f"{len(leaked):,} training pictures are in the evaluation data too (such as {_some(leaked, train.names)}); "
            "remove them from one of the two, or set allow_leakage = true in [data].",
            num_leaked=len(leaked),
        )
    return Findings(
        num_pictures=len(train),
        num_captions=sum(len(several) for several in train.captions),
        rejected=dict(train.rejected),
        first_rejected=dict(train.first_rejected),
        duplicates=tuple(tuple(rows) for rows in groups.values() if len(rows) > 1),
        repeated_captions=sum(len(rows) for rows in owners.values() if len(rows) > 1),
        leaked=tuple(sorted(leaked)),
        leaked_captions=leaked_captions,
        names=train.names,
    )


def _some(rows: Sequence[int], names: tuple[str, ...]) -> str:
    return ", ".join(_name(row, names) for row in sorted(rows)[:_NAMED])


def _name(row: int, names: tuple[str, ...]) -> str:
    return names[row] if names else f"picture {row + 1:,}"
