"""The losses once more, as slow and plain as their formulas: what the blockwise ones are compared with."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F

from training.objectives import Loss, Pairs

Named = dict[str, torch.Tensor]


def unit_rows(count: int, dim: int, seed: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    drawn = torch.randn(count, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return F.normalize(drawn, dim=1).to(dtype)


def leaves(
    num_images: int,
    num_texts: int,
    *,
    dim: int = 16,
    scale: float = 14.3,
    bias: float | None = None,
    dtype: torch.dtype = torch.float64,
    seed: int = 0,
) -> Named:
    """Everything that has a gradient: images, texts, logit_scale and perhaps logit_bias."""
    images = unit_rows(num_images, dim, seed, dtype)
    texts = unit_rows(num_texts, dim, seed + 1, dtype)
    # A part of each caption is its picture, so that positives are better than chance but not beyond doubt.
    texts[:num_images] = F.normalize(texts[:num_images] + 0.3 * images, dim=1)
    found = {"images": images, "texts": texts, "logit_scale": torch.tensor(scale, dtype=dtype)}
    if bias is not None:
        found["logit_bias"] = torch.tensor(bias, dtype=dtype)
    return {name: tensor.requires_grad_() for name, tensor in found.items()}


def value_and_gradients(loss: Callable[[Pairs], torch.Tensor | Loss], given: Named, **more: object) -> Named:
    """The loss and the gradient of every leaf; 0 where none came."""
    fresh = {name: tensor.detach().clone().requires_grad_() for name, tensor in given.items()}
    found = loss(Pairs(**fresh, **more))  # type: ignore[arg-type]
    total = found.total if isinstance(found, Loss) else found
    total.backward()  # type: ignore[no-untyped-call]
    gradients = {name: torch.zeros_like(t) if t.grad is None else t.grad for name, t in fresh.items()}
    return {"loss": total.detach(), **gradients}


def assert_same(found: Named, expected: Named, tolerance: float) -> None:
    """Each tensor within a tolerance relative to its largest number.

    Small ones are measured against 1, or 1/N for the gradients of N vectors: they are differences of numbers of that
    size and more, and float32 holds those to a millionth.
    """
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        largest = max(float(tensor.abs().max()), 1 / len(tensor) if tensor.ndim else 1.0)
        difference = float((found[name].double() - tensor.double()).abs().max())
        assert difference <= tolerance * largest, f"{name}: {difference:.2e} of {largest:.2e}"


def positives_of(pairs: Pairs) -> torch.Tensor:
    if pairs.positives is not None:
        return pairs.positives
    return torch.eye(len(pairs.images), len(pairs.texts), dtype=torch.bool)


def softmax(
    pairs: Pairs, *, inside: bool = False, negatives: tuple[torch.Tensor, torch.Tensor] | None = None
) -> torch.Tensor:
    """Row by row and column by column; ``negatives`` are weights of negatives for rows and for columns [B, T]."""
    scores = pairs.images @ pairs.texts.T
    mask = positives_of(pairs)
    graded = torch.ones_like(scores) if pairs.weights is None else pairs.weights
    ones = torch.ones_like(scores)
    for_rows, for_columns = (ones, ones) if negatives is None else negatives
    logits = pairs.logit_scale * scores
    more_texts = None if pairs.extra_texts is None else pairs.logit_scale * (pairs.images @ pairs.extra_texts.T)
    more_images = None if pairs.extra_images is None else pairs.logit_scale * (pairs.texts @ pairs.extra_images.T)
    rows = _direction(logits, mask, graded, for_rows, more_texts, inside)
    columns = _direction(logits.T, mask.T, graded.T, for_columns.T, more_images, inside)
    return 0.5 * (rows + columns)


def _direction(
    logits: torch.Tensor,
    mask: torch.Tensor,
    graded: torch.Tensor,
    weights: torch.Tensor,
    more: torch.Tensor | None,
    inside: bool,
) -> torch.Tensor:
    total, says = logits.new_zeros(()), logits.new_zeros(())
    for row in range(len(logits)):
        positive = mask[row].nonzero().squeeze(1)
        if not len(positive) or float(graded[row, positive].sum()) == 0:
            continue
        factors = torch.where(mask[row], torch.ones_like(weights[row]), weights[row]).detach()
        denominator = (factors * logits[row].exp()).sum()
        if more is not None:
            denominator = denominator + more[row].exp().sum()
        grades = graded[row, positive]
        if inside:
            relative = grades / grades.max()
            term = grades.mean() * -((relative * logits[row, positive].exp()).sum() / denominator).log()
        else:
            term = (grades * -(logits[row, positive] - denominator.log())).mean()
        total, says = total + term, says + grades.mean()
    return total / says if float(says) > 0 else total


def sigmoid(pairs: Pairs, *, negatives: tuple[torch.Tensor, torch.Tensor] | None = None) -> torch.Tensor:
    assert pairs.logit_bias is not None
    mask = positives_of(pairs)
    logits = pairs.logit_scale * (pairs.images @ pairs.texts.T) + pairs.logit_bias
    signs = mask.to(logits.dtype) * 2 - 1
    weights = torch.ones_like(logits)
    if negatives is not None:
        weights = 0.5 * (negatives[0] + negatives[1]).detach()
    of_positives = torch.ones_like(logits)
    if pairs.weights is not None:
        of_positives = pairs.weights / pairs.weights[mask].mean()
    total = (torch.where(mask, of_positives, weights) * -F.logsigmoid(signs * logits)).sum()
    for images, texts in ((pairs.images, pairs.extra_texts), (pairs.extra_images, pairs.texts)):
        if images is not None and texts is not None:
            total = total - F.logsigmoid(-(pairs.logit_scale * (images @ texts.T) + pairs.logit_bias)).sum()
    return total / len(pairs.images)


def weights_of_negatives(
    pairs: Pairs, *, hardness: float = 0.0, margin: float | None = None, equal_texts: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    """Loops in place of broadcasting; the same for rows and, transposed, for columns."""
    scores, mask = (pairs.images @ pairs.texts.T).detach(), positives_of(pairs)
    same = torch.zeros_like(mask)
    if equal_texts:
        assert pairs.text_ids is not None
        for i in range(len(scores)):
            known = {int(pairs.text_ids[j]) for j in range(scores.shape[1]) if mask[i, j]}
            for j in range(scores.shape[1]):
                same[i, j] = int(pairs.text_ids[j]) in known
    rows = _weights(scores, mask, same, hardness, margin)
    columns = _weights(scores.T, mask.T, same.T, hardness, margin).T
    return rows, columns


def _weights(
    scores: torch.Tensor, mask: torch.Tensor, same: torch.Tensor, hardness: float, margin: float | None
) -> torch.Tensor:
    found = torch.zeros_like(scores)
    for i in range(len(scores)):
        best = max((float(s) for s, own in zip(scores[i], mask[i], strict=True) if own), default=math.inf)
        kept = [
            j
            for j in range(scores.shape[1])
            if not mask[i, j] and not same[i, j] and (margin is None or float(scores[i, j]) <= best + margin)
        ]
        if kept:
            weights = (hardness * scores[i, kept]).exp()
            found[i, kept] = weights / weights.mean()
    return found


def teacher(pairs: Pairs) -> torch.Tensor:
    assert pairs.teacher_images is not None and pairs.teacher_texts is not None
    assert pairs.teacher_logit_scale is not None
    return pairs.teacher_logit_scale * (pairs.teacher_images @ pairs.teacher_texts.T)
