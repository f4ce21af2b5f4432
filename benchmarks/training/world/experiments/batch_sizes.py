"""The sigmoid loss beside InfoNCE over batch sizes, for equally many pairs (Zhai et al. 2023, arXiv 2303.15343)."""

from __future__ import annotations

import math

from benchmarks.training.world.fit import fit
from benchmarks.training.world.lab import Lab
from benchmarks.training.world.measure import R_AT_1, measure
from benchmarks.training.world.shapes import Experiment, Figures, Shape

BATCH_SIZES = (16, 64, 256, 1024)
NUM_PAIRS = 16_384


def _batches(lab: Lab, variant: str) -> Figures:
    kind, size = variant.split(" ")[:2]
    batch_size = int(size)
    factor = math.sqrt(batch_size / 128)
    training = lab.training(
        NUM_PAIRS // batch_size, batch_size=batch_size, learning_rate=1e-3 * factor, muon_learning_rate=5e-3 * factor
    )
    bias = None if kind == "softmax" else (-10.0 if variant.endswith("bias -10") else -math.log(batch_size - 1))
    checkpoint = lab.fresh(logit_bias=bias, scale=10.0 if kind == "sigmoid" else None)
    fitted = fit(checkpoint, lab.batches(lab.train, training), training, seed=lab.seed)
    return measure(checkpoint.model, lab.held_out).as_json() | fitted.as_json()


def _rise(kind: str) -> Shape:
    return Shape(
        f"R@1 rises with the batch, {kind}: {BATCH_SIZES[-1]} less {BATCH_SIZES[0]}",
        "Zhai et al. 2023 (SigLIP): better with the batch up to 32 k, for as many pairs",
        lambda found: found[f"{kind} {BATCH_SIZES[-1]}"][R_AT_1] - found[f"{kind} {BATCH_SIZES[0]}"][R_AT_1], 0.0,
    )  # fmt: skip


BATCH_SIZES_EXPERIMENT = Experiment(
    "batch-sizes",
    f"Sigmoid against softmax over batch sizes, {NUM_PAIRS:,} pairs each, rates scaled with the root of the batch",
    (*(f"{kind} {size}" for kind in ("softmax", "sigmoid") for size in BATCH_SIZES), "sigmoid 64 bias -10"),
    _batches,
    (
        _rise("softmax"),
        _rise("sigmoid"),
        Shape(
            "sigmoid less softmax at batches of 16 and 64, R@1", "Zhai et al. 2023: better at smaller batches",
            lambda found: min(found[f"sigmoid {size}"][R_AT_1] - found[f"softmax {size}"][R_AT_1] for size in (16, 64)),
            -0.01,
        ),
        Shape(
            "a bias of -ln(B - 1) less one of -10 at a batch of 64, R@1", "open_clip #650: -10 fits a batch of 22 k",
            lambda found: found["sigmoid 64"][R_AT_1] - found["sigmoid 64 bias -10"][R_AT_1], 0.0,
        ),
    ),
    (R_AT_1, "gap", "steps"),
)  # fmt: skip
