"""The trace for the alignment explorer: where held-out pairs lie, and how similar they are, at moments of the run.

All moments are drawn in one plane, so that nothing moves but the vectors. The plane is that of the newest moment: the
two principal directions of the pairs' midpoints, which is where pairs differ most from each other once they are
learnt. Seen there, untrained pairs are two small heaps that unfold as training goes on. A plane of each moment's own
would jump (early principal directions are noise), and the first moment's has nothing to do with what is learnt.

Since the plane is known only at the end, the vectors are kept beside the trace while the run lasts (float16) and
``trace.jsonl`` is written anew at every moment; planes of successive writings are turned onto each other (orthogonal
Procrustes), so that whoever reloads the file during a run sees no leap either.
"""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, ValidationError

from sightline.errors import SourceError
from sightline.storage import replace_file
from training.watching.held_out import Vectors

TRACE_NAME = "trace.jsonl"
VECTORS_NAME = "trace.vectors.npy"

Plane = npt.NDArray[np.float64]


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Moment(_Strict):
    """The held-out pairs after ``step`` steps.

    ``images`` and ``texts`` are positions [N, 2] in the common plane; ``similarity`` [N, N] holds the cosines of
    picture i and caption j, rounded to three digits. ``loss`` is that of the step, None before the first.
    """

    step: int
    epoch: int
    loss: float | None
    recall_at_1: float
    modality_gap: float
    images: list[list[float]]
    texts: list[list[float]]
    similarity: list[list[float]]


class Trace(_Strict):
    """A whole trace. ``thumbnails`` are JPEGs in base64, one for each pair or none at all."""

    version: Literal[1] = 1
    captions: list[str]
    thumbnails: list[str]
    moments: list[Moment]


@dataclass(frozen=True, slots=True)
class _Seen:
    """What is known of a moment besides its vectors."""

    step: int
    epoch: int
    loss: float | None
    recall_at_1: float


class TraceWriter:
    """Takes vectors moment by moment and keeps ``trace.jsonl`` up to date. Not thread-safe."""

    def __init__(self, folder: Path, captions: Sequence[str], thumbnails: Sequence[str], *, done: int = 0) -> None:
        """Go on after ``done`` steps: later moments are forgotten. Raises StorageError."""
        self._folder = folder
        self._captions = list(captions)
        self._thumbnails = list(thumbnails)
        self._seen: list[_Seen] = []
        self._vectors = np.empty((0, 2, len(captions), 0), np.float16)  # [F, 2, N, D]
        self._plane: Plane | None = None  # [D, 2]
        if done:
            self._resume(done)

    def add(
        self, images: Vectors, texts: Vectors, *, step: int, epoch: int, loss: float | None, recall_at_1: float
    ) -> None:
        """Add the unit vectors [N, D] of a moment and write the trace. Raises StorageError."""
        moment = np.stack([images, texts]).astype(np.float16)[None]  # [1, 2, N, D]
        self._vectors = moment if not self._seen else np.concatenate([self._vectors, moment])
        self._seen.append(_Seen(step, epoch, loss, recall_at_1))
        self._plane = plane_of(images, texts, like=self._plane)
        buffer = io.BytesIO()
        np.save(buffer, self._vectors)
        replace_file(self._folder / VECTORS_NAME, buffer.getvalue())
        replace_file(self._folder / TRACE_NAME, _lines(self.trace()).encode())

    def trace(self) -> Trace:
        """Everything so far, seen in the plane of the newest moment."""
        assert self._plane is not None
        return Trace(
            captions=self._captions,
            thumbnails=self._thumbnails,
            moments=[
                _moment(seen, vectors, self._plane) for seen, vectors in zip(self._seen, self._vectors, strict=True)
            ],
        )

    def finish(self) -> None:
        """Remove the vectors; the trace stays."""
        (self._folder / VECTORS_NAME).unlink(missing_ok=True)

    def _resume(self, done: int) -> None:
        """Take up an earlier part of the run; where its files are missing or damaged, begin a new trace."""
        try:
            before = read_trace(self._folder / TRACE_NAME)
            vectors = np.load(self._folder / VECTORS_NAME, allow_pickle=False)
        except (SourceError, OSError, ValueError):
            return
        if before.captions != self._captions or len(vectors) < len(before.moments):
            return
        kept = [moment for moment in before.moments if moment.step <= done]
        self._seen = [_Seen(m.step, m.epoch, m.loss, m.recall_at_1) for m in kept]
        self._vectors = vectors[: len(kept)]
        if kept:
            images, texts = self._vectors[-1].astype(np.float32)
            self._plane = plane_of(images, texts)


def plane_of(images: Vectors, texts: Vectors, *, like: Plane | None = None) -> Plane:
    """Two orthonormal directions [D, 2] in which the midpoints of pairs [N, D] differ most.

    They are turned within their plane as near to ``like`` as they can be (orthogonal Procrustes); without it, so that
    the larger coordinates are positive. One pair alone, or one dimension, gives zeros for what is missing.
    """
    midpoints = (images.astype(np.float64) + texts) / 2
    midpoints -= midpoints.mean(axis=0)
    directions = np.linalg.svd(midpoints, full_matrices=False)[2][:2].T  # [D, ≤ 2]
    plane = np.zeros((images.shape[1], 2))
    plane[:, : directions.shape[1]] = directions
    if like is None:
        positions = midpoints @ plane  # [N, 2]
        largest = positions[np.abs(positions).argmax(axis=0), [0, 1]]
        return plane * np.where(largest < 0, -1.0, 1.0)
    left, _, right = np.linalg.svd(plane.T @ like)
    turned: Plane = plane @ (left @ right)
    return turned


def read_trace(path: Path) -> Trace:
    """Read ``trace.jsonl``. Raises SourceError."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise SourceError(f"There is no readable trace at {path}; give the folder BUNDLE.training of a run.") from error
    try:
        head = json.loads(lines[0])
        moments = [Moment.model_validate_json(line) for line in lines[1:]]
        return Trace(**head, moments=moments)
    except (IndexError, TypeError, ValueError, ValidationError) as error:
        raise SourceError(f"{path} is not a trace of training, or of a newer version; train again.") from error


def _lines(trace: Trace) -> str:
    head = trace.model_dump_json(exclude={"moments"})
    return "".join(f"{line}\n" for line in (head, *(moment.model_dump_json() for moment in trace.moments)))


def _moment(seen: _Seen, vectors: npt.NDArray[np.float16], plane: Plane) -> Moment:
    images, texts = vectors.astype(np.float64)  # [N, D]
    return Moment(
        step=seen.step,
        epoch=seen.epoch,
        loss=None if seen.loss is None else round(seen.loss, 4),
        recall_at_1=round(seen.recall_at_1, 4),
        modality_gap=round(float(np.linalg.norm(images.mean(axis=0) - texts.mean(axis=0))), 4),
        images=_rounded(images @ plane),
        texts=_rounded(texts @ plane),
        similarity=_rounded(images @ texts.T),
    )


def _rounded(values: npt.NDArray[np.float64]) -> list[list[float]]:
    rows: list[list[float]] = (np.round(values, 3) + 0.0).tolist()  # + 0.0 makes -0.0 plain
    return rows
