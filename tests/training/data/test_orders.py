from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from training.data.orders import balanced, cut, cut_apart, neighbours_together, shuffled


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@given(st.integers(1, 60), st.integers(1, 7), st.integers(0, 1000))
@settings(max_examples=60, deadline=None)
def test_a_shuffle_has_every_row_once_and_keeps_groups(num_rows: int, group_size: int, seed: int) -> None:
    order = shuffled(num_rows, group_size, rng(seed)).tolist()
    assert sorted(order) == list(range(num_rows))
    whole = num_rows // group_size * group_size
    for start in range(0, whole, group_size):
        assert order[start : start + group_size] == list(range(order[start], order[start] + group_size))


@given(st.lists(st.integers(0, 5), min_size=1, max_size=80), st.integers(0, 1000))
@settings(max_examples=60, deadline=None)
def test_balanced_classes_differ_by_one_at_most(labels: list[int], seed: int) -> None:
    numbers = np.unique(np.array(labels), return_inverse=True)[1]
    order = balanced(numbers, rng(seed))
    assert len(order) == len(labels)
    counts = Counter(numbers[order].tolist())
    assert max(counts.values()) - min(counts.get(label, 0) for label in set(numbers.tolist())) <= 1


def test_a_class_shows_all_its_rows_before_any_again() -> None:
    labels = np.array([0] * 10 + [1] * 3)
    shown = [row for row in balanced(labels, rng()).tolist() if row >= 10]
    assert sorted(shown[:3]) == sorted(shown[3:6]) == [10, 11, 12]


@given(st.integers(4, 60), st.integers(2, 5), st.integers(0, 1000))
@settings(max_examples=60, deadline=None)
def test_gathering_neighbours_shows_every_row_once(num_rows: int, group_size: int, seed: int) -> None:
    table = rng(seed).integers(-1, num_rows, (num_rows, 3))
    batch_size = max(group_size, num_rows // 3)
    order = neighbours_together(table, group_size, batch_size, rng(seed)).tolist()
    assert sorted(order) == list(range(num_rows))


def test_pairs_of_neighbours_are_side_by_side() -> None:
    table = np.array([[row ^ 1] for row in range(12)])
    for seed in range(10):
        for batch in cut(neighbours_together(table, 2, 4, rng(seed)), 4).tolist():
            assert sorted(batch) == sorted(row ^ 1 for row in batch)


def test_the_short_rest_is_left_out() -> None:
    assert cut(np.arange(11), 4).tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]


keys_of_rows = st.lists(st.sets(st.integers(0, 8), max_size=2), min_size=4, max_size=60)


@given(keys_of_rows, st.integers(1, 6), st.integers(0, 1000))
@settings(max_examples=200, deadline=None)
def test_no_two_of_a_batch_share_a_key_and_no_batch_is_short(several: list[set[int]], size: int, seed: int) -> None:
    keys = [tuple(sorted(one)) for one in several]
    batch_size = min(size, len(keys))
    order = shuffled(len(keys), 1, rng(seed))
    batches = cut_apart(order, keys, batch_size)
    if batches is None:
        return
    assert batches.shape == (len(keys) // batch_size, batch_size)
    for batch in batches.tolist():
        assert len(set(batch)) == batch_size
        taken = [key for row in batch for key in keys[row]]
        assert len(taken) == len(set(taken))
    assert batches.max() < len(keys)


def test_without_conflicts_the_order_is_kept() -> None:
    order = shuffled(23, 1, rng(4))
    found = cut_apart(order, [()] * 23, 5)
    assert found is not None and found.tolist() == cut(order, 5).tolist()


def test_rows_that_must_wait_come_later_and_all_come() -> None:
    keys: list[tuple[int, ...]] = [(row // 4,) for row in range(40)]  # ten families of four
    found = cut_apart(shuffled(40, 4, rng(1)), keys, 10)  # families lie side by side: as bad as it gets
    assert found is not None
    assert sorted(found.ravel().tolist()) == list(range(40))


def test_what_cannot_be_done_is_said() -> None:
    assert cut_apart(np.arange(10), [(0,)] * 10, 2) is None
    one_each = cut_apart(np.arange(10), [(0,)] * 10, 1)
    assert one_each is not None and one_each.shape == (10, 1)


@pytest.mark.parametrize("num_rows", [50_000])
def test_one_caption_on_most_pictures_does_not_take_for_ever(num_rows: int) -> None:
    keys: list[tuple[int, ...]] = [(row % 100,) for row in range(num_rows)]  # a hundred captions in all
    found = cut_apart(shuffled(num_rows, 1, rng()), keys, 64)
    assert found is not None and found.shape == (num_rows // 64, 64)
