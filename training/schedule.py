"""How the optimisers move: who updates which parameters, which of them decay, and the rate of each step."""

from __future__ import annotations

import math

import torch
from torch import nn

from training.recipe import Training


def rate_factor(step: int, training: Training) -> float:
    """The share of the peak learning rate at a step, counted from 0: linear warm-up, then half a cosine.

    The cosine spans ``num_steps - warmup_steps`` steps: the last step has a rate just above 0, and the
    one after it would have exactly 0.
    """
    if step < training.warmup_steps:
        return (step + 1) / training.warmup_steps
    progress = (step - training.warmup_steps) / (training.num_steps - training.warmup_steps)
    return 0.5 * (1 + math.cos(math.pi * progress))


def decays(name: str, parameter: nn.Parameter) -> bool:
    """Whether weight decay applies: to matrices and filters, not to gains, biases, scales and embeddings."""
    return parameter.ndim >= 2 and "embedding" not in name and "logit" not in name


def is_hidden_matrix(name: str, parameter: nn.Parameter) -> bool:
    """Whether a parameter maps hidden features to hidden features: the matrices inside the towers' blocks."""
    return parameter.ndim == 2 and "blocks." in name and decays(name, parameter)


def make_optimizers(model: nn.Module, training: Training) -> list[torch.optim.Optimizer]:
    """The optimisers over the trainable parameters, stepped together.

    AdamW in two groups, with and without weight decay; with ``optimizer = "muon"`` the hidden matrices go
    to Muon (Jordan et al. 2024) instead, at an update size matched to AdamW's (Liu et al. 2025, arXiv
    2502.16982). Every group keeps its peak rate in ``peak_learning_rate``.
    """
    named = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    muon = training.optimizer == "muon"
    hidden = [p for name, p in named if muon and is_hidden_matrix(name, p)]
    others = [(name, p) for name, p in named if not (muon and is_hidden_matrix(name, p))]
    adamw = torch.optim.AdamW(
        [
            {"params": [p for name, p in others if decays(name, p)], "weight_decay": training.weight_decay},
            {"params": [p for name, p in others if not decays(name, p)], "weight_decay": 0.0},
        ],
        lr=training.learning_rate,
        betas=(training.beta1, training.beta2),
        eps=training.epsilon,
        fused=True,
    )
    optimizers: list[torch.optim.Optimizer] = [adamw]
    if hidden:
        optimizers.append(
            torch.optim.Muon(
                hidden,
                lr=training.muon_learning_rate,
                weight_decay=training.weight_decay,
                adjust_lr_fn="match_rms_adamw",
            )
        )
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["peak_learning_rate"] = group["lr"]
    return optimizers
