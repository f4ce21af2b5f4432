"""In which order an epoch shows its pictures: shuffled in groups, balanced by class, or hard neighbours together.

Each function draws from the generator it is given and from nothing else, and returns rows int64.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from itertools import cycle

import numpy as np
import numpy.typing as npt

Rows = npt.NDArray[np.int64]


def shuffled(num_rows: int, group_size: int, rng: np.random.Generator) -> Rows:
    """Every row once, int64 [N]: groups of ``group_size`` consecutive rows in random order, the rest at the end."""
    groups = rng.permutation(num_rows // group_size)  # [G]
    whole = (groups[:, None] * group_size + np.arange(group_size)).ravel()  # [G * group]
    return np.concatenate([whole, np.arange(len(whole), num_rows)])  # [N]


def balanced(labels: Rows, rng: np.random.Generator) -> Rows:
    """As many rows as there are, int64 [N], every class as often as any other: each round takes one row of each class.

    ``labels`` int64 [N] numbers the classes from 0. A class that is used up starts again in another order: rows of
    large classes may be missing from an epoch, rows of small ones come several times, and there may be more classes
    than a batch has rows.
    """
    members = [np.flatnonzero(labels == label) for label in range(int(labels.max()) + 1)]
    waiting: list[list[int]] = [[] for _ in members]
    order: list[int] = []
    while len(order) < len(labels):
        for label in rng.permutation(len(members)).tolist():
            if not waiting[label]:
                waiting[label] = rng.permutation(members[label]).tolist()
            order.append(waiting[label].pop())
    return np.array(order[: len(labels)], np.int64)


def neighbours_together(neighbours: Rows, group_size: int, batch_size: int, rng: np.random.Generator) -> Rows:
    """Every row once, int64 [N]: a random row, then those of its hardest neighbours that have not come yet, at most
    ``group_size`` rows together and never across the edge of a batch.

    ``neighbours`` int64 [N, K], hardest first, -1 for none.
    """
    order: list[int] = []
    taken = np.zeros(len(neighbours), bool)
    for row in rng.permutation(len(neighbours)).tolist():
        if taken[row]:
            continue
        taken[row] = True
        order.append(row)
        room = min(group_size - 1, -len(order) % batch_size)
        for other in neighbours[row].tolist():
            if room == 0:
                break
            if other >= 0 and not taken[other]:
                taken[other] = True
                order.append(other)
                room -= 1
    return np.array(order, np.int64)


def cut(order: Rows, batch_size: int) -> Rows:
    """Whole batches int64 [S, B] of an order; the last, short one is left out."""
    num_batches = len(order) // batch_size
    return order[: num_batches * batch_size].reshape(num_batches, batch_size)


def cut_apart(order: Rows, keys: Sequence[tuple[int, ...]], batch_size: int) -> Rows | None:
    """Whole batches int64 [S, B] in which no two rows share a key, as many as ``cut`` gives; None where one cannot be
    filled.

    ``keys`` has for each row of the data the numbers that it must not share with a batch mate. A row that does not fit
    waits for the next batch. Where the rows left over do not fill a batch, rows that came before (or that the order has
    not) complete it: batches are never short. A row in the order several times comes at most once in a batch.
    """
    stream = deque(order.tolist())
    spare = cycle(np.concatenate([order, np.setdiff1d(np.arange(len(keys)), order)]).tolist())
    waiting: dict[tuple[str, int], deque[int]] = {}  # what keeps a row out of the present batch → such rows
    batches: list[list[int]] = []
    for _ in range(len(order) // batch_size):
        batch = _Forming(keys)
        for reason in list(waiting):
            if len(batch.rows) == batch_size:
                break
            if batch.has(reason):
                continue
            queue = waiting.pop(reason)
            row = queue.popleft()
            if queue:
                waiting[reason] = queue  # behind the others: next time it is their turn
            _add_or_wait(batch, row, waiting)
        while len(batch.rows) < batch_size and stream:
            _add_or_wait(batch, stream.popleft(), waiting)
        for _, row in zip(range(len(keys) + len(order)), spare, strict=False):
            if len(batch.rows) == batch_size:
                break
            batch.add(row)
        if len(batch.rows) < batch_size:
            return None
        batches.append(batch.rows)
    return np.array(batches, np.int64).reshape(-1, batch_size)


def _add_or_wait(batch: _Forming, row: int, waiting: dict[tuple[str, int], deque[int]]) -> None:
    reason = batch.add(row)
    if reason is not None:
        waiting.setdefault(reason, deque()).append(row)


class _Forming:
    """A batch that is being filled."""

    def __init__(self, keys: Sequence[tuple[int, ...]]) -> None:
        self.rows: list[int] = []
        self._keys = keys
        self._taken: set[tuple[str, int]] = set()

    def has(self, reason: tuple[str, int]) -> bool:
        return reason in self._taken

    def add(self, row: int) -> tuple[str, int] | None:
        """Take the row, or say what keeps it out."""
        reasons = [("row", row), *(("key", key) for key in self._keys[row])]
        for reason in reasons:
            if reason in self._taken:
                return reason
        self._taken.update(reasons)
        self.rows.append(row)
        return None
