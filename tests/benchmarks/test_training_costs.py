"""What parts of training cost: the made-up batches, the bars, and the way without a GPU."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch

from benchmarks.indexing.watch import CommandFailed
from benchmarks.training.costs.caching import caching_bar, caching_row
from benchmarks.training.costs.evaluating import evaluating_bars
from benchmarks.training.costs.large_batch import large_batch_bar, large_batch_row, measure_large_batch
from benchmarks.training.costs.locked import locked_bars, locked_row
from benchmarks.training.costs.steps import in_turns, made_up_batch
from benchmarks.training.gpu.__main__ import bars_of, main, page
from benchmarks.training.gpu.ours import Speed, peak_flops


def test_variants_take_turns_after_one_round_that_does_not_count() -> None:
    order: list[str] = []
    seconds = in_turns({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, 2)
    assert order == ["a", "b"] * 3
    assert [len(times) for times in seconds.values()] == [2, 2]


def test_made_up_captions_end_with_the_highest_token() -> None:
    batch = made_up_batch(50, 8, 77)
    assert batch.pixels is not None and batch.pixels.shape == (50, 8, 8, 3)
    lengths = batch.tokens.argmax(axis=1) + 1
    assert lengths.min() >= 5 and lengths.max() <= 32 and 12 < lengths.mean() < 16
    assert all((row[length:] == 0).all() for row, length in zip(batch.tokens, lengths, strict=True))
    assert np.array_equal(batch.tokens, made_up_batch(50, 8, 77).tokens)


def test_bars_of_costs() -> None:
    caching = {
        "batch_size": 8, "micro_batch": 2, "parameters": 1e6, "seconds": {"dense": [1.0, 2.0], "cached": [1.35, 2.7]},
    }  # fmt: skip
    assert caching_bar(caching).met and "1.0 M parameters" in caching_row(caching)
    locked = {
        "architecture": "ViT-L-14", "batch_size": 100, "caching_seconds_per_picture": 0.06,
        "seconds": {"computed": [36.0], "cached": [3.6], "computed_bf16": [9.0], "cached_bf16": [1.8]},
    }  # fmt: skip
    assert [bar.met for bar in locked_bars(locked)] == [True, False]
    assert "10.00 epochs an hour" in locked_row(locked) and "10 minutes, once" in locked_row(locked)
    assert "in bf16 20.00 and 4.000" in locked_row(locked)
    rounds = [{"seconds": 11.0, "extra_bytes": 2.0**29, "recall_at_1": 0.5}]
    assert [bar.met for bar in evaluating_bars(rounds)] == [False, True]
    large = {
        "kind": "softmax", "num_pairs": 262_144, "dim": 64, "block": 512, "extra_bytes": 1_100_000_000,
        "forward_seconds": 60.0, "backward_seconds": 120.0, "cpu_seconds": 170.0,
    }  # fmt: skip
    assert not large_batch_bar(large).met and large_batch_bar(large | {"extra_bytes": 999_000_000}).met
    assert "3.0 minutes" in large_batch_row(large) and "would take 274.9 GB" in large_batch_row(large)


def test_a_large_batch_is_measured_in_a_process_of_its_own() -> None:
    measured = measure_large_batch("sigmoid", 1100)  # more than is computed whole
    assert measured["gradient_bytes"] == 2 * 1100 * measured["dim"] * 4
    assert measured["extra_bytes"] < 100e6 and measured["cpu_seconds"] > 0
    with pytest.raises(CommandFailed, match="-1 pairs failed"):
        measure_large_batch("softmax", -1)


def test_utilisation_of_a_gpu() -> None:
    speed = Speed(7166.0, 44.1e9, 2**30)
    assert speed.utilisation(790e12) == pytest.approx(0.40, abs=0.001)
    assert peak_flops("NVIDIA H100 80GB HBM3") == 989e12 and peak_flops("NVIDIA A100-SXM4-80GB") == 312e12
    assert peak_flops("NVIDIA L4") == 121e12 and peak_flops("Some GPU") is None
    figures = {"batch_size": 8, "peer": "16 workers", "ours": [speed.as_json()], "theirs": [5000.0]}
    bars = bars_of("ViT-B-32", figures, 790e12)
    assert [bar.met for bar in bars] == [True, True]
    assert not bars_of("ViT-B-32", figures, None)[1].met  # an unknown GPU's peak is not guessed
    assert "ViT-B-32 | 8 | 7,166" in page({"ViT-B-32": figures}, bars, {"gpu": "x"}, 790e12)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_without_a_gpu_one_sentence_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["gpu", "--out", "unused"])
    assert main() == 3
    assert capsys.readouterr().err == "There is no GPU that torch can use; run this on a machine with one.\n"
