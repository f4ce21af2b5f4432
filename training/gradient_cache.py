"""A large batch on a small machine: gradients of the whole batch with the memory of a small one (GradCache, Gao et al.
2021, arXiv 2101.06983).

1. Encode the batch in micro-batches without a graph and keep only the vectors.
2. The loss over all vectors gives the gradient of each vector, and those of the loss's own parameters (temperature,
   bias, an adversary): once, because they do not depend on how the batch was cut.
3. Encode each micro-batch again, with a graph and the random numbers of the first time, and pass its vectors'
   gradients on to the tower.

That is one more forward pass: 4/3 of the arithmetic of a dense step. open_clip's ``--accum-freq K`` computes the loss
K times and so multiplies the gradients of temperature and bias by K (open_clip #761, #957), and its second pass draws
other dropout masks than its first.

Batch norm is not a function of one row, so a tower that has it normalises over the micro-batch.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import nn

from training.batch import Batch
from training.objective import BatchLoss, Objective

Encode = Callable[[torch.Tensor], torch.Tensor]


def backward(objective: Objective, batch: Batch, micro_batch: int | None = None) -> BatchLoss:
    """Add the gradients of the batch's loss to every trainable parameter and return the loss.

    ``micro_batch`` rows at once go through a tower; None encodes all of them with one graph. The random state of
    torch is afterwards what it was after the first encoding and the loss.
    """
    images, tokens = objective.inputs(batch)  # uint8 [b, H, W, 3] or float32 [b, F]; int64 [t, L]
    if micro_batch is None or micro_batch >= len(tokens):
        image_vectors = objective.encode_images(images)  # [b, D]
        text_vectors = objective.encode_texts(tokens)  # [t, D]
        loss = objective.compare(image_vectors, text_vectors, batch)
        objective.pull(loss.total)
        return loss
    device = objective.device
    image_parts = [_Part(objective, objective.encode_images, part) for part in torch.split(images, micro_batch)]
    text_parts = [_Part(objective, objective.encode_texts, part) for part in torch.split(tokens, micro_batch)]
    image_leaf = torch.cat([part.first() for part in image_parts]).requires_grad_(objective.trains_images)  # [b, D]
    text_leaf = torch.cat([part.first() for part in text_parts]).requires_grad_(objective.trains_texts)  # [t, D]
    loss = objective.compare(image_leaf, text_leaf, batch)
    objective.pull(loss.total)
    after = RandomState.now(device)
    with _kept_buffers(objective.model):  # the first encoding has already counted these rows
        for parts, leaf in ((image_parts, image_leaf), (text_parts, text_leaf)):
            if leaf.grad is not None:
                for part, gradient in zip(parts, torch.split(leaf.grad, micro_batch), strict=True):
                    part.again(gradient)
    after.restore()
    return loss


@dataclass(frozen=True, slots=True)
class RandomState:
    """torch's random numbers at a moment, on the CPU and on a GPU."""

    cpu: torch.Tensor
    gpu: torch.Tensor | None
    device: torch.device

    @classmethod
    def now(cls, device: torch.device) -> RandomState:
        """The present state."""
        gpu = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
        return cls(torch.get_rng_state(), gpu, device)

    def restore(self) -> None:
        """Draw the same numbers again from here."""
        torch.set_rng_state(self.cpu)
        if self.gpu is not None:
            torch.cuda.set_rng_state(self.gpu, self.device)


class _Part:
    """A micro-batch of one tower, encoded twice."""

    def __init__(self, objective: Objective, encode: Encode, inputs: torch.Tensor) -> None:
        self._objective = objective
        self._encode = encode
        self._inputs = inputs
        self._random = RandomState.now(objective.device)

    @torch.no_grad()
    def first(self) -> torch.Tensor:
        """Its vectors, without a graph; remembers the random numbers that they took."""
        self._random = RandomState.now(self._random.device)
        return self._encode(self._inputs)

    def again(self, gradient: torch.Tensor) -> None:
        """Pass the gradient of its vectors on to the tower's parameters."""
        self._random.restore()
        self._objective.pull(self._encode(self._inputs), gradient)


@contextlib.contextmanager
def _kept_buffers(model: nn.Module) -> Iterator[None]:
    kept = [(buffer, buffer.clone()) for buffer in model.buffers()]
    yield
    with torch.no_grad():
        for buffer, before in kept:
            buffer.copy_(before)
