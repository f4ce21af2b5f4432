"""A whole training run: check everything that can be checked, read the data, train, export."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from sightline.bundle import BundleManifest
from sightline.encoder.checkpoint import Tokenizer, load_tokenizer
from sightline.encoder.load import choose_device
from sightline.errors import StorageError
from sightline.storage import storage_errors
from training import data as captioned_data
from training.checkpoint import FILE_NAME
from training.data import Batches, Progress, Tokens
from training.export import export_bundle
from training.loop import OnStep, Step, train
from training.model import build_checkpoint
from training.objective import Objective
from training.recipe import Recipe
from training.vocabulary import narrow, widen

_TOKENIZE_AT_ONCE = 4096


@dataclass(frozen=True, slots=True)
class Finished:
    """What a run gave. ``rejected`` counts samples left out, by reason; ``folder`` holds the log."""

    manifest: BundleManifest
    last: Step
    num_pictures: int
    num_captions: int
    rejected: dict[str, int]
    folder: Path


def train_bundle(
    recipe: Recipe,
    data: str,
    out: Path,
    *,
    resume: bool = False,
    device: str = "auto",
    num_threads: int | None = None,
    on_data: Progress | None = None,
    on_step: OnStep | None = None,
    say: Callable[[str], None] | None = None,
) -> Finished:
    """Train a recipe on captioned pictures and publish the bundle ``out``.

    Log and checkpoints lie in ``OUT.training`` beside it; the checkpoint goes when the bundle is
    published, the log stays. ``num_threads`` is torch's, by default one for each core. Raises
    RecipeError, SourceError, StorageError, TrainingStopped, or what an encoder to fine-tune raises;
    nothing is written under ``out`` before the end.
    """
    tell = say or (lambda text: None)
    folder = prepare_folder(out, resume=resume)
    if num_threads is not None:
        torch.set_num_threads(num_threads)
    chosen = choose_device(device)
    checkpoint = build_checkpoint(recipe)
    source = captioned_data.split_source(data, "train")
    tell(f"Reading {source} …")
    pairs = captioned_data.read_captioned(source, checkpoint.pixels, progress=on_data)
    tokens = tokenize(load_tokenizer(checkpoint), [text for several in pairs.captions for text in several])
    vocabulary = narrow(checkpoint.model, tokens)
    batches = Batches(
        pairs.pixels,
        tokens if vocabulary is None else vocabulary.compact(tokens),
        [len(several) for several in pairs.captions],
        batch_size=recipe.training.batch_size,
        seed=recipe.seed,
        group_size=recipe.training.group_size,
    )
    parameters = sum(p.numel() for p in checkpoint.model.parameters())
    tell(
        f"Training {recipe.name}: {parameters:,} parameters on {len(pairs):,} pictures with {len(tokens):,} captions, "
        f"{recipe.training.num_steps:,} steps of {recipe.training.batch_size} on {chosen.type} …"
    )
    last = train(
        Objective(checkpoint.model, checkpoint.pixels.mean, checkpoint.pixels.std),
        batches,
        recipe.training,
        seed=recipe.seed,
        run=run_name(recipe, pairs.digest),
        folder=folder,
        device=chosen,
        resume=resume,
        on_step=on_step,
    )
    if vocabulary is not None:
        widen(checkpoint.model, vocabulary)
    tell(f"Writing {out} …")
    manifest = export_bundle(
        checkpoint, out, recipe=recipe, data_sha256=pairs.digest, num_pictures=len(pairs), last=last
    )
    (folder / FILE_NAME).unlink(missing_ok=True)
    return Finished(manifest, last, len(pairs), len(tokens), pairs.rejected, folder)


def prepare_folder(out: Path, *, resume: bool) -> Path:
    """The run's folder ``OUT.training``, empty unless resuming; an unfinished run moves to
    ``OUT.training.old``.

    Raises StorageError when ``out`` is taken.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise StorageError(f"{out} exists already and is not empty; choose another --out or remove it.")
    folder = out.with_name(f"{out.name}.training")
    with storage_errors(f"write {folder}"):
        if not resume and (folder / FILE_NAME).is_file():
            old = folder.with_name(f"{folder.name}.old")  # hours of work may lie there: one is kept
            shutil.rmtree(old, ignore_errors=True)
            folder.rename(old)
        elif not resume:
            shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True, exist_ok=True)
    return folder


def run_name(recipe: Recipe, data_sha256: str) -> str:
    """What a checkpoint belongs to: recipe and data, as 64 hex digits."""
    return hashlib.sha256(f"{recipe.model_dump_json()}\n{data_sha256}".encode()).hexdigest()


def tokenize(tokenizer: Tokenizer, texts: list[str]) -> Tokens:
    """Token ids int64 [T, L] of many texts; each different text is tokenised once."""
    different = list(dict.fromkeys(texts))
    parts = [
        np.asarray(tokenizer(different[start : start + _TOKENIZE_AT_ONCE]), dtype=np.int64)
        for start in range(0, len(different), _TOKENIZE_AT_ONCE)
    ]
    place = {text: row for row, text in enumerate(different)}
    rows = np.fromiter((place[text] for text in texts), np.int64, len(texts))
    found: Tokens = np.concatenate(parts)[rows]  # [T, L]
    return found
