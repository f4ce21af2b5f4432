"""Fine-tuning on a shifted world: points between base and tuned (WiSE-FT), and low-rank adaptation."""

from __future__ import annotations

from collections.abc import Callable

from benchmarks.training.world.fit import fit
from benchmarks.training.world.lab import Lab
from benchmarks.training.world.measure import R_AT_1, measure
from benchmarks.training.world.shapes import ByVariant, Experiment, Figures, Shape
from training.adapters import AdapterSettings, LoraSettings, attach, merge
from training.interpolation import sweep
from training.stages import WHOLE_MODEL, Part

ALPHAS = tuple(round(0.1 * step, 1) for step in range(11))
TUNING_STEPS, ADAMW_STEPS = 200, 600
RANKS = {"lora": 3, "lora rank 12": 12}
LORA_SCALE = 4.0


def _shift(lab: Lab, variant: str) -> Figures:
    """Full tuning as the product does it, with Muon, and with AdamW: LoRA moves so, and is held against that after as
    many steps."""
    base, _ = lab.base()
    tuned, _ = lab.base()
    num_all = sum(parameter.numel() for parameter in tuned.model.parameters())
    parts: tuple[Part, ...] = WHOLE_MODEL
    training = lab.training(TUNING_STEPS, learning_rate=5e-4, muon_learning_rate=2e-3)
    if variant == "full adamw":
        training = lab.training(ADAMW_STEPS, learning_rate=1e-3, optimizer="adamw")
    elif variant in RANKS:
        rank = RANKS[variant]
        attach(tuned, AdapterSettings(lora=LoraSettings(rank=rank, alpha=LORA_SCALE * rank)), seed=lab.seed)
        parts = ("adapters",)
        training = lab.training(ADAMW_STEPS, learning_rate=1e-2, optimizer="adamw", weight_decay=0.0)
    fitted = fit(tuned, lab.batches(lab.shifted_train, training), training, seed=lab.seed, parts=parts)
    merge(tuned.model)
    figures = {
        "target_recall": measure(tuned.model, lab.shifted_held_out).text_to_image,
        "source_recall": measure(tuned.model, lab.held_out).text_to_image,
        "base_target_recall": measure(base.model, lab.shifted_held_out).text_to_image,
        "base_source_recall": measure(base.model, lab.held_out).text_to_image,
        "trained_share": fitted.num_trained / num_all,
        **fitted.as_json(),
    }
    if variant == "full":
        measures = {
            "source": lambda one: {R_AT_1: measure(one.model, lab.held_out).text_to_image},
            "target": lambda one: {R_AT_1: measure(one.model, lab.shifted_held_out).text_to_image},
        }
        found = sweep(base, tuned, ALPHAS, measures, metric=R_AT_1)
        for point in found.points:
            figures[f"mean at {point.alpha:g}"] = point.mean
        figures["best_alpha"] = found.best.alpha
    return figures


def _above_both_ends(found: ByVariant) -> float:
    means = [found["full"][f"mean at {alpha:g}"] for alpha in ALPHAS]
    return max(means[1:-1]) - max(means[0], means[-1])


def _share_of_gain(variant: str) -> Callable[[ByVariant], float]:
    def share(found: ByVariant) -> float:
        lora, full = (
            found[name]["target_recall"] - found[name]["base_target_recall"] for name in (variant, "full adamw")
        )
        return lora / full if full > 0 else 0.0

    return share


_LORA = "CLIP-LoRA, arXiv 2405.18541; Hu et al. 2021: as good as full tuning with a few per cent of the parameters"
SHIFT = Experiment(
    "shift",
    "Fine-tuning on other words and backgrounds: what is kept, and what LoRA reaches",
    ("full", "full adamw", *RANKS),
    _shift,
    (
        Shape(
            "WiSE-FT: the best point between, mean R@1 of both styles, above the better end",
            "Wortsman et al. 2021: an interior point is best under shift, by 4 to 6 points", _above_both_ends, 0.001,
        ),
        Shape("LoRA of rank 3: share of full tuning's gain in R@1", _LORA, _share_of_gain("lora"), 0.95),
        Shape(
            "LoRA of rank 3: share of the parameters trained", _LORA,
            lambda found: found["lora"]["trained_share"], 0.05, "at most",
        ),
        Shape(
            "LoRA of rank 12, beyond that share: of full tuning's gain", _LORA, _share_of_gain("lora rank 12"), 0.95
        ),
    ),
    ("target_recall", "source_recall", "base_target_recall", "base_source_recall", "trained_share", "best_alpha"),
)  # fmt: skip
