"""Small plots as inline SVG: colours come from the page's stylesheet, sizes follow the page's width."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence

import numpy as np

from training.evaluation.places import Floats, Rows
from training.evaluation.retrieval import Interval
from training.evaluation.similarity import NUM_BINS, bin_edges

_PLOT_BINS = 80
_HEIGHT = 100


def bar(value: float, interval: Interval | None = None, chance: float | None = None) -> str:
    """A share in [0, 1] as a bar, with its interval as a whisker and chance as a tick."""
    parts = [
        '<rect class="track" width="100%" height="14" rx="2"/>',
        f'<rect class="fill" width="{_percent(value)}" height="14" rx="2"/>',
    ]
    if chance is not None and 0 < chance < 1:
        parts.append(f'<line class="chance" x1="{_percent(chance)}" x2="{_percent(chance)}" y1="-2" y2="16"/>')
    if interval is not None:
        low, high = (_percent(end) for end in interval)
        parts.append(f'<line class="whisker" x1="{low}" x2="{high}" y1="7" y2="7"/>')
        parts += [f'<line class="whisker" x1="{end}" x2="{end}" y1="3" y2="11"/>' for end in (low, high)]
    return f'<svg class="bar" aria-hidden="true">{"".join(parts)}</svg>'


def distributions(matched: Rows, unmatched: Rows, caption: str) -> str:
    """Two histograms of cosines over the bins of ``similarity``, each scaled to the same area."""
    edges = bin_edges()
    used = np.flatnonzero(matched + unmatched)
    size = max(1, math.ceil((int(used[-1]) - int(used[0]) + 1) / _PLOT_BINS))
    start = max(0, int(used[0]) - size)
    stop = min(NUM_BINS, int(used[-1]) + 1 + size)
    stop = start + math.ceil((stop - start) / size) * size
    low, high = float(edges[start]), float(edges[start] + (stop - start) * (edges[1] - edges[0]))
    shares = [_grouped(counts, start, stop, size) for counts in (unmatched, matched)]
    top = max(float(share.max()) for share in shares)
    areas = "".join(
        f'<polygon class="{name}" points="{_steps(share / top)}"/>'
        for name, share in zip(("unmatched", "matched"), shares, strict=True)
    )
    count = len(shares[0])
    plot = (
        f'<svg class="plot" viewBox="0 0 {count} {_HEIGHT}" preserveAspectRatio="none" role="img" '
        f'aria-label="{html.escape(caption)}">{areas}</svg>'
    )
    ticks = "".join(
        f'<span style="left:{100 * (tick - low) / (high - low):.2f}%">{tick:.{digits}f}</span>'
        for tick, digits in _ticks(low, high)
    )
    key = '<i class="matched"></i> a picture and its caption <i class="unmatched"></i> all other pairs'
    return f'<div class="distribution"><p class="key">{key}</p>{plot}<div class="axis">{ticks}</div></div>'


def _grouped(counts: Rows, start: int, stop: int, size: int) -> Floats:
    padded = np.pad(counts, (0, max(0, stop - len(counts))))[start:stop].astype(np.float64)
    shares: Floats = padded.reshape(-1, size).sum(axis=1) / max(float(counts.sum()), 1.0)
    return shares


def _steps(heights: Floats) -> str:
    """The outline of a histogram whose bins are 1 wide, from the left foot to the right one."""
    points: list[str] = [f"0,{_HEIGHT}"]
    for place, height in enumerate(heights):
        y = f"{_HEIGHT * (1 - 0.97 * height):.2f}"
        points += [f"{place},{y}", f"{place + 1},{y}"]
    return " ".join([*points, f"{len(heights)},{_HEIGHT}"])


def _ticks(low: float, high: float) -> Sequence[tuple[float, int]]:
    """Four to eight round numbers inside a range, with the digits they need."""
    raw = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(one * power for one in (1, 2, 5, 10) if one * power >= raw)
    digits = max(0, -math.floor(math.log10(step) + 1e-9))
    first = math.ceil(low / step - 1e-9)
    return [(number * step, digits) for number in range(first, math.floor(high / step + 1e-9) + 1)]


def _percent(share: float) -> str:
    return f"{100 * min(max(share, 0.0), 1.0):.2f}%"
