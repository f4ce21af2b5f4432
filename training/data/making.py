"""From captioned pictures and the [data] table to batches."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from sightline.errors import RecipeError, SourceError
from training.batch import Features, Tokens
from training.data.augmentation import Augmentation
from training.data.batches import Batches, Texts, Tokenize
from training.data.captioned import Captioned, caption_key, content_hashes, numbered
from training.data.captions import Wording
from training.data.epochs import Sampling, labels_of
from training.data.negatives import Negatives, supplied_negatives
from training.data.neighbours import Neighbours
from training.data.settings import DataSettings

_TOKENIZE_AT_ONCE = 4096


def make_batches(
    data: Captioned,
    settings: DataSettings,
    tokenize: Tokenize,
    *,
    batch_size: int,
    seed: int,
    group_size: int = 1,
    neighbours: Neighbours | None = None,
    features: Features | None = None,
) -> Batches:
    """The batches of a run. ``tokenize`` gives token ids int64 [n, L] of texts; captions are tokenised once here, and
    in each step only where ``settings`` change or add texts. ``neighbours`` (see ``training.data.mining``) come
    together in groups of ``settings.mining.group_size``; ``features`` float32 [N, F] take the place of the pixels.

    Raises SourceError for data that do not fit the settings, RecipeError for settings that do not fit each other.
    """
    if features is not None and settings.augmentation.on:
        raise RecipeError(
            "[data.augmentation] changes pictures, and this run reads cached features instead of pictures; "
            "leave one of the two out."
        )
    if settings.balance_by is not None and group_size > 1:
        raise RecipeError("balance_by in [data] draws pictures one by one; leave group_size in [training] out.")
    if neighbours is not None and neighbours.data != data.digest:
        raise SourceError("The hard neighbours belong to other data; mine them again.")
    flat = [text for several in data.captions for text in several]
    keys = [caption_key(text) for text in flat]
    sayings = numbered(keys)  # [T]
    sampling = Sampling(
        group_size=group_size if neighbours is None else settings.mining.group_size,
        neighbours=None if neighbours is None else neighbours.rows,
        labels=None if settings.balance_by is None else labels_of(data.metadata, settings.balance_by),
        apart=settings.no_duplicates,
        contents=numbered(content_hashes(data.pixels)) if settings.no_duplicates else None,
        sayings=sayings if settings.no_duplicates else None,
    )
    tokens = tokenize_all(tokenize, flat)  # [T, L]
    return Batches(
        data.pixels,
        tokens,
        [len(several) for several in data.captions],
        batch_size=batch_size,
        seed=seed,
        features=features,
        sampling=sampling,
        captions_per_image=settings.captions_per_image,
        texts=_texts(data, settings, tokenize, flat, keys, sayings, tokens, seed),
        augmentation=Augmentation(settings.augmentation, seed) if settings.augmentation.on else None,
        equal_captions_are_positives=settings.equal_captions_are_positives,
        relevance=None if settings.relevance_key is None else _relevance(data, settings.relevance_key),
    )


def tokenize_all(tokenize: Tokenize, texts: Sequence[str]) -> Tokens:
    """Token ids int64 [T, L] of many texts; each different text is tokenised once."""
    different = list(dict.fromkeys(texts))
    parts = [
        np.asarray(tokenize(different[start : start + _TOKENIZE_AT_ONCE]), dtype=np.int64)
        for start in range(0, len(different), _TOKENIZE_AT_ONCE)
    ]
    place = {text: row for row, text in enumerate(different)}
    rows = np.fromiter((place[text] for text in texts), np.int64, len(texts))
    found: Tokens = np.concatenate(parts)[rows]  # [T, L]
    return found


def _texts(
    data: Captioned,
    settings: DataSettings,
    tokenize: Tokenize,
    flat: list[str],
    keys: list[str],
    sayings: Tokens,
    tokens: Tokens,
    seed: int,
) -> Texts | None:
    """What captions say, where any setting needs to know it."""
    wording = Wording(settings.wording, seed) if settings.wording.on else None
    negatives = None
    if settings.negatives.per_image:
        key = settings.negatives.supplied_key
        supplied = supplied_negatives(data.metadata, key) if "supplied" in settings.negatives.kinds else []
        if settings.negatives.kinds == ("supplied",) and not any(supplied):
            raise SourceError(
                f"No picture has negatives in its metadata '{key}'; write them there, name another supplied_key in "
                "[data.negatives], or let rules make them (kinds)."
            )
        negatives = Negatives(settings.negatives, supplied, seed)
    if not (wording or negatives or settings.augmentation.on or settings.equal_captions_are_positives):
        return None
    used = np.unique(tokens)
    if wording or negatives:
        words = dict.fromkeys(word for text in flat for word in text.split())
        more: list[Iterable[str]] = [one.words() for one in (settings.wording if wording else None, negatives) if one]
        words.update(dict.fromkeys(word for several in more for word in several))
        used = np.union1d(used, tokenize_all(tokenize, list(words)))
    return Texts(
        flat,
        sayings,
        lambda texts: np.asarray(tokenize(list(texts)), dtype=np.int64),
        used,
        wording,
        negatives,
        dict(zip(keys, sayings.tolist(), strict=True)) if negatives else {},
    )


def _relevance(data: Captioned, key: str) -> Features:
    """How well each caption fits, float32 [T]; 1 where the data do not say."""
    grades: list[float] = []
    for row, (several, entry) in enumerate(zip(data.captions, data.metadata, strict=True)):
        value = entry.get(key, 1.0)
        values = value if isinstance(value, list) else [value] * len(several)
        if len(values) != len(several) or not all(_is_grade(one) for one in values):
            raise SourceError(
                f"'{key}' of {data.name_of(row)} is not a number from 0 to 1, or one for each of its "
                f"{len(several)} captions; correct it or leave relevance_key out."
            )
        grades += [float(one) for one in values]
    return np.array(grades, np.float32)


def _is_grade(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1
