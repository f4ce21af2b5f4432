"""How the optimisers move: who updates which parameters, which of them decay, and the rate of each step."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping

import torch
from torch import nn

from training.recipe import Training

_BLOCK = re.compile(r"(?:resblocks|blocks|layers?)\.(\d+)\.")
_STAGE = re.compile(r"(?:^|\.)(?:layer|stages\.)(\d+)\.")  # residual and convolutional towers
_BELOW_BLOCKS = re.compile(r"embedding|patch_embed|pos_embed|cls_token|\b(?:conv|bn)\d|ln_pre|norm_pre|stem")


def rate_factor(step: int, *, num_steps: int, warmup_steps: int) -> float:
    """The share of the peak learning rate at a step, counted from 0: linear warm-up, then half a cosine.

    The cosine spans ``num_steps - warmup_steps`` steps: the last step has a rate just above 0, and the
    one after it would have exactly 0.
    """
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    progress = (step - warmup_steps) / (num_steps - warmup_steps)
    return 0.5 * (1 + math.cos(math.pi * progress))


def decays(name: str, parameter: nn.Parameter) -> bool:
    """Whether weight decay applies: to matrices and filters, not to gains, biases, scales and embeddings."""
    return parameter.ndim >= 2 and "embedding" not in name and "logit" not in name


def is_hidden_matrix(name: str, parameter: nn.Parameter) -> bool:
    """Whether a parameter maps hidden features to hidden features: the matrices inside the towers' blocks."""
    return parameter.ndim == 2 and "blocks." in name and decays(name, parameter)


def layer_factors(names: Iterable[str], layer_decay: float) -> dict[str, float]:
    """The share of its tower's rate for each parameter: ``layer_decay`` to the power of its distance from the top.

    The lowest layers of a trained tower hold what all pictures and texts have in common and should move least
    (layer-wise decay as BEiT and EVA-CLIP have it). The projection and what lies behind the last block keep the whole
    rate, the last block has one factor, the embeddings have number of blocks + 1.
    """
    names = list(names)
    top: dict[bool, int] = {}
    for name in names:
        number = _block(name)
        if number is not None:
            top[_is_visual(name)] = max(top.get(_is_visual(name), 0), number + 1)
    factors = {}
    for name in names:
        number, above = _block(name), top.get(_is_visual(name), 0)
        if number is None:
            below = _BELOW_BLOCKS.search(name) is not None and "pool" not in name
            distance = above + 1 if below else 0
        else:
            distance = above - number
        factors[name] = layer_decay**distance
    return factors


def make_optimizers(
    parameters: Mapping[str, nn.Parameter], training: Training, factors: Mapping[str, float] | None = None
) -> list[torch.optim.Optimizer]:
    """The optimisers over these parameters, stepped together.

    AdamW, with and without weight decay; with ``optimizer = "muon"`` the hidden matrices go to Muon (Jordan et al.
    2024) instead, at an update size matched to AdamW's (Liu et al. 2025, arXiv 2502.16982). ``factors`` multiply the
    recipe's rate for a parameter's name, by default 1. Every group keeps its peak rate in
    ``peak_learning_rate``. Raises ValueError when there are no parameters.
    """
    factors = factors or {}
    layers = layer_factors(parameters, training.layer_decay) if training.layer_decay != 1.0 else {}
    adamw: dict[tuple[bool, float], list[nn.Parameter]] = {}
    muon: dict[float, list[nn.Parameter]] = {}
    for name, parameter in parameters.items():
        factor = factors.get(name, 1.0) * layers.get(name, 1.0)
        if training.optimizer == "muon" and is_hidden_matrix(name, parameter):
            muon.setdefault(factor, []).append(parameter)
        else:
            adamw.setdefault((decays(name, parameter), factor), []).append(parameter)
    optimizers: list[torch.optim.Optimizer] = []
    if adamw:
        optimizers.append(
            torch.optim.AdamW(
                [
                    {
                        "params": group,
                        "weight_decay": training.weight_decay if decay else 0.0,
                        "lr": training.learning_rate * factor,
                    }
                    for (decay, factor), group in sorted(adamw.items(), key=lambda item: item[0], reverse=True)
                ],
                lr=training.learning_rate,
                betas=(training.beta1, training.beta2),
                eps=training.epsilon,
                fused=True,
            )
        )
    if muon:
        optimizers.append(
            torch.optim.Muon(
                [
                    {"params": group, "lr": training.muon_learning_rate * factor}
                    for factor, group in sorted(muon.items(), reverse=True)
                ],
                lr=training.muon_learning_rate,
                weight_decay=training.weight_decay,
                adjust_lr_fn="match_rms_adamw",
            )
        )
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["peak_learning_rate"] = group["lr"]
    return optimizers


def set_rates(optimizers: Iterable[torch.optim.Optimizer], factor: float) -> None:
    """Give every group ``factor`` of its peak rate."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = factor * group["peak_learning_rate"]


def _is_visual(name: str) -> bool:
    return name.startswith("visual.")


def _block(name: str) -> int | None:
    """The number of the block that a parameter lies in, from 0 at the bottom."""
    found = _STAGE.search(name)
    if found is not None and "resblocks" not in name:
        # layer1.0 … layer4.2 of a ResNet: a whole stage counts as one block.
        return int(found[1]) - (1 if "layer" in found[0] else 0)
    found = _BLOCK.search(name)
    return None if found is None else int(found[1])
