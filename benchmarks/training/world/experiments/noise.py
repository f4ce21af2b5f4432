"""Wrong captions, with and without a running-mean teacher."""

from __future__ import annotations

from benchmarks.training.world.fit import fit
from benchmarks.training.world.lab import Lab
from benchmarks.training.world.measure import R_AT_1, measure
from benchmarks.training.world.shapes import Experiment, Figures, Shape
from training.objectives import ObjectiveSettings
from training.objectives.settings import Distillation

WRONG_SHARE = 0.3
NUM_PICTURES = 4000
ALPHAS = {"ema teacher": 0.4, "ema teacher 0.7": 0.7}
"""The teacher's share of the loss; ALBEF's is 0.4."""


def _noise(lab: Lab, variant: str) -> Figures:
    """Sixteen epochs: long enough that wrong captions are learnt by heart, which is what a teacher guards against."""
    checkpoint = lab.fresh()
    training = lab.training(500)
    data = lab.train.first(NUM_PICTURES)
    if variant != "clean":
        data = data.with_wrong_captions(WRONG_SHARE, lab.seed)
    settings = ObjectiveSettings()
    if variant in ALPHAS:
        distillation = Distillation(alpha=ALPHAS[variant], ramp_steps=lab.size.of(120), ema_decay=0.99)
        settings = ObjectiveSettings(distillation=distillation)
    batches = lab.batches(data, training)
    fitted = fit(checkpoint, batches, training, seed=lab.seed, settings=settings)
    return measure(checkpoint.model, lab.held_out).as_json() | fitted.as_json()


def _gain(variant: str) -> Shape:
    return Shape(
        f"R@1 with the teacher less without, alpha {ALPHAS[variant]}", "ALBEF, Li et al. 2021, arXiv 2107.07651",
        lambda found: found[variant][R_AT_1] - found["plain"][R_AT_1], 0.01,
    )  # fmt: skip


NOISE = Experiment(
    "noise",
    f"{WRONG_SHARE:.0%} of the captions belong to other pictures: does a running-mean teacher help?",
    ("clean", "plain", *ALPHAS),
    _noise,
    tuple(map(_gain, ALPHAS)),
    (R_AT_1, "image_to_text_recall_at_1"),
)  # fmt: skip
