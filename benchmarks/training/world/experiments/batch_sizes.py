"""The sigmoid loss beside InfoNCE over batch sizes, for equally many pairs (Zhai et al. 2023, arXiv 2303.15343)."""

from __future__ import annotations

import math

from benchmarks.training.world.fit import fit
from benchmarks.training.world.lab import Lab
from benchmarks.training.world.measure import R_AT_1, measure
from benchmarks.training.world.shapes import Experiment, Figures, Shape

BATCH_SIZES = (64, 256, 1024)
NUM_PAIRS = 65_536
FEW_STEPS = NUM_PAIRS // BATCH_SIZES[-1]
"""As many as the largest batch takes."""


def _batches(lab: Lab, variant: str) -> Figures:
    """Variants such as "sigmoid 64", and "sigmoid 64 few steps" or "sigmoid 64 bias -10"."""
    kind, size, *more = variant.split(" ")
    batch_size = int(size)
    factor = math.sqrt(batch_size / 128)
    training = lab.training(
        FEW_STEPS if more[:1] == ["few"] else NUM_PAIRS // batch_size,
        batch_size=batch_size, learning_rate=1e-3 * factor, muon_learning_rate=5e-3 * factor,
    )  # fmt: skip
    bias = None if kind == "softmax" else (-10.0 if more[:1] == ["bias"] else -math.log(batch_size - 1))
    checkpoint = lab.fresh(logit_bias=bias)  # both start at the same scale: it moves little in so few steps
    fitted = fit(checkpoint, lab.batches(lab.train, training), training, seed=lab.seed)
    return measure(checkpoint.model, lab.held_out).as_json() | fitted.as_json()


def _rise(kind: str, among: str) -> Shape:
    smallest, largest = f"{kind} {BATCH_SIZES[0]}", f"{kind} {BATCH_SIZES[-1]}"
    few = " few steps" if among == "steps" else ""
    return Shape(
        f"R@1 rises with the batch for as many {among}, {kind}: {BATCH_SIZES[-1]} less {BATCH_SIZES[0]}",
        "Zhai et al. 2023 (SigLIP): better with the batch up to 32 k, for as many pairs",
        lambda found: found[largest][R_AT_1] - found[f"{smallest}{few}"][R_AT_1], 0.0,
    )  # fmt: skip


_KINDS = ("softmax", "sigmoid")
BATCH_SIZES_EXPERIMENT = Experiment(
    "batch-sizes",
    f"Sigmoid against softmax over batch sizes, {NUM_PAIRS:,} pairs each or {FEW_STEPS} steps each, rates scaled with "
    "the root of the batch",
    (
        *(f"{kind} {size}" for kind in _KINDS for size in BATCH_SIZES),
        *(f"{kind} {size} few steps" for kind in _KINDS for size in BATCH_SIZES[:-1]),
        "sigmoid 64 bias -10",
    ),
    _batches,
    (
        *(_rise(kind, among) for among in ("pairs", "steps") for kind in _KINDS),
        Shape(
            "sigmoid less softmax at a batch of 64, R@1", "Zhai et al. 2023: better at smaller batches",
            lambda found: found["sigmoid 64"][R_AT_1] - found["softmax 64"][R_AT_1], -0.01,
        ),
        Shape(
            "a bias of -ln(B - 1) less one of -10 at a batch of 64, R@1", "open_clip #650: -10 fits a batch of 22 k",
            lambda found: found["sigmoid 64"][R_AT_1] - found["sigmoid 64 bias -10"][R_AT_1], 0.0,
        ),
    ),
    (R_AT_1, "gap", "steps"),
)  # fmt: skip
