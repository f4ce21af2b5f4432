"""What each figure means, in a sentence, and whether to set a threshold on it. The report prints these."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase


@dataclass(frozen=True, slots=True)
class Meaning:
    """``patterns`` are names of figures with wildcards; ``gate`` says whether to let a build fail on them."""

    title: str
    patterns: tuple[str, ...]
    text: str
    gate: bool
    advice: str


MEANINGS = (
    Meaning(
        "Recall at 1, 5, 10",
        ("*_recall_at_1", "*_recall_at_5", "*_recall_at_10"),
        "The share of queries with a right answer among the first k. text_to_image asks with the first caption of each "
        "picture, any_text_to_image with every caption, image_to_text with the picture (any of its captions counts).",
        True,
        "Gate on it: the same pictures, the same number of them, and a fall larger than the interval. Recall among "
        "1,000 pictures cannot be compared with recall among 5,000.",
    ),
    Meaning(
        "Median rank",
        ("*_median_rank",),
        "Half of the queries have their answer at this place or before.",
        False,
        "Coarse: it stays at 1 long after recall has begun to fall.",
    ),
    Meaning(
        "mAP",
        ("*_map",),
        "Mean average precision: where all right answers stand, not only the best. With one answer for each query it "
        "is the mean of 1/place.",
        True,
        "Gate on it where pictures have several captions and all of them matter.",
    ),
    Meaning(
        "nDCG",
        ("*_ndcg", "*_ndcg_at_10"),
        "Gain of the answers, discounted by the logarithm of their place, as a share of the best possible; graded by "
        "the metadata key weights where there is one. At 10 only the first ten places count.",
        True,
        "Gate on nDCG at 10 where captions are graded.",
    ),
    Meaning(
        "Naming",
        ("zero_shot_*",),
        "Zero-shot accuracy with an ensemble of prompts for each class. The mean per class counts rare classes as much "
        "as common ones.",
        True,
        "Gate on your own classes; look at the worst class before the mean.",
    ),
    Meaning(
        "Word order and other text pairs",
        ("swaps_ranked_rightly", "pairs_*"),
        "The share of pictures nearer to their caption than to a false sentence of almost the same words; 0.5 is "
        "chance, and most published encoders stay below 0.75 on swaps. The text cosine says how alike the two "
        "sentences are to the text tower: 1 means that it cannot tell them apart whatever the picture.",
        True,
        "Gate on the share, never on the text cosine.",
    ),
    Meaning(
        "Typographic attack",
        ("typographic_*",),
        "Of the pictures named rightly, the flip rate is the share that is named as a word written on it says; the "
        "control does the same with letters that are no word.",
        True,
        "Gate on the difference to the control where strangers can put writing into pictures.",
    ),
    Meaning(
        "Cosine of matched and unmatched pairs",
        ("matched_cosine*", "unmatched_cosine*"),
        "How alike pictures are to their own captions and to others. Matched cosines near 0.3 are normal for CLIP, "
        "near 0.1 for SigLIP: training only asks that they exceed the others.",
        False,
        "Never gate on it, and never carry a threshold from one encoder to another.",
    ),
    Meaning(
        "Overlap and AUC",
        ("similarity_overlap", "similarity_auc"),
        "The area that the two distributions share, and the chance that a matched pair is more alike than an unmatched "
        "one.",
        False,
        "An AUC above 0.99 is easy, since most unmatched pairs have nothing in common; use it to see collapse.",
    ),
    Meaning(
        "Modality gap",
        ("modality_gap", "distribution_gap"),
        "The distance between the mean picture and the mean caption, and what differs between the two clouds when "
        "their means are put together. A low temperature in training widens the first; neither predicts retrieval.",
        False,
        "Never gate on it. Subtract the means at search time if pictures and texts are mixed in one collection.",
    ),
    Meaning(
        "Alignment and uniformity",
        ("alignment", "image_uniformity", "text_uniformity"),
        "The mean squared distance of matched pairs, and how evenly each modality fills the sphere (0 is collapse, "
        "-4 is even). Lower is better for each, and one is bought with the other.",
        False,
        "Watch them during training; do not gate on either alone.",
    ),
    Meaning(
        "Neighbour overlap",
        ("neighbour_*", "text_neighbour_*"),
        "How many of the ten nearest pictures are the same as under the base encoder, for pictures and for captions.",
        False,
        "There is no right value: tuning must move neighbours. A fall without a gain in recall is forgetting.",
    ),
    Meaning(
        "Counts",
        ("num_*",),
        "How many pictures, captions or pairs the figures rest on.",
        False,
        "Check that they are what you think you measured.",
    ),
)


def meaning_of(name: str) -> Meaning | None:
    """The meaning of a figure of ``Report.values()``."""
    return next((one for one in MEANINGS if any(fnmatchcase(name, pattern) for pattern in one.patterns)), None)


def meanings_of(names: Iterable[str]) -> list[Meaning]:
    """The meanings of several figures, in their own order."""
    found = {id(meaning_of(name)) for name in names}
    return [one for one in MEANINGS if id(one) in found]
