"""Naming what a picture shows: labels become prompts, prompts vectors, inner products probabilities.

Prompt ensembling as in CLIP (Radford et al. 2021, §3.1.4): the unit vectors of a label's prompts are averaged and the
mean is normalised again. Probabilities are made as the checkpoint was trained: softmax over the labels with its own
scale, or one sigmoid for each label with its own scale and bias (SigLIP, Zhai et al. 2023).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from sightline.bundle import ScoreScale
from sightline.errors import QueryError
from sightline.texts import TextLimits, check_text

Floats = npt.NDArray[np.float32]

DEFAULT_TEMPLATES = ("a photo of a {}.", "{}")
MAX_LABELS = 1000
MAX_LABEL_CHARS = 256
MAX_TEMPLATES = 100
MAX_PROMPTS = 10_000


def make_prompts(labels: Sequence[str], templates: Sequence[str], limits: TextLimits) -> list[str]:
    """Every template filled with every label, label by label. Raises QueryError or TextError."""
    if not labels:
        raise QueryError("There are no labels to choose from; give a list of at least one in labels.")
    if len(labels) > MAX_LABELS:
        raise QueryError(
            f"There are {len(labels):,} labels and the limit is {MAX_LABELS:,}; give fewer.", limit_labels=MAX_LABELS
        )
    for label in labels:
        if not label.strip():
            raise QueryError("A label is empty; write a word or leave it out.")
        if len(label) > MAX_LABEL_CHARS:
            raise QueryError(
                f"A label has {len(label):,} characters and the limit is {MAX_LABEL_CHARS}; shorten it.",
                limit_label_chars=MAX_LABEL_CHARS,
            )
    if len({label.strip() for label in labels}) < len(labels):
        raise QueryError("A label is given twice; give each label once.")
    if not templates or len(templates) > MAX_TEMPLATES:
        raise QueryError(
            f"Give between 1 and {MAX_TEMPLATES} templates, or none for the default.", limit_templates=MAX_TEMPLATES
        )
    if any("{}" not in template for template in templates):
        raise QueryError("A template has no {} where the label goes; write it like: a photo of a {}.")
    if len(labels) * len(templates) > MAX_PROMPTS:
        raise QueryError(
            f"{len(labels):,} labels times {len(templates)} templates exceed {MAX_PROMPTS:,} prompts; give fewer.",
            limit_prompts=MAX_PROMPTS,
        )
    return [check_text(template.replace("{}", label.strip()), limits) for label in labels for template in templates]


def label_matrix(prompt_vectors: Floats, num_labels: int) -> Floats:
    """Unit prompt vectors float32 ``[L·T, D]`` (label by label) → unit label vectors float32 ``[L, D]``."""
    means = prompt_vectors.reshape(num_labels, -1, prompt_vectors.shape[-1]).mean(axis=1)  # [L, D]
    lengths = np.linalg.norm(means, axis=-1, keepdims=True)  # [L, 1]
    return np.asarray(means / np.maximum(lengths, 1e-12), dtype=np.float32)


def probabilities(scores: Floats, scale: ScoreScale) -> npt.NDArray[np.float64]:
    """Inner products ``[L]`` → probabilities ``[L]``, in [0, 1]; for softmax they add up to 1."""
    logits = scale.scale * scores.astype(np.float64) + scale.bias  # [L]
    if scale.kind == "sigmoid":
        return np.asarray(np.exp(-np.logaddexp(0.0, -logits)))
    odds = np.exp(logits - logits.max())
    return np.asarray(odds / odds.sum())
