from __future__ import annotations

import numpy as np
import pytest

from sightline.errors import SourceError
from training.data import Batches

PIXELS = np.arange(22, dtype=np.uint8).reshape(22, 1, 1, 1).repeat(3, axis=3)  # [N, 1, 1, 3], the row is the colour
TOKENS = np.arange(44, dtype=np.int64).reshape(44, 1)  # [T, 1], two captions a picture


def epoch_of(group_size: int, epoch: int = 0) -> list[list[int]]:
    """The picture rows of each batch of an epoch."""
    batches = Batches(PIXELS, TOKENS, [2] * 22, batch_size=8, seed=1, group_size=group_size)
    steps = range(epoch * batches.steps_per_epoch, (epoch + 1) * batches.steps_per_epoch)
    return [batches.at(step).pixels[:, 0, 0, 0].tolist() for step in steps]


@pytest.mark.parametrize("group_size", [1, 4])
def test_an_epoch_shows_no_picture_twice_and_the_next_another_order(group_size: int) -> None:
    first, second = epoch_of(group_size), epoch_of(group_size, 1)
    assert [len(rows) for rows in first] == [8, 8]
    assert len({row for rows in first for row in rows}) == 16
    assert first != second
    assert first == epoch_of(group_size)


def test_a_group_comes_into_one_batch_together() -> None:
    for epoch in range(5):
        for rows in epoch_of(4, epoch):
            groups = {row // 4 for row in rows}
            assert len(groups) == 2
            assert sorted(rows) == sorted(4 * group + member for group in groups for member in range(4))


def test_captions_belong_to_their_pictures() -> None:
    batch = Batches(PIXELS, TOKENS, [2] * 22, batch_size=22, seed=0, group_size=4).at(3)
    assert (batch.tokens[:, 0] // 2).tolist() == batch.pixels[:, 0, 0, 0].tolist()


def test_a_batch_larger_than_the_data_is_refused() -> None:
    with pytest.raises(SourceError, match="lower batch_size"):
        Batches(PIXELS, TOKENS, [2] * 22, batch_size=23, seed=0)
