"""Vectors of earlier batches, kept as further negatives (cross-batch memory, Wang et al. 2020, arXiv 1912.06798).

They cost no encoding and carry no gradient. They were made by an encoder that has moved since, which is why they have
an age limit: a learning rate that moves vectors fast wants a short one. Filled by an EMA encoder it is MoCo's queue.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import nn

from training.objectives.pairs import Pairs
from training.objectives.settings import QueueSettings


class Queue(nn.Module):
    """The newest pairs of vectors, at most ``size`` and none older than ``max_age_steps`` steps.

    All its state is in buffers: it is saved and resumed with ``state_dict`` and moves with ``to``. An empty queue gives
    no extras, and a loss without extras is the plain one. Not thread-safe.
    """

    images: torch.Tensor
    texts: torch.Tensor
    ids: torch.Tensor
    steps: torch.Tensor
    num_written: torch.Tensor

    def __init__(self, settings: QueueSettings, dim: int) -> None:
        super().__init__()
        self.size, self.max_age_steps = settings.size, settings.max_age_steps
        self.register_buffer("images", torch.zeros(self.size, dim))  # [S, D]
        self.register_buffer("texts", torch.zeros(self.size, dim))  # [S, D]
        self.register_buffer("ids", torch.zeros(self.size, dtype=torch.int64))  # [S]
        self.register_buffer("steps", torch.full((self.size,), -1, dtype=torch.int64))  # [S], -1: empty
        self.register_buffer("num_written", torch.zeros((), dtype=torch.int64))  # ()

    @torch.no_grad()
    def push(self, pairs: Pairs, step: int) -> None:
        """Take in a batch's pictures and their own captions at a step, over the oldest; call it after the backward
        pass.

        Of a batch larger than the queue the last ``size`` pairs stay.
        """
        count = min(len(pairs.images), self.size)
        if not count:
            return
        part = slice(len(pairs.images) - count, len(pairs.images))
        start = int(self.num_written) % self.size
        places = (torch.arange(count, device=self.steps.device) + start) % self.size  # [count]
        self.images[places] = pairs.images[part].detach().to(self.images)
        self.texts[places] = pairs.texts[part].detach().to(self.texts)
        self.ids[places] = 0 if pairs.text_ids is None else pairs.text_ids[part].to(self.ids)
        self.steps[places] = step
        self.num_written += count

    @torch.no_grad()
    def extend(self, pairs: Pairs, step: int) -> Pairs:
        """The pairs with what the queue holds as extras at a step; unchanged when it holds nothing young enough."""
        young = (self.steps >= 0) & (self.steps >= step - self.max_age_steps)  # [S]
        if not bool(young.any()):
            return pairs
        return dataclasses.replace(
            pairs,
            extra_images=self.images[young].to(pairs.images.dtype),
            extra_texts=self.texts[young].to(pairs.texts.dtype),
            extra_ids=self.ids[young] if pairs.text_ids is not None else None,
        )
