"""What a batch of vectors says about the health of both towers: spread, effective rank, modality gap, matched cosines.

All functions take unit vectors and give a scalar tensor on the same device, so that one transfer fetches all of them.
They are read once every few steps on at most ``MAX_ROWS`` rows: for 512 vectors of 768 dimensions the singular values
are those of a 512 × 512 matrix.
"""

from __future__ import annotations

import torch
from torch import nn

MAX_ROWS = 512
"""Rows that enter a figure: enough for a rank of several hundred, cheap enough for any step."""


def spread(vectors: torch.Tensor) -> torch.Tensor:
    """How far the vectors [B, D] are from being one point: 1 when they point everywhere, 0 when they are equal.

    The root mean variance of a coordinate in units of 1/√D, the value of isotropic unit vectors. For unit vectors it is
    √(1 - |mean|²): a spread of 0.25 is a mean cosine of 0.94 between any two of them. A threshold on the plain standard
    deviation would mean another thing for every D: a healthy one is 0.044 for 512 dimensions and 0.026 for 1,536.
    """
    centred = vectors.float() - vectors.float().mean(dim=0)  # [B, D]
    return centred.square().sum(dim=1).mean().sqrt()


def effective_rank(vectors: torch.Tensor) -> torch.Tensor:
    """How many directions the vectors [B, D] vary in, from 1 to min(B - 1, D) (Roy & Vetterli 2007).

    The exponential of the entropy of the singular values of the centred vectors, taken as shares of their sum. Centring
    leaves out the common direction of the narrow cone that every fresh tower starts with. Equal vectors give 1.
    """
    rows = vectors[:MAX_ROWS].double()
    centred = rows - rows.mean(dim=0)  # [B, D]
    gram = centred @ centred.T if len(rows) < rows.shape[1] else centred.T @ centred
    singular = torch.linalg.eigvalsh(gram).clamp_min(0).sqrt()  # [min(B, D)]
    total = singular.sum()
    # Equal vectors have no direction at all but rounding errors in many: they count as one.
    shares = singular / total.clamp_min(torch.finfo(torch.float64).tiny)
    entropy = -torch.special.xlogy(shares, shares).sum()
    return torch.where(total > 1e-6 * len(rows), entropy.exp(), torch.ones_like(entropy))


def modality_gap(images: torch.Tensor, texts: torch.Tensor) -> torch.Tensor:
    """The distance between the mean image [B, D] and the mean text [T, D], in [0, 2] (Liang et al. 2022).

    It grows with the inverse temperature and hardly tells retrieval quality: to be watched, not to be gated on.
    """
    apart = images.float().mean(dim=0) - texts.float().mean(dim=0)  # [D]
    return apart.square().sum().sqrt()


def cosines(images: torch.Tensor, texts: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The mean cosine of matched and of unmatched pairs; row i of ``texts`` [T, D] belongs to row i of ``images``."""
    num = min(len(images), MAX_ROWS)
    scores = images[:num].float() @ texts[:num].float().T  # [B, B]
    matched = scores.diagonal().mean()
    if num < 2:
        return matched, torch.zeros_like(matched)
    return matched, (scores.sum() - scores.diagonal().sum()) / (num * (num - 1))


def vector_figures(images: torch.Tensor, texts: torch.Tensor) -> dict[str, float]:
    """All figures of a batch as plain numbers; ``images`` [B, D] and ``texts`` [T, D] are unit vectors, T ≥ B.

    Only the first B texts, the pictures' own captions, count: made-up negatives are near each other on purpose.
    """
    own = texts[: len(images)]
    matched, unmatched = cosines(images, own)
    named = {
        "image_spread": spread(images),
        "text_spread": spread(own),
        "image_effective_rank": effective_rank(images),
        "text_effective_rank": effective_rank(own),
        "modality_gap": modality_gap(images, own),
        "matched_cosine": matched,
        "unmatched_cosine": unmatched,
    }
    return dict(zip(named, torch.stack([value.double() for value in named.values()]).tolist(), strict=True))


def tower_of(name: str) -> str:
    """Which part of a model a parameter belongs to: ``image``, ``text`` or, for scale and bias, ``scalars``."""
    last = name.rsplit(".", 1)[-1]
    if last in ("logit_scale", "logit_bias"):
        return "scalars"
    return "image" if "visual." in name or name.startswith("image") else "text"


def gradient_norms(model: nn.Module) -> dict[str, torch.Tensor]:
    """The norm () of the gradients of each part (see ``tower_of``) that has any, as ``gradient_norm_PART``.

    To be taken before clipping: afterwards only their proportion is left.
    """
    parts: dict[str, list[torch.Tensor]] = {}
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            parts.setdefault(tower_of(name), []).append(parameter.grad.detach())
    return {f"gradient_norm_{part}": nn.utils.get_total_norm(gradients) for part, gradients in parts.items()}
