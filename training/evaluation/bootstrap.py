"""How sure a figure is: percentile bootstrap intervals, resampled over pictures.

The picture is the sampling unit: the five captions of one picture say much the same, so resampling captions one by one
would make the interval too narrow. A resample draws as many pictures as there are, with replacement, and takes all
queries of each. The candidates stay: an interval says what other queries from the same source would give on this
gallery, not what a larger gallery would.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Rows = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

_CHUNK_BYTES = 16 * 2**20


@dataclass(frozen=True, slots=True)
class Bootstrap:
    """``num_resamples`` draws from a generator of ``seed``; the interval covers ``level`` of them."""

    num_resamples: int = 1000
    seed: int = 0
    level: float = 0.95

    def ends(self, samples: Floats) -> Floats:
        """The interval of samples float64 [R, M] as float64 [M, 2]."""
        tail = 50 * (1 - self.level)
        found: Floats = np.percentile(samples, [tail, 100 - tail], axis=0).T
        return found


def mean_intervals(values: Floats, groups: Rows, num_groups: int, bootstrap: Bootstrap) -> Floats:
    """Intervals float64 [M, 2] of the means of ``values`` float64 [Q, M]; ``groups`` int64 [Q] are the pictures."""
    sums = np.stack([np.bincount(groups, column, num_groups) for column in values.T], axis=1)  # [G, M]
    sizes = np.bincount(groups, minlength=num_groups).astype(np.float64)  # [G]
    parts = [
        (drawn @ sums) / np.maximum(drawn @ sizes, 1)[:, None] for drawn in _draws(num_groups, num_groups, bootstrap)
    ]
    return bootstrap.ends(np.concatenate(parts))


def median_interval(values: Floats, groups: Rows, num_groups: int, bootstrap: Bootstrap) -> Floats:
    """The interval float64 [2] of the median of ``values`` float64 [Q]."""
    order = np.argsort(values, kind="stable")
    ascending, groups = values[order], groups[order]
    parts: list[Floats] = []
    for drawn in _draws(num_groups, max(num_groups, len(values)), bootstrap):
        upto = np.cumsum(drawn.astype(np.int32)[:, groups], axis=1, dtype=np.int32)  # [R, Q]
        total = upto[:, -1:]
        low, high = ((upto > place).argmax(axis=1) for place in ((total - 1) // 2, total // 2))
        parts.append((ascending[low] + ascending[high]) / 2)
    ends: Floats = bootstrap.ends(np.concatenate(parts)[:, None])[0]
    return ends


def _draws(num_groups: int, width: int, bootstrap: Bootstrap) -> Iterator[Floats]:
    """How often each group was drawn, float64 [R, G], some resamples at a time. ``width`` bounds the memory only: the
    draws do not depend on it."""
    rng = np.random.default_rng(bootstrap.seed)
    size = max(1, _CHUNK_BYTES // (8 * width))
    for start in range(0, bootstrap.num_resamples, size):
        count = min(size, bootstrap.num_resamples - start)
        drawn = rng.integers(0, num_groups, (count, num_groups)) + np.arange(count)[:, None] * num_groups
        times = np.bincount(drawn.ravel(), minlength=count * num_groups).reshape(count, num_groups)
        yield times.astype(np.float64)
