"""The teacher of a distillation: a running mean of the student itself, or a frozen encoder of any kind."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from sightline.encoder.checkpoint import Checkpoint, load_checkpoint, load_tokenizer
from sightline.encoder.spec import parse_spec
from sightline.errors import RecipeError
from training.batch import Tokens
from training.data import DataSettings, tokenize_all
from training.ema import Ema
from training.towers import Towers
from training.vocabulary import Vocabulary

Translate = Callable[[torch.Tensor], torch.Tensor]
"""The student's token ids int64 [t, L] to the teacher's [t, L']."""


class Teacher(Towers):
    """A frozen encoder that reads the student's batches."""

    def __init__(self, checkpoint: Checkpoint, translate: Translate, *, precision: str) -> None:
        super().__init__(checkpoint.model, checkpoint.pixels.mean, checkpoint.pixels.std, precision=precision)
        self.translate = translate

    def encode_texts(self, tokens: torch.Tensor) -> torch.Tensor:
        """The student's token ids int64 [t, L] to the teacher's unit vectors [t, D']."""
        return super().encode_texts(self.translate(tokens))


def mean_teacher(student: Checkpoint, ema: Ema, *, precision: str) -> Towers:
    """The running mean of the student's weights as its teacher (ALBEF, Li et al. 2021)."""
    return Towers(ema.model, student.pixels.mean, student.pixels.std, precision=precision)


def load_teacher(spec: str, student: Checkpoint, *, accept_licence: str | None = None) -> Checkpoint:
    """A frozen encoder that sees what the student sees.

    Raises RecipeError where it needs pictures of another size, and what ``load_checkpoint`` raises.
    """
    teacher = load_checkpoint(parse_spec(spec), accept_licence=accept_licence)
    theirs, ours = teacher.pixels, student.pixels
    if (theirs.height_px, theirs.width_px) != (ours.height_px, ours.width_px):
        raise RecipeError(
            f"The teacher {teacher.name} sees pictures of {theirs.width_px} x {theirs.height_px} px and the student of "
            f"{ours.width_px} x {ours.height_px}; choose a teacher with the student's size."
        )
    return teacher


def require_readable(teacher: Checkpoint, student: Checkpoint, data: DataSettings) -> None:
    """Raise RecipeError where the teacher could not read the texts of the student's batches.

    One with another tokenizer knows a caption by the student's token ids, so it can read the captions of the data and
    nothing that is made from them in a step.
    """
    if teacher.texts != student.texts and data.makes_texts:
        raise RecipeError(
            f"The teacher {teacher.name} has another tokenizer or context length than the student, so it can read "
            "captions only as they are in the data; choose a teacher with the student's, or leave [data.wording] and "
            "[data.negatives] out."
        )


def frozen_teacher(
    teacher: Checkpoint,
    student: Checkpoint,
    *,
    texts: list[str],
    tokens: Tokens,
    vocabulary: Vocabulary | None,
    precision: str,
) -> Teacher:
    """``teacher`` as one that reads the student's batches.

    ``texts`` are the captions and ``tokens`` int64 [T, L] what batches hold for them, which is all that a teacher with
    another tokenizer can read; ``vocabulary`` is what the student's token ids were narrowed to.
    """
    if teacher.texts == student.texts:
        return Teacher(teacher, _widened(vocabulary), precision=precision)
    tokenizer = load_tokenizer(teacher)
    table = torch.from_numpy(tokenize_all(lambda some: np.asarray(tokenizer(some), dtype=np.int64), texts))  # [T, L']
    known = {row.tobytes(): place for place, row in enumerate(np.ascontiguousarray(tokens))}

    def translate(student_tokens: torch.Tensor) -> torch.Tensor:
        return table[[known[row.tobytes()] for row in student_tokens.numpy()]]

    return Teacher(teacher, translate, precision=precision)


def _widened(vocabulary: Vocabulary | None) -> Translate:
    if vocabulary is None:
        return lambda tokens: tokens
    ids = torch.from_numpy(vocabulary.ids)
    return lambda tokens: ids[tokens]
