"""How good an encoder is on captioned pictures: encode everything once, then measure.

``measure_vectors`` needs vectors alone; ``evaluate`` adds what the data allow: pictures with a scene record of the
drawn world are named by colour and by shape and asked for the right order of words, labelled ones are named by class.
Suites of text pairs, a typographic attack and a base encoder to compare with are taken where given.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from sightline.errors import SourceError
from sightline.images import Pixels, PixelSpec
from training.data import Captioned
from training.evaluation.bootstrap import Bootstrap
from training.evaluation.drawn_world import name_things, shape_labels, shape_vectors, single_scenes, swap_pairs
from training.evaluation.encoding import EncodesPairs, Progress, encode_all_pixels, encode_all_texts
from training.evaluation.labelled import Labelled, labelled_among
from training.evaluation.missed import missed_captions, missed_pictures
from training.evaluation.neighbours import NeighbourOverlap, neighbour_overlap
from training.evaluation.places import Answers, Floats, Places, Rows, Vectors, places_of
from training.evaluation.report import Measured, Report
from training.evaluation.retrieval import per_query, summarise
from training.evaluation.similarity import Histogram, geometry, similarities
from training.evaluation.text_pairs import PairScore, PairSuite, compare_pairs, names_of, score_pairs
from training.evaluation.typographic import TypographicAttack, attack
from training.evaluation.zero_shot import ClassesFile, ZeroShot, ensemble, zero_shot
from training.world.scene import SHAPES, Scene

Base = tuple[EncodesPairs, Captioned]
"""The encoder to compare neighbours with, and the same pictures as it sees them."""


def evaluate(
    encoder: EncodesPairs,
    data: Captioned,
    *,
    classes: ClassesFile | None = None,
    labelled: Labelled | None = None,
    suites: Sequence[PairSuite] = (),
    spec: PixelSpec | None = None,
    typographic: bool = False,
    base: Base | None = None,
    bootstrap: Bootstrap | None = None,
    progress: Progress | None = None,
) -> Report:
    """Encode every picture and caption once and measure. Deterministic for a deterministic encoder.

    ``classes`` names the pictures of ``labelled``, or without them those of ``data`` whose metadata name a class.
    ``spec`` is how the encoder sees the pictures of ``suites``; without it their texts alone are compared. Without
    ``bootstrap`` there are no intervals. Raises SourceError where the data do not allow what was asked for.
    """
    names_of(suites)
    if classes is not None and labelled is None:
        labelled = labelled_among(data, classes)
    singles = single_scenes(data.metadata)
    if typographic and classes is None and not singles:
        raise SourceError("The typographic attack needs pictures whose class is known; give --classes FILE.json.")
    scored = tuple(score_pairs(encoder, suite, spec, bootstrap) for suite in suites)  # first: pictures may be missing
    captions = [text for several in data.captions for text in several]
    images = encode_all_pixels(encoder, data.pixels, progress)  # [N, D]
    texts = encode_all_texts(encoder, captions, progress)  # [T, D]
    rows = data.caption_rows()
    measured = measure_vectors(images, texts, rows, weights=caption_weights(data), bootstrap=bootstrap)
    named: list[ZeroShot] = []
    if singles:
        named += name_things(encoder, images, singles, bootstrap)
    if classes is not None and labelled is not None:
        own = labelled.pixels is data.pixels
        known = (images if own else encode_all_pixels(encoder, labelled.pixels, progress))[labelled.rows]
        vectors = ensemble(encoder, [classes.prompts(name) for name in classes.classes])
        named.append(zero_shot("class", classes.classes, known, vectors, labelled.labels, bootstrap))
    return Report(
        num_images=len(images),
        num_captions=len(texts),
        measured=measured,
        named=tuple(named),
        swaps=_score_swaps(encoder, images, swap_pairs(data.metadata), bootstrap),
        suites=scored,
        typographic=_attack(encoder, data.pixels, singles, classes, labelled) if typographic else None,
        neighbours=None if base is None else _compare(images, texts, base, captions, progress),
        missed_pictures=missed_pictures(measured.text_ranks, texts, images, rows, captions),
        missed_captions=missed_captions(measured.image_ranks, images, texts, rows, captions),
    )


def measure_vectors(
    images: Vectors,
    texts: Vectors,
    image_rows: Rows,
    *,
    weights: Floats | None = None,
    bootstrap: Bootstrap | None = None,
) -> Measured:
    """Everything that vectors tell.

    ``images`` float32 [N, D] and ``texts`` [T, D] have rows of length 1; ``image_rows`` int64 [T] names the picture of
    each text; every picture has at least one. ``weights`` float64 [T] in [0, 1] grade the texts for nDCG.
    """
    everything = Histogram()
    answers = Answers.of_pairs(image_rows, np.arange(len(texts)), len(images), weights)
    by_image: Places = places_of(images, texts, answers, everything.add_sorted)
    by_text: Places = places_of(texts, images, Answers.one_each(image_rows))
    first = np.unique(image_rows, return_index=True)[1]  # [N]
    of_images, of_texts = per_query(by_image), per_query(by_text)
    return Measured(
        first_text_to_image=summarise(of_texts.take(first), len(images), image_rows[first], bootstrap),
        text_to_image=summarise(of_texts, len(images), image_rows, bootstrap),
        image_to_text=summarise(of_images, len(texts), np.arange(len(images)), bootstrap),
        similarities=similarities(everything, by_image.scores),
        geometry=geometry(images, texts, image_rows, by_image.scores),
        text_ranks=of_texts.ranks,
        image_ranks=of_images.ranks,
    )


def caption_weights(data: Captioned) -> Floats | None:
    """Graded relevance of the captions, float64 [T], from the metadata key ``weights``: a list of one number in [0, 1]
    for each caption. Pictures without such a list, or with all 0, grade their captions 1; None where no picture has
    one."""
    parts: list[list[float]] = []
    graded = False
    for record, several in zip(data.metadata, data.captions, strict=True):
        given = _grades(record, len(several))
        graded = graded or given is not None
        parts.append(given or [1.0] * len(several))
    return np.concatenate([np.array(part, np.float64) for part in parts]) if graded else None


def _grades(record: Mapping[str, Any], count: int) -> list[float] | None:
    given = record.get("weights")
    if not isinstance(given, list) or len(given) != count:
        return None
    if not all(isinstance(one, int | float) and 0 <= one <= 1 for one in given) or not any(given):
        return None
    return [float(one) for one in given]


def _score_swaps(
    encoder: EncodesPairs, images: Vectors, swaps: Mapping[int, tuple[str, str]], bootstrap: Bootstrap | None
) -> PairScore | None:
    if not swaps:
        return None
    true = encode_all_texts(encoder, [pair[0] for pair in swaps.values()])
    swapped = encode_all_texts(encoder, [pair[1] for pair in swaps.values()])
    return compare_pairs("drawn swaps", images[np.fromiter(swaps, np.int64, len(swaps))], true, swapped, bootstrap)


def _attack(
    encoder: EncodesPairs,
    pixels: Pixels,
    singles: Mapping[int, Scene],
    classes: ClassesFile | None,
    labelled: Labelled | None,
) -> TypographicAttack:
    """On the labelled pictures, or else by the shapes of the drawn world's single things."""
    if classes is not None and labelled is not None:
        vectors = ensemble(encoder, [classes.prompts(name) for name in classes.classes])
        return attack(encoder, labelled.pixels, labelled.rows, labelled.labels, classes.classes, vectors)
    rows = np.fromiter(singles, np.int64, len(singles))
    shapes = np.fromiter(shape_labels(singles).values(), np.int64, len(singles))
    return attack(encoder, pixels, rows, shapes, SHAPES, shape_vectors(encoder))


def _compare(
    images: Vectors, texts: Vectors, base: Base, captions: Sequence[str], progress: Progress | None
) -> NeighbourOverlap:
    encoder, data = base
    base_images = encode_all_pixels(encoder, data.pixels, progress)
    base_texts = encode_all_texts(encoder, captions, progress)
    return neighbour_overlap(images, texts, base_images, base_texts)
