"""From the table [objective] to one loss over a batch's vectors."""

from __future__ import annotations

import dataclasses

import torch
from open_clip.loss import ClipLoss, SigLipLoss
from torch import nn

from sightline.errors import RecipeError
from training.objectives.adversary import Adversary
from training.objectives.distillation import distillation_loss
from training.objectives.negatives import Negatives
from training.objectives.pairs import Loss, Pairs
from training.objectives.positives import Positives
from training.objectives.regularisers import covariance_gap, diversity_loss, modality_gap
from training.objectives.settings import Kind, ObjectiveSettings
from training.objectives.sigmoid import sigmoid_loss
from training.objectives.softmax import softmax_loss

WHOLE_UP_TO = {"cpu": 1_024 * 1_024, "cuda": 8_192 * 8_192}
CHUNK_SIZE = {"cpu": 512, "cuda": 4_096}
"""How many logits are computed at once, and the side of the blocks above that, where a recipe names no chunk_size.

On a CPU blocks of 512 stay in its cache: the loss of 4,096 pairs of 128 dimensions and its gradient take 0.22 s of one
core in place of 0.55 s for the whole matrix at once. A GPU wants large blocks: 4,096 keeps it busy within 400 MB.
"""


class ContrastiveLoss(nn.Module):
    """The loss of a batch: contrast, mixed with a teacher's targets, plus regularisers and an adversary.

    Where a recipe asks for nothing special it is open_clip's own loss, called as open_clip calls it. Its parameters, if
    it has any, are the adversary's; they join the optimiser's.
    """

    def __init__(self, settings: ObjectiveSettings, kind: Kind, dim: int | None) -> None:
        super().__init__()
        if kind == "sigmoid" and settings.multi_positive == "in":
            raise RecipeError('multi_positive = "in" in [objective] needs the softmax loss; use "out".')
        if kind == "sigmoid" and settings.label_smoothing > 0:
            raise RecipeError("label_smoothing in [objective] needs the softmax loss; leave it out.")
        self.settings, self.kind = settings, kind
        self.plain = ClipLoss() if kind == "softmax" else SigLipLoss()
        self.adversary: Adversary | None = None
        if settings.adversary.strength > 0:
            if dim is None:
                raise RecipeError(
                    "strength in [objective.adversary] needs an encoder of a known dimension; set it to 0."
                )
            self.adversary = Adversary(dim, width=settings.adversary.width, strength=settings.adversary.strength)

    def forward(self, pairs: Pairs) -> Loss:
        """Raises ValueError when the recipe needs what the pairs do not bring: a teacher, text ids, a bias."""
        if self.kind == "sigmoid" and pairs.logit_bias is None:
            raise ValueError("The sigmoid loss needs a logit bias.")
        chunk_size = self.settings.chunk_size or _chunk_size(pairs)
        contrast = self._contrast(pairs, chunk_size)
        parts = {"contrast": contrast.detach()}
        total = contrast
        with torch.autocast(pairs.images.device.type, enabled=False):
            alpha = self.settings.distillation.alpha_at(pairs.step)
            if alpha > 0:
                pairs = _in_full(pairs)
                taught = distillation_loss(pairs, Positives(pairs), kind=self.kind, chunk_size=chunk_size)
                parts["distillation"] = taught.detach()
                total = (1 - alpha) * total + alpha * taught
            if self.settings.regularisers.any or self.adversary is not None:
                total = self._regularised(total, _in_full(pairs), parts, chunk_size)
        return Loss(total, parts)

    def _contrast(self, pairs: Pairs, chunk_size: int | None) -> torch.Tensor:
        negatives = self.settings.hard_negatives
        if negatives.guard_equal_texts and pairs.text_ids is None:
            raise ValueError("The guard of equal texts needs text_ids.")
        guarded = negatives.guard_equal_texts or negatives.guard_margin is not None
        asked = guarded or negatives.hardness > 0 or self.settings.label_smoothing > 0
        if chunk_size is None and not asked and _one_to_one(pairs):
            bias = () if pairs.logit_bias is None else (pairs.logit_bias,)
            found: torch.Tensor = self.plain(pairs.images, pairs.texts, pairs.logit_scale, *bias)
            return found
        with torch.autocast(pairs.images.device.type, enabled=False):
            pairs = _in_full(pairs)
            positives = Positives(pairs)
            weighed = Negatives(pairs, positives, negatives, chunk_size)
            if self.kind == "sigmoid":
                return sigmoid_loss(pairs, positives, weighed, chunk_size=chunk_size)
            found = softmax_loss(
                pairs,
                positives,
                weighed,
                multi_positive=self.settings.multi_positive,
                label_smoothing=self.settings.label_smoothing,
                chunk_size=chunk_size,
            )
            # A bias moves all logits alike and cancels; its gradient of 0 must exist, or torchrun waits for it (#1076).
            return found if pairs.logit_bias is None else found + 0.0 * pairs.logit_bias

    def _regularised(
        self, total: torch.Tensor, pairs: Pairs, parts: dict[str, torch.Tensor], chunk_size: int | None
    ) -> torch.Tensor:
        factors = self.settings.regularisers
        images, texts = pairs.images, pairs.texts[: len(pairs.images)]  # without supplied negatives
        if factors.diversity > 0:
            crowded = diversity_loss(images, chunk_size=chunk_size) + diversity_loss(texts, chunk_size=chunk_size)
            parts["diversity"] = 0.5 * crowded.detach()
            total = total + factors.diversity * 0.5 * crowded
        if factors.modality_gap > 0:
            gap = modality_gap(images, texts)
            parts["modality_gap"] = gap.detach()
            total = total + factors.modality_gap * gap
        if factors.covariance_gap > 0:
            gap = covariance_gap(images, texts)
            parts["covariance_gap"] = gap.detach()
            total = total + factors.covariance_gap * gap
        if self.adversary is not None:
            told_apart = self.adversary(images, texts)
            parts["adversary"] = told_apart.detach()
            total = total + told_apart
        return total


def make_loss(settings: ObjectiveSettings, *, kind: Kind, dim: int | None = None) -> ContrastiveLoss:
    """The loss of a recipe for a kind of model; ``dim`` is the vectors' dimension, which only an adversary needs.

    Raises RecipeError for settings that do not go with the kind.
    """
    return ContrastiveLoss(settings, kind, dim)


def _chunk_size(pairs: Pairs) -> int | None:
    """The side of the blocks that suits the device, None for the whole matrix."""
    device = "cpu" if pairs.images.device.type == "cpu" else "cuda"
    return CHUNK_SIZE[device] if len(pairs.images) * len(pairs.texts) > WHOLE_UP_TO[device] else None


def _one_to_one(pairs: Pairs) -> bool:
    asked = (pairs.positives, pairs.weights, pairs.extra_texts, pairs.extra_images)
    return len(pairs.images) == len(pairs.texts) and all(part is None for part in asked)


def _in_full(pairs: Pairs) -> Pairs:
    """The pairs with vectors of at least float32: half precision has too few digits for a difference of logits.

    Some checkpoints keep their scale and bias as vectors of one number; here they are scalars.
    """
    images, texts = pairs.images, pairs.texts
    if images.dtype not in (torch.float32, torch.float64) or texts.dtype != images.dtype:
        images, texts = images.float(), texts.float()
    scale = pairs.logit_scale.reshape(())
    bias = None if pairs.logit_bias is None else pairs.logit_bias.reshape(())
    return dataclasses.replace(pairs, images=images, texts=texts, logit_scale=scale, logit_bias=bias)
