"""Timing optimiser steps in turns, on made-up batches."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping

import numpy as np

from training.batch import Batch

Step = Callable[[], object]


def in_turns(variants: Mapping[str, Step], rounds: int) -> dict[str, list[float]]:
    """Seconds of each variant in every round, after one round that does not count; they take turns, so that a machine
    that changes speed changes it for all."""
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for number in range(rounds + 1):
        for name, run in variants.items():
            started = time.perf_counter()
            run()
            if number:
                seconds[name].append(time.perf_counter() - started)
    return seconds


def median(seconds: list[float]) -> float:
    """The median of some seconds."""
    return statistics.median(seconds)


def made_up_tokens(num: int, context_length: int, seed: int, vocab_size: int = 49_408) -> np.ndarray:
    """Token ids int64 [num, context_length] with the lengths of photo captions: 5 to 32 tokens, 14 on average."""
    rng = np.random.default_rng(seed)
    lengths = np.clip(np.round(rng.normal(14, 4.5, num)), 5, min(32, context_length)).astype(np.int64)
    tokens = rng.integers(1, vocab_size - 2, (num, context_length), dtype=np.int64)
    tokens[np.arange(context_length) >= lengths[:, None]] = 0
    tokens[np.arange(num), lengths - 1] = vocab_size - 1  # the end of text is the highest token
    return tokens


def made_up_batch(num: int, side_px: int, context_length: int, seed: int = 0) -> Batch:
    """A batch of noise with captions of usual lengths."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (num, side_px, side_px, 3), dtype=np.uint8)  # [B, H, W, 3]
    return Batch(0, 0, np.arange(num), pixels, None, made_up_tokens(num, context_length, seed))
