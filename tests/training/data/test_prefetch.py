from __future__ import annotations

import threading

import numpy as np
import pytest

from training.batch import Batch
from training.data import Batches, Prefetched

PIXELS = np.zeros((12, 2, 2, 3), np.uint8)
TOKENS = np.arange(12, dtype=np.int64).reshape(12, 1)


def test_the_same_batches_in_any_order() -> None:
    plain = Batches(PIXELS, TOKENS, [1] * 12, batch_size=4, seed=0)
    with Prefetched(Batches(PIXELS, TOKENS, [1] * 12, batch_size=4, seed=0)) as ahead:
        assert ahead.steps_per_epoch == 3
        for step in (0, 1, 2, 3, 7, 8, 2):
            assert np.array_equal(ahead.at(step).tokens, plain.at(step).tokens)


class Source:
    steps_per_epoch = 5

    def __init__(self) -> None:
        self.made: list[int] = []
        self.threads: set[int] = set()
        self.second = threading.Event()

    def at(self, step: int) -> Batch:
        if step == 3:
            raise ValueError("no third")
        self.made.append(step)
        self.threads.add(threading.get_ident())
        if step == 1:
            self.second.set()
        return Batch(step, 0, TOKENS[:, 0], PIXELS, None, TOKENS)


def test_the_next_one_is_made_meanwhile_by_one_other_thread() -> None:
    source = Source()
    with Prefetched(source) as ahead:
        assert ahead.at(0).step == 0
        assert source.second.wait(10)  # nobody asked for it yet
        ahead.at(1)
        ahead.at(2)
        with pytest.raises(ValueError, match="no third"):
            ahead.at(3)
    assert source.made.count(1) == 1
    assert len(source.threads) == 1 and threading.get_ident() not in source.threads
