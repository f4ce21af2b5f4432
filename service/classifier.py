"""Zero-shot classification as the service does it: labels named or given, matrices kept, none-of-these decided.

None of these: softmax probabilities add up to 1 whatever the picture shows, so with a softmax checkpoint the threshold
is on the best label's *score* (cosine; what is low depends on the checkpoint: look at the scores of pictures that show
none of your labels). A sigmoid checkpoint judges each label by itself: there the threshold is on its *probability*.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from service import zero_shot
from service.context import RequestContext
from service.label_sets import LabelSet, LabelSets, LabelSetSpec, Matrix, MatrixCache
from service.metrics import Metrics
from sightline.bundle import ScoreScale
from sightline.errors import QueryError, SettingError, SightlineError
from sightline.texts import TextLimits

EncodePrompts = Callable[[list[str], RequestContext], Awaitable[Matrix]]
"""Checked prompts → unit vectors float32 ``[P, D]``."""

_MAX_CACHED_FLOATS = 16_000_000


@dataclass(frozen=True)
class Question:
    """What a picture is to be compared with. ``none_threshold`` is None where 'none of these' was not asked for."""

    labels: Sequence[str]
    matrix: Matrix
    none_threshold: float | None


@dataclass(frozen=True)
class Classification:
    """``results`` has every label, best first; ``none`` is None where no threshold was given."""

    results: list[dict[str, Any]]
    none: bool | None


class Classifier:
    """Knows the label sets and the checkpoint's way to probabilities. For one event loop."""

    def __init__(self, encode: EncodePrompts, scale: ScoreScale, limits: TextLimits, metrics: Metrics) -> None:
        self.sets = LabelSets()
        self._encode = encode
        self._scale = scale
        self._limits = limits
        self._metrics = metrics
        self._matrices = MatrixCache(_MAX_CACHED_FLOATS)
        metrics.label_sets.set_function(self.sets.__len__)

    def load(self, specs: Mapping[str, LabelSetSpec], encode_now: Callable[[list[str]], Matrix]) -> None:
        """Register the sets of the file, before the event loop runs. Raises SettingError."""
        for name, spec in specs.items():
            try:
                prompts = self._prompts(spec)
            except SightlineError as error:
                raise SettingError(f"The label set {name} of label_sets_file is wrong: {error.message}") from error
            matrix = zero_shot.label_matrix(encode_now(prompts), len(spec.labels))  # [L, D]
            self.sets.put(LabelSet(name, spec, "file", matrix))

    async def register(self, name: str, spec: LabelSetSpec, context: RequestContext) -> LabelSet:
        """Encode a set and keep it under its name; the set of that name, if any, answers until then.

        Raises QueryError, TextError and what encoding raises: then nothing has changed.
        """
        self.sets.check_name(name)
        prompts = self._prompts(spec)
        matrix = zero_shot.label_matrix(await self._encode(prompts, context), len(spec.labels))  # [L, D]
        self.sets.check_name(name)  # others may have registered meanwhile
        label_set = LabelSet(name, spec, "api", matrix)
        self.sets.put(label_set)
        return label_set

    async def question(
        self,
        labels: list[str] | None,
        templates: list[str] | None,
        label_set: str | None,
        none_threshold: float | None,
        context: RequestContext,
    ) -> Question:
        """Labels with their matrix, by name or as they are given. Raises QueryError, TextError or NotFound."""
        if (labels is None) == (label_set is None):
            raise QueryError("Give either labels or the name of a label_set.")
        if label_set is not None:
            if templates is not None:
                raise QueryError("A label set has its own templates; leave templates out.")
            known = self.sets.get(label_set)
            threshold = none_threshold if none_threshold is not None else known.spec.none_threshold
            self._check_threshold(threshold)
            self._metrics.label_cache.labels("hit").inc()
            return Question(known.spec.labels, known.matrix, threshold)
        assert labels is not None
        spec = LabelSetSpec.model_construct(
            labels=labels, templates=templates or list(zero_shot.DEFAULT_TEMPLATES), none_threshold=none_threshold
        )
        return Question(labels, await self._matrix(self._prompts(spec), len(labels), context), none_threshold)

    def answer(self, vector: npt.NDArray[np.float32], question: Question) -> Classification:
        """A picture's unit vector float32 ``[D]`` compared with every label."""
        scores = np.clip(question.matrix @ vector, -1.0, 1.0)  # [L]
        chances = zero_shot.probabilities(scores, self._scale)  # [L]
        order = np.argsort(-scores, kind="stable")
        results = [
            {"label": question.labels[row], "probability": float(chances[row]), "score": float(scores[row])}
            for row in order
        ]
        if question.none_threshold is None:
            return Classification(results, None)
        best = results[0]["score" if self._scale.kind == "softmax" else "probability"]
        return Classification(results, best < question.none_threshold)

    def _prompts(self, spec: LabelSetSpec) -> list[str]:
        self._check_threshold(spec.none_threshold)
        return zero_shot.make_prompts(spec.labels, spec.templates, self._limits)

    def _check_threshold(self, threshold: float | None) -> None:
        if threshold is not None and threshold < 0.0 and self._scale.kind == "sigmoid":
            raise QueryError("This checkpoint's none_threshold is a probability; give a number from 0 to 1.")

    async def _matrix(self, prompts: list[str], num_labels: int, context: RequestContext) -> Matrix:
        key = MatrixCache.key(prompts, num_labels)
        matrix = self._matrices.get(key)
        self._metrics.label_cache.labels("hit" if matrix is not None else "miss").inc()
        if matrix is None:
            matrix = zero_shot.label_matrix(await self._encode(prompts, context), num_labels)  # [L, D]
            self._matrices.put(key, matrix)
        return matrix
