"""A fixed temperature: what it does to the modality gap and to retrieval (Liang et al. 2022, arXiv 2203.02053)."""

from __future__ import annotations

import itertools

from benchmarks.training.world.fit import fit
from benchmarks.training.world.lab import Lab
from benchmarks.training.world.measure import R_AT_1, measure
from benchmarks.training.world.shapes import ByVariant, Experiment, Figures, Shape
from training.objectives import ObjectiveSettings
from training.objectives.settings import TemperatureSettings

SCALES = ("1", "10", "20", "30", "50", "100")
WITH_MUON = ("1 muon", "20 muon")


def _temperature(lab: Lab, variant: str) -> Figures:
    """With AdamW, as published. Muon makes all directions of an update equally long, so that what a flat loss hardly
    asks for is learnt too: two scales show that."""
    checkpoint = lab.fresh()
    optimizer = "muon" if variant in WITH_MUON else "adamw"
    training = lab.training(
        300, batch_size=64, learning_rate=7e-4, muon_learning_rate=3.5e-3, optimizer=optimizer
    )  # fmt: skip
    scale = float(variant.removesuffix(" muon"))
    settings = ObjectiveSettings(temperature=TemperatureSettings(mode="fixed", initial_scale=scale))
    fitted = fit(checkpoint, lab.batches(lab.train, training), training, seed=lab.seed, settings=settings)
    return measure(checkpoint.model, lab.held_out).as_json() | fitted.as_json()


def _smallest_rise(found: ByVariant) -> float:
    gaps = [found[scale]["gap"] for scale in SCALES]
    return min(after - before for before, after in itertools.pairwise(gaps))


def _best_is_interior(found: ByVariant) -> float:
    best = max(SCALES, key=lambda scale: found[scale][R_AT_1])
    return float(best not in (SCALES[0], SCALES[-1]))


_LIANG = "Liang et al. 2022: gap .24 .30 .55 .64 .80 1.00 and R@1 .02 .19 .18 .20 .21 .18 for 1/τ = 1 … 100"
TEMPERATURE = Experiment(
    "temperature",
    "What does a fixed temperature do to the modality gap and to retrieval?",
    (*SCALES, *WITH_MUON),
    _temperature,
    (
        Shape("gap grows with each step of 1/τ: the smallest rise", _LIANG, _smallest_rise, 0.001),
        Shape(
            "R@1 at τ = 1 as a share of the best", _LIANG,
            lambda found: found["1"][R_AT_1] / max(found[scale][R_AT_1] for scale in SCALES), 0.25, "at most",
        ),
        Shape("the best τ is neither the largest nor the smallest (1: so it is)", _LIANG, _best_is_interior, 1.0),
    ),
    (R_AT_1, "image_to_text_recall_at_1", "gap"),
)  # fmt: skip
