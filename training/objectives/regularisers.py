"""Terms that keep the vectors spread out and the two modalities together.

The usual "covariance towards the identity" is not among them: unit vectors in D dimensions have variances of 1/D, so
for D = 512 that penalty is 1.9455e-5 when they are spread evenly and 1.9531e-5 when they have all collapsed into one,
0.4 % apart, and its gradient says nothing.
"""

from __future__ import annotations

import math

import torch

from training.objectives.blocks import Block, log_sum_exps

_SHARPNESS = 2.0  # t of Wang & Isola


def diversity_loss(vectors: torch.Tensor, *, chunk_size: int | None = None) -> torch.Tensor:
    """How crowded unit vectors [N, D] are: log mean exp(-2 |x - y|^2) over all pairs of different rows; a scalar.

    0 when all are one point, about -4 when they are spread evenly over the sphere; lower is better (uniformity, Wang &
    Isola 2020, arXiv 2005.10242). One vector alone gives 0.
    """
    count = len(vectors)
    if count < 2:
        return vectors.sum() * 0.0
    sums, _ = log_sum_exps(
        vectors, vectors, 2 * _SHARPNESS, chunk_size=chunk_size, columns=False, adjust_rows=_without_itself
    )  # [N]
    # |x - y|^2 = 2 - 2 <x, y>
    crowded = torch.logsumexp(sums, dim=0) - 2 * _SHARPNESS - math.log(count * (count - 1))
    return crowded.to(vectors.dtype)


def modality_gap(images: torch.Tensor, texts: torch.Tensor) -> torch.Tensor:
    """The squared distance between the mean image and the mean text vector (Liang et al. 2022, arXiv 2203.02053).

    0 when the two clouds lie on each other, at most 4. That retrieval gains by closing it is not to be expected;
    corpora that mix images and texts in one ranking do (arXiv 2507.19054).
    """
    return (images.mean(0) - texts.mean(0)).square().sum()


def covariance_gap(images: torch.Tensor, texts: torch.Tensor) -> torch.Tensor:
    """The squared Frobenius distance between the covariances of image and text vectors: whether the clouds have one
    form.

    Relative to the product of their traces, so that it does not shrink with the dimension. One pair alone gives 0.
    """
    if len(images) < 2:
        return (images.sum() + texts.sum()) * 0.0
    of_images, of_texts = torch.cov(images.T), torch.cov(texts.T)  # [D, D]
    size = (of_images.trace() * of_texts.trace()).detach().clamp(min=torch.finfo(images.dtype).tiny)
    return (of_images - of_texts).square().sum() / size


def _without_itself(scores: torch.Tensor, block: Block) -> torch.Tensor:
    added = torch.zeros_like(scores)  # [b, t]
    if block.rows == block.columns:  # the blocks are squares on one grid: only these touch the diagonal
        added.fill_diagonal_(-math.inf)
    return added
