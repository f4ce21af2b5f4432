"""Captions with exchanged colours as negatives: plain training, a map on text vectors alone, and full tuning."""

from __future__ import annotations

import numpy as np

from benchmarks.training.world.fit import fit
from benchmarks.training.world.lab import Lab
from benchmarks.training.world.measure import R_AT_1, measure, vectors_of
from benchmarks.training.world.probe import binding_held
from benchmarks.training.world.shapes import Experiment, Figures, Shape
from training.adapters import AdapterSettings, attach, merge
from training.stages import WHOLE_MODEL, Part


def _swaps(lab: Lab, variant: str) -> Figures:
    """Variants "untaught" start from towers that know nothing of swaps, the others from some that were never asked."""
    of_untaught, tuning = variant.startswith("untaught"), variant.removeprefix("untaught").strip()
    checkpoint = lab.untaught() if of_untaught else lab.unasked()
    before = vectors_of(checkpoint.model, lab.held_out)[0]
    figures: Figures = {}
    if tuning in ("", "plain"):
        figures = binding_held(checkpoint.model, lab.train, lab.scenes("train"), lab.held_out, lab.scenes("held-out"))
    else:
        training = lab.training(300, learning_rate=1e-3 if tuning == "map" else 3e-4, muon_learning_rate=1.5e-3)
        parts: tuple[Part, ...] = WHOLE_MODEL
        if tuning == "map":
            attach(checkpoint, AdapterSettings(text_map=True), seed=lab.seed)
            parts = ("text-map",)
        batches = lab.batches(lab.train_without_mates, training, negatives=tuning != "no negatives")
        figures = fit(checkpoint, batches, training, seed=lab.seed, parts=parts).as_json()
        merge(checkpoint.model)
    after = vectors_of(checkpoint.model, lab.held_out)[0]
    moved = float(np.abs(after - before).max())
    return measure(checkpoint.model, lab.held_out).as_json() | figures | {"image_vectors_moved": moved}


_LABCLIP = "LABCLIP, arXiv 2502.03566, CLEVR: CLIP .58, linear text map .95, full tuning 1.00"
SWAPS = Experiment(
    "swaps",
    "Captions with exchanged colours as negatives: who learns which colour belongs to which thing? Plain is CLIP in "
    "small: towers that know it, aligned by captions that only list colours and shapes. Untaught towers saw whole "
    "sentences, but of a scene and its swap only ever one. A linear probe says what vectors hold.",
    ("plain", "map", "no negatives", "full", "untaught", "untaught map"),
    _swaps,
    (
        Shape("plain: swaps ranked rightly", _LABCLIP, lambda found: found["plain"]["swaps_right"], 0.65, "at most"),
        Shape("text-side map: swaps ranked rightly", _LABCLIP, lambda found: found["map"]["swaps_right"], 0.85),
        Shape(
            "text-side map: the largest change of an image vector", _LABCLIP,
            lambda found: found["map"]["image_vectors_moved"], 0.0, "at most",
        ),
        Shape("full tuning: swaps ranked rightly", _LABCLIP, lambda found: found["full"]["swaps_right"], 0.97),
        Shape(
            "retrieval that the negatives cost, R@1: no negatives less full",
            "CLIC: negatives keep or raise retrieval where they are made well",
            lambda found: found["no negatives"][R_AT_1] - found["full"][R_AT_1], 0.01, "at most",
        ),
    ),
    ("swaps_right", "image_probe", "text_probe", R_AT_1, "image_vectors_moved", "num_trained"),
)  # fmt: skip
