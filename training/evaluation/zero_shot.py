"""Naming pictures without training for it: prompt ensembles (Radford et al. 2021, section 3.1.4), class by class.

Classes come from a JSON file, ``{"classes": ["dog", ...], "templates": ["a photo of a {}.", ...], "label": "label"}``;
the picture's class lies in its metadata under the key ``label``, by name or by number.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from sightline.errors import SourceError
from training.evaluation.bootstrap import Bootstrap
from training.evaluation.encoding import EncodesPairs
from training.evaluation.places import Answers, Floats, Rows, Vectors, places_of
from training.evaluation.retrieval import Interval, per_query, summarise

DEFAULT_TEMPLATES = (
    "a photo of a {}.",
    "a photo of the {}.",
    "a close-up photo of a {}.",
    "a bright photo of a {}.",
    "a dark photo of a {}.",
    "a blurry photo of a {}.",
    "a cropped photo of a {}.",
)


class ClassesFile(BaseModel):
    """The classes, how to say them, and where a picture's class is written."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    classes: tuple[str, ...] = Field(min_length=2)
    templates: tuple[str, ...] = Field(default=DEFAULT_TEMPLATES, min_length=1)
    label: str = "label"

    @field_validator("classes")
    @classmethod
    def _distinct(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(names)) < len(names) or not all(name.strip() for name in names):
            raise ValueError("names a class twice or leaves one empty")
        return names

    @field_validator("templates")
    @classmethod
    def _with_a_place(cls, templates: tuple[str, ...]) -> tuple[str, ...]:
        if any(template.count("{}") != 1 for template in templates):
            raise ValueError("needs exactly one {} in every template")
        return templates

    def prompts(self, name: str) -> list[str]:
        """Every template with a class's name in it."""
        return [template.replace("{}", name) for template in self.templates]

    def label_of(self, record: Mapping[str, Any]) -> int | None:
        """The class number of a picture by its metadata, None where they name no known class."""
        label = record.get(self.label)
        if isinstance(label, str):
            return self.classes.index(label) if label in self.classes else None
        known = isinstance(label, int) and not isinstance(label, bool) and 0 <= label < len(self.classes)
        return label if known else None

    def labels(self, metadata: Sequence[Mapping[str, Any]]) -> dict[int, int]:
        """The class number of each picture that has one, by row; others are left out."""
        found = ((row, self.label_of(record)) for row, record in enumerate(metadata))
        return {row: label for row, label in found if label is not None}


def read_classes(path: Path) -> ClassesFile:
    """Read a classes file. Raises SourceError: one sentence that names the key and the fix."""
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SourceError(f"{path} cannot be read as JSON; give a file with classes and templates.") from error
    try:
        return ClassesFile.model_validate(tree)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        what = first["msg"].removeprefix("Value error, ")
        raise SourceError(
            f"{path}: {where}: {what[0].lower()}{what[1:]}; the keys are classes, templates and label."
        ) from error


@dataclass(frozen=True, slots=True)
class ZeroShot:
    """How well pictures are named.

    ``accuracy`` and ``top_5`` are shares of pictures in [0, 1], ties counted honestly; ``per_class`` float64 [C] is the
    accuracy within each class, NaN for one without pictures, and ``mean_per_class`` their mean, in which rare classes
    count as much as common ones. ``confusion`` int64 [C, C] counts (true, named), of equals the first.
    ``interval`` is a bootstrap interval of the accuracy.
    """

    name: str
    classes: tuple[str, ...]
    num_pictures: int
    accuracy: float
    top_5: float
    mean_per_class: float
    interval: Interval | None
    per_class: Floats = field(compare=False, repr=False)
    confusion: Rows = field(compare=False, repr=False)

    def mistakes(self, count: int) -> list[tuple[str, str, int, int]]:
        """The commonest mistakes: (true class, named as, how often, pictures of the true class)."""
        wrong = self.confusion - np.diag(np.diag(self.confusion))
        order = np.argsort(-wrong.ravel(), kind="stable")[:count]
        pairs = [divmod(int(place), len(self.classes)) for place in order if wrong.ravel()[place]]
        sizes = self.confusion.sum(axis=1)
        return [(self.classes[t], self.classes[n], int(wrong[t, n]), int(sizes[t])) for t, n in pairs]


def zero_shot(
    name: str,
    classes: Sequence[str],
    images: Vectors,
    class_vectors: Vectors,
    labels: Rows,
    bootstrap: Bootstrap | None = None,
) -> ZeroShot:
    """Name ``images`` float32 [N, D] by the nearest of ``class_vectors`` [C, D]; ``labels`` int64 [N] in [0, C)."""
    scored = per_query(places_of(images, class_vectors, Answers.one_each(labels)))
    summary = summarise(scored, len(class_vectors), bootstrap=bootstrap)
    hits = scored.hits[:, 0]
    sizes = np.bincount(labels, minlength=len(classes))
    with np.errstate(invalid="ignore"):
        per_class = np.bincount(labels, hits, len(classes)) / sizes
    named = np.argmax(images @ class_vectors.T, axis=1)
    confusion = np.bincount(labels * len(classes) + named, minlength=len(classes) ** 2)
    return ZeroShot(
        name=name,
        classes=tuple(classes),
        num_pictures=len(images),
        accuracy=summary.recall[1],
        top_5=summary.recall[5],
        mean_per_class=float(np.nanmean(per_class)),
        interval=summary.intervals.get("recall_at_1"),
        per_class=per_class,
        confusion=confusion.reshape(len(classes), len(classes)).astype(np.int64),
    )


def ensemble(encoder: EncodesPairs, prompts: Sequence[Sequence[str]]) -> Vectors:
    """One unit vector [C, D] for each class from its prompts."""
    return class_vectors([encoder.encode_texts(several) for several in prompts])


def class_vectors(prompts: Sequence[Vectors]) -> Vectors:
    """One unit vector [C, D] for each class from the unit vectors [P, D] of its prompts (CLIP's prompt ensemble)."""
    means = np.stack([vectors.mean(axis=0) for vectors in prompts])  # [C, D]
    unit: Vectors = (means / np.linalg.norm(means, axis=1, keepdims=True)).astype(np.float32)
    return unit
