"""What a step minimises: both towers' unit vectors, and a loss over them (``training.objectives``)."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import nn

from training.batch import Batch
from training.distributed import gather, share
from training.objectives import Loss, ObjectiveSettings, Pairs, Queue, make_loss, text_ids
from training.towers import Towers

_TEACH_AT_ONCE = 256


@dataclass(frozen=True, slots=True)
class BatchLoss(Loss):
    """A loss with the pairs that it compared; their vectors are those of all processes and have no graph."""

    pairs: Pairs | None = None

    @property
    def images(self) -> torch.Tensor:
        """The batch's image vectors [B, D]."""
        assert self.pairs is not None
        return self.pairs.images

    @property
    def texts(self) -> torch.Tensor:
        """The batch's text vectors [T, D]."""
        assert self.pairs is not None
        return self.pairs.texts


class Objective(Towers):
    """The loss of a batch under a model; its settings are the ``[objective]`` of a recipe, by default CLIP's or, for a
    model with a logit bias, SigLIP's.

    The loss is computed in at least float32, over the vectors of all processes. ``teacher`` gives soft targets; ``dim``
    is the vectors' dimension, which only a queue and an adversary must know. Parameters beside the model's are
    those of ``criterion``.
    """

    def __init__(
        self,
        model: nn.Module,
        mean: tuple[float, float, float],
        std: tuple[float, float, float],
        settings: ObjectiveSettings | None = None,
        *,
        precision: str = "fp32",
        teacher: Towers | None = None,
        dim: int | None = None,
    ) -> None:
        super().__init__(model, mean, std, precision=precision)
        self.settings = settings or ObjectiveSettings()
        self.kind = self.settings.kind_for(has_bias=self.logit_bias is not None)
        self.criterion = make_loss(self.settings, kind=self.kind, dim=dim)
        self.queue = Queue(self.settings.queue, dim or 0)
        self.teacher = None if teacher is None else teacher.eval().requires_grad_(False)

    def forward(self, batch: Batch) -> BatchLoss:
        """The loss of a batch with one graph (see ``training.gradient_cache.backward`` for the other way)."""
        images, tokens = self.inputs(batch)  # uint8 [b, H, W, 3] or float32 [b, D]; int64 [t, L]
        return self.compare(self.encode_images(images), self.encode_texts(tokens), batch)

    def inputs(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """This process's share of a batch, still in the CPU's memory: pixels uint8 [b, H, W, 3] or features float32
        [b, D], and token ids int64 [t, L]."""
        images = batch.pixels if batch.features is None else batch.features
        assert images is not None
        if len(images) == len(batch.rows):
            images = images[share(len(images))]
        return torch.from_numpy(images), torch.from_numpy(batch.tokens[share(len(batch.tokens))])

    def compare(self, images: torch.Tensor, texts: torch.Tensor, batch: Batch) -> BatchLoss:
        """The whole batch's loss from this process's vectors, [b, D] and [t, D]; differentiable in them and in the
        parameters of the loss."""
        pairs = Pairs(
            images=gather(images, len(batch.rows)),  # [B, D]
            texts=gather(texts, len(batch.tokens)),  # [T, D]
            logit_scale=self.logit_scale.exp(),
            logit_bias=self.logit_bias,
            positives=None if batch.positives is None else torch.from_numpy(batch.positives).to(self.device),
            weights=None if batch.weights is None else torch.from_numpy(batch.weights).to(self.device),
            text_ids=text_ids(torch.from_numpy(batch.tokens).to(self.device)) if self._needs_ids else None,
            step=batch.step,
        )
        pairs = self.queue.extend(self._taught(pairs, batch), batch.step)
        loss = self.criterion(pairs)
        seen = replace(pairs, images=pairs.images.detach(), texts=pairs.texts.detach())
        return BatchLoss(loss.total, loss.parts, seen)

    @torch.no_grad()
    def encode(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """The unit vectors [B, D] and [T, D] of a whole batch in this process alone, without a graph."""
        images = batch.pixels if batch.features is None else batch.features
        assert images is not None
        return self.encode_images(torch.from_numpy(images)), self.encode_texts(torch.from_numpy(batch.tokens))

    def remember(self, loss: BatchLoss) -> None:
        """Put the batch's vectors into the queue, for the steps after it."""
        if loss.pairs is not None and loss.pairs.step is not None:
            self.queue.push(loss.pairs, loss.pairs.step)

    @property
    def _needs_ids(self) -> bool:
        return self.settings.hard_negatives.guard_equal_texts

    @torch.no_grad()
    def _taught(self, pairs: Pairs, batch: Batch) -> Pairs:
        """The pairs with the teacher's view of them."""
        teacher = self.teacher
        if teacher is None or self.settings.distillation.alpha == 0:
            return pairs
        images, tokens = self.inputs(batch)
        seen = torch.cat([teacher.encode_images(part) for part in torch.split(images, _TEACH_AT_ONCE)])  # [b, D']
        read = torch.cat([teacher.encode_texts(part) for part in torch.split(tokens, _TEACH_AT_ONCE)])  # [t, D']
        return replace(
            pairs,
            teacher_images=gather(seen, len(batch.rows)),  # [B, D']
            teacher_texts=gather(read, len(batch.tokens)),  # [T, D']
            teacher_logit_scale=teacher.logit_scale.exp(),
            teacher_logit_bias=teacher.logit_bias,
        )
