"""What a loss is given and what it gives back: the vectors of one batch, and a scalar with its parts."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch


@dataclass(frozen=True, slots=True)
class Pairs:
    """The vectors of one batch; rows of unit length, float32 or float64.

    Picture i's own caption is text i, for i < B; further texts are further positives or supplied negatives.
    ``positives`` says which text belongs to which picture (None: text i to picture i, all others are negatives),
    ``weights`` how relevant a positive is, 0-1. ``logit_scale`` is the factor on inner products itself, not its
    logarithm.

    The teacher's vectors stand for the same pictures and texts and carry no gradient; a teacher with a ``logit_bias``
    is one trained with the sigmoid loss. Extras are negatives without gradient, from a queue: texts for the pictures,
    images for the texts. ``text_ids`` are equal for equal captions (see ``text_ids``); ``extra_ids`` are those of the
    extras. ``step`` counts the steps done, for what ramps up; None is after all ramps.

    Raises ValueError where shapes do not fit each other.
    """

    images: torch.Tensor  # [B, D]
    texts: torch.Tensor  # [T, D], T >= B
    logit_scale: torch.Tensor  # ()
    logit_bias: torch.Tensor | None = None  # ()
    positives: torch.Tensor | None = None  # bool [B, T]
    weights: torch.Tensor | None = None  # [B, T]
    teacher_images: torch.Tensor | None = None  # [B, Dt]
    teacher_texts: torch.Tensor | None = None  # [T, Dt]
    teacher_logit_scale: torch.Tensor | None = None  # ()
    teacher_logit_bias: torch.Tensor | None = None  # ()
    extra_texts: torch.Tensor | None = None  # [Q, D]
    extra_images: torch.Tensor | None = None  # [Q, D]
    text_ids: torch.Tensor | None = None  # int64 [T]
    extra_ids: torch.Tensor | None = None  # int64 [Q]
    step: int | None = None

    def __post_init__(self) -> None:
        num_images, num_texts = len(self.images), len(self.texts)
        if self.images.ndim != 2 or self.texts.ndim != 2 or self.images.shape[1] != self.texts.shape[1]:
            raise ValueError("Images and texts must be two matrices of vectors of one dimension.")
        if not 0 < num_images <= num_texts:
            raise ValueError("There must be at least one picture, and a text for each.")
        for name, matrix in (("positives", self.positives), ("weights", self.weights)):
            if matrix is not None and matrix.shape != (num_images, num_texts):
                raise ValueError(f"The {name} must have a row for each picture and a column for each text.")
        teacher = (self.teacher_images, self.teacher_texts, self.teacher_logit_scale)
        if any(part is None for part in teacher) != all(part is None for part in teacher):
            raise ValueError("A teacher gives images, texts and its logit scale together.")
        for given, count in ((self.teacher_images, num_images), (self.teacher_texts, num_texts)):
            if given is not None and len(given) != count:
                raise ValueError("A teacher gives a vector for each picture and for each text.")
        if self.text_ids is not None and self.text_ids.shape != (num_texts,):
            raise ValueError("text_ids must have one number for each text.")


@dataclass(frozen=True, slots=True)
class Loss:
    """``total``, a scalar with gradient; ``parts``, its detached summands before their factors, for the log."""

    total: torch.Tensor
    parts: dict[str, torch.Tensor] = field(default_factory=dict)


_MULTIPLIER = 6364136223846793005  # Knuth's MMIX generator; odd, so that multiplying by it loses nothing
_INCREMENT = 1442695040888963407


def text_ids(tokens: torch.Tensor) -> torch.Tensor:
    """A number for each row of token ids int64 [T, L]: equal rows have equal numbers, in every batch and process.

    A 64-bit hash, int64 [T]: two of a million different captions share a number with a chance of 3e-8.
    """
    found = torch.zeros(len(tokens), dtype=torch.int64, device=tokens.device)  # [T]
    for column in tokens.unbind(1):
        found = (found ^ column) * _MULTIPLIER + _INCREMENT  # wraps around: arithmetic modulo 2^64
        found = found ^ ((found >> 29) & 0x7FFFFFFFF)  # high bits come down, or later tokens would not mix with them
    return found
