"""How the optimiser moves: which parameters decay, and the learning rate of each step."""

from __future__ import annotations

import math

import torch
from torch import nn

from training.recipe import Training


def learning_rate(step: int, training: Training) -> float:
    """Linear warm-up over the first steps, then half a cosine.

    The cosine spans ``num_steps - warmup_steps`` steps: the last step has a rate just above 0, and the one
    after it would have exactly 0. Steps count from 0.
    """
    if step < training.warmup_steps:
        return training.learning_rate * (step + 1) / training.warmup_steps
    progress = (step - training.warmup_steps) / (training.num_steps - training.warmup_steps)
    return training.learning_rate * 0.5 * (1 + math.cos(math.pi * progress))


def decays(name: str, parameter: nn.Parameter) -> bool:
    """Whether weight decay applies: to matrices and filters, not to gains, biases, scales and embeddings."""
    return parameter.ndim >= 2 and "embedding" not in name and "logit" not in name


def make_optimizer(model: nn.Module, training: Training) -> torch.optim.AdamW:
    """AdamW over the trainable parameters in two groups, with and without weight decay."""
    named = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    groups = [
        {
            "params": [parameter for name, parameter in named if decays(name, parameter)],
            "weight_decay": training.weight_decay,
        },
        {
            "params": [parameter for name, parameter in named if not decays(name, parameter)],
            "weight_decay": 0.0,
        },
    ]
    return torch.optim.AdamW(
        groups,
        lr=training.learning_rate,
        betas=(training.beta1, training.beta2),
        eps=training.epsilon,
        fused=True,
    )
