"""Compositional suites: is a picture nearer to its caption than to a sentence of almost the same words that is false?

The drawn world brings its own swaps. Other suites come as JSON in SugarCrepe's format (Hsieh et al. 2023), an object or
a list of ``{"filename": ..., "caption": ..., "negative_caption": ...}``, with the pictures in a folder beside them.
Where the pictures are not at hand, the texts alone still say how far the text tower tells the two sentences apart.
Chance is 0.5, and a tie counts one half.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from sightline.errors import ImageError, SourceError
from sightline.images import ImageLimits, Pixels, PixelSpec, decode_image, to_pixels
from sightline.texts import TextLimits, fit_caption
from training.evaluation.bootstrap import Bootstrap, mean_intervals
from training.evaluation.encoding import EncodesPairs, encode_all_texts
from training.evaluation.places import TIE, Floats, Vectors
from training.evaluation.retrieval import Interval

PICTURES_AT_ONCE = 64
MAX_MISSING_SHARE = 0.05


class _Entry(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")

    filename: str
    caption: str
    negative_caption: str


@dataclass(frozen=True, slots=True)
class PairSuite:
    """Pictures' file names with a true and a false sentence each; ``folder`` holds the pictures, None: texts alone."""

    name: str
    filenames: tuple[str, ...]
    captions: tuple[str, ...]
    negatives: tuple[str, ...]
    folder: Path | None = None


def read_pairs(path: Path, folder: Path | None = None) -> PairSuite:
    """Read a suite in SugarCrepe's format; it is named as its file. Raises SourceError."""
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
        entries = TypeAdapter(list[_Entry]).validate_python(list(tree.values()) if isinstance(tree, dict) else tree)
    except (OSError, ValueError, ValidationError) as error:
        raise SourceError(
            f"{path} is not a suite of text pairs; give JSON with filename, caption and negative_caption in each entry."
        ) from error
    if not entries:
        raise SourceError(f"{path} holds no text pairs; give at least one.")
    if any(not entry.caption.strip() or not entry.negative_caption.strip() for entry in entries):
        raise SourceError(f"{path} holds an empty caption; fill it or remove the entry.")
    if folder is not None and not folder.is_dir():
        raise SourceError(f"{folder} is not a folder with pictures; check --pairs-images.")
    limits = TextLimits()
    return PairSuite(
        name=path.stem,
        filenames=tuple(entry.filename for entry in entries),
        captions=tuple(fit_caption(entry.caption, limits) for entry in entries),
        negatives=tuple(fit_caption(entry.negative_caption, limits) for entry in entries),
        folder=folder,
    )


@dataclass(frozen=True, slots=True)
class PairScore:
    """What a suite gave.

    ``ranked_rightly`` is the share of pictures nearer to their caption, with a bootstrap ``interval``; None without
    pictures. ``text_cosine`` is the mean cosine of a caption and its false twin (1: the text tower does not see the
    difference), ``unrelated_cosine`` that of a caption and the next entry's, for scale.
    ``num_missing`` pictures could not be read.
    """

    name: str
    num_pairs: int
    ranked_rightly: float | None
    interval: Interval | None
    text_cosine: float
    unrelated_cosine: float
    num_missing: int = 0


def score_pairs(
    encoder: EncodesPairs, suite: PairSuite, spec: PixelSpec | None, bootstrap: Bootstrap | None = None
) -> PairScore:
    """Score a suite; ``spec`` is how the encoder sees pictures. Raises SourceError where more than
    ``MAX_MISSING_SHARE`` of the pictures cannot be read."""
    images, rows = None, np.arange(len(suite.captions))
    if suite.folder is not None and spec is not None:
        images, rows = _encode_pictures(encoder, suite, suite.folder, spec)
    true = encode_all_texts(encoder, [suite.captions[row] for row in rows])
    false = encode_all_texts(encoder, [suite.negatives[row] for row in rows])
    return compare_pairs(suite.name, images, true, false, bootstrap, num_missing=len(suite.captions) - len(rows))


def compare_pairs(
    name: str,
    images: Vectors | None,
    true: Vectors,
    false: Vectors,
    bootstrap: Bootstrap | None = None,
    num_missing: int = 0,
) -> PairScore:
    """Score vectors, all float32 [N, D]."""
    rightly, interval = None, None
    if images is not None:
        won = _won(images, true, false)
        rightly = float(won.mean())
        if bootstrap is not None:
            low, high = mean_intervals(won[:, None], np.arange(len(won)), len(won), bootstrap)[0]
            interval = (float(low), float(high))
    return PairScore(
        name=name,
        num_pairs=len(true),
        ranked_rightly=rightly,
        interval=interval,
        text_cosine=float(np.einsum("nd,nd->n", true, false).mean(dtype=np.float64)),
        unrelated_cosine=float(np.einsum("nd,nd->n", true, np.roll(true, 1, axis=0)).mean(dtype=np.float64)),
        num_missing=num_missing,
    )


def pairs_ranked_rightly(images: Vectors, true: Vectors, false: Vectors) -> float:
    """The share of pictures nearer to their true text than to the false one, all [N, D]; a tie counts one half."""
    return float(_won(images, true, false).mean())


def _won(images: Vectors, true: Vectors, false: Vectors) -> Floats:
    lead = np.einsum("nd,nd->n", images, true) - np.einsum("nd,nd->n", images, false)  # [N]
    won: Floats = np.where(np.abs(lead) <= TIE, 0.5, lead > 0).astype(np.float64)
    return won


def _encode_pictures(
    encoder: EncodesPairs, suite: PairSuite, folder: Path, spec: PixelSpec
) -> tuple[Vectors, np.ndarray[tuple[int], np.dtype[np.int64]]]:
    """Vectors of the pictures that can be read, one for each entry, and the entries they belong to."""
    places: dict[str, int] = {}
    parts: list[Vectors] = []
    waiting: list[Pixels] = []
    missing: list[str] = []
    for filename in dict.fromkeys(suite.filenames):
        pixels = _read(folder, filename, spec)
        if pixels is None:
            missing.append(filename)
            continue
        places[filename] = len(places)
        waiting.append(pixels)
        if len(waiting) == PICTURES_AT_ONCE:
            parts.append(encoder.encode_pixels(np.stack(waiting)))
            waiting.clear()
    if waiting:
        parts.append(encoder.encode_pixels(np.stack(waiting)))
    if not parts or len(missing) > MAX_MISSING_SHARE * (len(places) + len(missing)):
        raise SourceError(
            f"{len(missing):,} of {len(places) + len(missing):,} pictures of {suite.name} cannot be read in {folder} "
            f"(first: {missing[0]}); check --pairs-images, or leave it out to compare the texts alone."
        )
    rows = [row for row, filename in enumerate(suite.filenames) if filename in places]
    vectors = np.concatenate(parts)[[places[suite.filenames[row]] for row in rows]]
    return vectors, np.array(rows, np.int64)


def _read(folder: Path, filename: str, spec: PixelSpec) -> Pixels | None:
    path = (folder / filename).resolve()
    if not path.is_relative_to(folder.resolve()):  # a suite must not read what lies elsewhere
        return None
    try:
        return to_pixels(decode_image(path.read_bytes(), ImageLimits()), spec)
    except (OSError, ImageError):
        return None


def names_of(suites: Sequence[PairSuite]) -> list[str]:
    """The suites' names. Raises SourceError where two are equal: their figures would hide each other."""
    names = [suite.name for suite in suites]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise SourceError(f"Two suites are named {twice}; rename one of the files.")
    return names
