"""From a recipe and a source to what the loop takes: captioned pictures read and checked, and batches of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from sightline.encoder.checkpoint import Checkpoint, Tokenizer, load_tokenizer
from sightline.errors import RecipeError, SourceError
from training import distributed
from training.batch import Features, Tokens
from training.data import (
    Batches,
    Captioned,
    Neighbours,
    Progress,
    check,
    load_neighbours,
    make_batches,
    read_captioned,
    split_source,
    tokenize_all,
)
from training.features import cached_features
from training.recipe import Recipe
from training.shared_pictures import read_once
from training.vocabulary import Vocabulary, narrow
from training.watching import HeldOut

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Material:
    """What a run learns from. ``captions`` are those of ``train`` one after the other, and ``tokens`` int64 [T, L] what
    batches hold for them; ``vocabulary`` says which token ids those stand for."""

    train: Captioned
    held_out: HeldOut | None
    batches: Batches
    vocabulary: Vocabulary | None
    captions: list[str]
    tokens: Tokens


def read_data(
    recipe: Recipe, checkpoint: Checkpoint, data: str, held_out: str | None, folder: Path, *, on_data: Progress | None
) -> tuple[Captioned, Captioned | None]:
    """The training pictures, and the held-out ones where there are any.

    ``held_out`` names another source; by default it is the split held-out of ``data``. Pictures that do not fit into
    memory lie in ``folder``; under torchrun the first process alone looks at the sources, and all pictures lie there.
    Raises SourceError and StorageError.
    """

    def read_train(path: Path | None) -> Captioned:
        source, budget = split_source(data, "train"), recipe.data.pixel_memory_bytes
        return read_captioned(
            source, checkpoint.pixels, progress=on_data, folder=folder, budget_bytes=budget, path=path
        )

    def read_held_out(path: Path | None) -> Captioned:
        assert other is not None
        return read_captioned(other, checkpoint.pixels, folder=folder, path=path)

    other = distributed.from_first(lambda: _held_out_split(data)) if held_out is None else held_out
    train = read_once(read_train, folder)
    return train, None if other is None else read_once(read_held_out, folder)


def prepare(
    recipe: Recipe,
    checkpoint: Checkpoint,
    train: Captioned,
    held_out: Captioned | None,
    *,
    data: str,
    folder: Path,
    say: Say,
    resume: bool = False,
) -> Material:
    """Check the data, and make the batches of a run; narrows the model's vocabulary to what comes up.

    ``train`` was read from ``data``. What takes long (features of a locked tower, hard neighbours) is computed by the
    first process and kept in ``folder``. Raises SourceError for data that cannot be learnt from, RecipeError where
    recipe and data do not fit.
    """
    training = recipe.training
    findings = check(train, held_out, batch_size=training.batch_size, allow_leakage=recipe.data.allow_leakage)
    for sentence in findings.sentences():
        say(sentence)
    if training.batch_size < distributed.world():
        raise RecipeError(
            f"A batch of {training.batch_size} cannot be shared by {distributed.world()} processes; "
            "raise batch_size in the recipe or lower --nproc-per-node."
        )
    tokenizer = load_tokenizer(checkpoint)
    features = [_features(recipe, checkpoint, data, folder, say) for data in (train, held_out)]
    batches = make_batches(
        train,
        recipe.data,
        lambda texts: np.asarray(tokenizer(texts), dtype=np.int64),
        batch_size=training.batch_size,
        seed=recipe.seed,
        group_size=training.group_size,
        neighbours=_neighbours(recipe, checkpoint, train, data, folder, say, resume=resume),
        features=features[0],
    )
    if distributed.world() > 1:
        batches.show_only(distributed.share)
    pairs = None if held_out is None else _held_out(held_out, tokenizer, features[1])
    used = batches.used_ids if pairs is None else np.union1d(batches.used_ids, pairs.tokens)
    vocabulary = narrow(checkpoint.model, used)
    captions = [text for several in train.captions for text in several]
    tokens = batches.caption_tokens
    if vocabulary is not None:
        batches.renumber(vocabulary.compact)
        tokens = vocabulary.compact(tokens)
        if pairs is not None:
            pairs = HeldOut(pairs.pixels, pairs.features, vocabulary.compact(pairs.tokens), pairs.captions)
    return Material(train, pairs, batches, vocabulary, captions, tokens)


def tokenize(tokenizer: Tokenizer, texts: list[str]) -> Tokens:
    """Token ids int64 [T, L] of many texts; each different text is tokenised once."""
    return tokenize_all(lambda some: np.asarray(tokenizer(some), dtype=np.int64), texts)


def _held_out_split(data: str) -> str | None:
    try:
        return split_source(data, "held-out", required=True)
    except SourceError:
        return None


def _features(
    recipe: Recipe, checkpoint: Checkpoint, data: Captioned | None, folder: Path, say: Say
) -> Features | None:
    """The outputs of a locked image tower, where the recipe asks for them to be computed once."""
    if data is None or not recipe.training.cache_features:
        return None
    device = next(checkpoint.model.parameters()).device

    def features() -> Features:
        return cached_features(checkpoint, data.pixels, folder, data_sha256=data.digest, device=device)

    def compute() -> None:
        features()

    say(f"Encoding {len(data):,} pictures once for all epochs …")
    distributed.from_first(compute)
    return features()


def _neighbours(
    recipe: Recipe, checkpoint: Checkpoint, train: Captioned, data: str, folder: Path, say: Say, *, resume: bool
) -> Neighbours | None:
    """Which pictures are each other's hard negatives, where the recipe asks an encoder for them."""
    encoder = recipe.data.mine_with
    if encoder is None:
        return None
    from training.data.mining import neighbours_for  # needs FAISS

    def mine() -> None:
        say(f"Looking for hard neighbours with {encoder} …")
        device = next(checkpoint.model.parameters()).device.type
        source, pixels = split_source(data, "train"), checkpoint.pixels
        licence = recipe.model.accept_licence
        mining = recipe.data.mining
        neighbours_for(
            encoder, source, train, pixels, mining, folder,
            device=device, accept_licence=licence, resume=resume,
        )  # fmt: skip

    distributed.from_first(mine)
    return load_neighbours(folder, train.digest)


def _held_out(data: Captioned, tokenizer: Tokenizer, features: Features | None) -> HeldOut:
    """Each held-out picture with its first caption."""
    captions = tuple(several[0] for several in data.captions)
    return HeldOut(data.pixels, features, tokenize(tokenizer, list(captions)), captions)


def trained_on(device: torch.device) -> str:
    """Where the run computes, in words."""
    return device.type if distributed.world() == 1 else f"{distributed.world()} processes on {device.type}"
