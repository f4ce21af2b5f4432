"""Batches without duplicates, and batches in which classes are balanced."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from sightline.errors import SourceError
from tests.training.data.samples import Words, captioned, made, texts_of
from training.data import Batches


def test_no_two_equal_captions_or_pictures_in_a_batch() -> None:
    rng = np.random.default_rng(2)
    captions = [[f"caption {rng.integers(12)}", f"other {rng.integers(12)}"] for _ in range(60)]
    pixels = np.tile(rng.integers(0, 40, (60, 1, 1, 1), np.uint8), (1, 2, 2, 3))
    data = captioned(captions, pixels=pixels)
    plain, apart = made(data, batch_size=8), made(data, batch_size=8, no_duplicates=True)

    def repeats(batches: Batches, words: Words) -> int:
        found = 0
        for step in range(30):
            batch = batches.at(step)
            texts = texts_of(batch, words)
            assert batch.pixels is not None and len(texts) == 8 and len(set(batch.rows.tolist())) == 8
            found += 8 - len(set(texts)) + 8 - len({one.tobytes() for one in batch.pixels})
        return found

    assert repeats(*plain) > 30
    assert repeats(*apart) == 0


def test_batches_without_duplicates_that_cannot_be_are_refused() -> None:
    with pytest.raises(SourceError, match="No batch of 3 pictures with different contents and captions"):
        made(captioned([["a"], ["a"], ["b"], ["b"]]), batch_size=3, no_duplicates=True)


def test_an_epoch_that_cannot_be_planned_takes_the_captions_of_the_first() -> None:
    # Only where picture 0 says "x" and picture 1 says "y" can both come into one batch.
    data = captioned([["x", "y"], ["x", "y"]])
    num_planned = 0
    for seed in range(30):
        try:
            batches, words = made(data, batch_size=2, seed=seed, no_duplicates=True)
        except SourceError:
            continue
        num_planned += 1
        for step in range(20):
            assert sorted(texts_of(batches.at(step), words)) == ["x", "y"]
    assert num_planned


def test_classes_are_balanced_and_batches_full() -> None:
    metadata: list[dict[str, Any]] = [{"label": "many"}] * 50 + [{"label": "few"}] * 5 + [{"label": 3}] * 2 + [{}]
    data = captioned([[f"caption {row}"] for row in range(58)], metadata=metadata)
    batches, _ = made(data, batch_size=8, balance_by="label")
    counts = dict.fromkeys(("many", "few", "3", "None"), 0)
    for step in range(3 * batches.steps_per_epoch):
        rows = batches.at(step).rows.tolist()
        assert len(set(rows)) == 8
        for row in rows:
            counts[str(metadata[row].get("label"))] += 1
    total = sum(counts.values())
    assert counts["few"] / total > 0.2 and counts["3"] / total > 0.15  # 5 and 2 of 58 pictures


def test_more_classes_than_a_batch_has_rows_still_give_full_batches() -> None:
    data = captioned([[f"caption {row}"] for row in range(20)], metadata=[{"label": row} for row in range(20)])
    batches, _ = made(data, batch_size=4, balance_by="label")
    assert all(len(set(batches.at(step).rows.tolist())) == 4 for step in range(10))


def test_nothing_to_balance_by_is_said() -> None:
    data = captioned([["a"], ["b"]], metadata=[{"kind": 1}, {}])
    with pytest.raises(SourceError, match="No picture has the metadata 'label' to balance by; the data have kind"):
        made(data, batch_size=2, balance_by="label")
