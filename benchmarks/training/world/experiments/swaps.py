"""Captions with exchanged colours as negatives: plain training, a map on text vectors alone, and full tuning."""

from __future__ import annotations

import numpy as np

from benchmarks.training.world.fit import fit
from benchmarks.training.world.lab import Lab
from benchmarks.training.world.measure import R_AT_1, measure, vectors_of
from benchmarks.training.world.shapes import Experiment, Figures, Shape
from training.adapters import AdapterSettings, attach, merge
from training.stages import WHOLE_MODEL, Part


def _swaps(lab: Lab, variant: str) -> Figures:
    checkpoint, _ = lab.base(mates=False)
    before = vectors_of(checkpoint.model, lab.held_out)[0]
    figures: Figures = {}
    if variant != "plain":
        training = lab.training(300, learning_rate=1e-3 if variant == "map" else 3e-4, muon_learning_rate=1.5e-3)
        parts: tuple[Part, ...] = WHOLE_MODEL
        if variant == "map":
            attach(checkpoint, AdapterSettings(text_map=True), seed=lab.seed)
            parts = ("text-map",)
        negatives = variant != "no negatives"
        batches = lab.batches(lab.train_without_mates, training, negatives=negatives)
        figures = fit(checkpoint, batches, training, seed=lab.seed, parts=parts).as_json()
        merge(checkpoint.model)
    after = vectors_of(checkpoint.model, lab.held_out)[0]
    moved = float(np.abs(after - before).max())
    return measure(checkpoint.model, lab.held_out).as_json() | figures | {"image_vectors_moved": moved}


def _lost(variant: str) -> Shape:
    return Shape(
        f"retrieval that the negatives cost, R@1, {variant}: plain less tuned",
        "CLIC: negatives keep or raise retrieval where they are made well",
        lambda found: found["plain"][R_AT_1] - found[variant][R_AT_1], 0.01, "at most",
    )  # fmt: skip


_LABCLIP = "LABCLIP, arXiv 2502.03566, CLEVR: CLIP .58, linear text map .95, full tuning 1.00"
SWAPS = Experiment(
    "swaps",
    "Captions with exchanged colours as negatives: who learns which colour belongs to which thing? Training has of a "
    "scene and its swap only ever one, or plain batches would hold the negatives already.",
    ("plain", "no negatives", "map", "full"),
    _swaps,
    (
        Shape("plain: swaps ranked rightly", _LABCLIP, lambda found: found["plain"]["swaps_right"], 0.65, "at most"),
        Shape("text-side map: swaps ranked rightly", _LABCLIP, lambda found: found["map"]["swaps_right"], 0.85),
        Shape(
            "text-side map: the largest change of an image vector", _LABCLIP,
            lambda found: found["map"]["image_vectors_moved"], 0.0, "at most",
        ),
        Shape("full tuning: swaps ranked rightly", _LABCLIP, lambda found: found["full"]["swaps_right"], 0.97),
        _lost("map"),
        _lost("full"),
    ),
    ("swaps_right", R_AT_1, "image_vectors_moved", "num_trained"),
)  # fmt: skip
