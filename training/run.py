"""A whole training run: check everything that can be checked, read the data, train, export."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from sightline.bundle import BundleManifest
from sightline.encoder.checkpoint import Checkpoint
from sightline.encoder.load import choose_device
from sightline.errors import RecipeError, StorageError
from sightline.storage import storage_errors
from training import distributed
from training.adapters import attach
from training.checkpoint import FILE_NAME, read_checkpoint
from training.data import Progress
from training.ema import Ema
from training.export import export_bundle
from training.features import require_locked
from training.loop import OnStage, OnStep, StageBegun, Step, train
from training.model import build_checkpoint
from training.objective import Objective
from training.objectives import Temperature
from training.preparation import Material, prepare, read_data, trained_on
from training.recipe import Recipe
from training.stages import select
from training.teacher import frozen_teacher, load_teacher, mean_teacher, require_readable
from training.towers import Towers
from training.vocabulary import widen
from training.watching import Watch


@dataclass(frozen=True, slots=True)
class Finished:
    """What a run gave. ``rejected`` counts samples left out, by reason; ``folder`` holds log and trace."""

    manifest: BundleManifest
    last: Step
    num_pictures: int
    num_captions: int
    rejected: dict[str, int]
    folder: Path
    stages: tuple[StageBegun, ...]


def train_bundle(
    recipe: Recipe,
    data: str,
    out: Path,
    *,
    held_out: str | None = None,
    resume: bool = False,
    device: str = "auto",
    num_threads: int | None = None,
    on_data: Progress | None = None,
    on_step: OnStep | None = None,
    on_stage: OnStage | None = None,
    say: Callable[[str], None] | None = None,
    warn: Callable[[str], None] | None = None,
) -> Finished:
    """Train a recipe on captioned pictures and publish the bundle ``out``.

    Log, trace and checkpoints lie in ``OUT.training`` beside it; the checkpoint goes when the bundle is
    published, the rest stays. ``held_out`` pictures (by default the split held-out of ``data``) are looked at during
    the run and never learnt from. ``num_threads`` is torch's, by default one for each core. Under torchrun the
    processes train together, and only the first one writes and speaks.

    Raises RecipeError, SourceError, StorageError, TrainingStopped, or what an encoder to fine-tune raises;
    nothing is written under ``out`` before the end.
    """
    if num_threads is not None:
        torch.set_num_threads(num_threads)
    with distributed.processes(choose_device(device)) as chosen:
        told = _Told(on_data, on_step, on_stage, say or _nothing, warn or _nothing)
        return _Run(recipe, data, out, held_out, resume, chosen, told if distributed.rank() == 0 else _Told()).finish()


def _nothing(sentence: str) -> None:
    """What a process without a voice says."""


@dataclass(frozen=True, slots=True)
class _Told:
    """Who is told how a run goes; by default nobody."""

    on_data: Progress | None = None
    on_step: OnStep | None = None
    on_stage: OnStage | None = None
    say: Callable[[str], None] = _nothing
    warn: Callable[[str], None] = _nothing


@dataclass(frozen=True, slots=True)
class _Run:
    recipe: Recipe
    data: str
    out: Path
    held_out: str | None
    resume: bool
    device: torch.device
    told: _Told

    def finish(self) -> Finished:
        """From the recipe to the published bundle."""
        recipe, told = self.recipe, self.told
        recipe.export.require()
        folder = self._folder()
        checkpoint = self._checkpoint()
        teacher = self._frozen_teacher(checkpoint)
        told.say(f"Reading {self.data} …")
        pairs, other = read_data(recipe, checkpoint, self.data, self.held_out, folder, on_data=told.on_data)
        if other is None and recipe.watch.looks:
            told.warn(
                "There are no held-out pictures, so nothing will show how retrieval goes during the run; name some "
                "with --held-out, or put a split named held-out beside the training data."
            )
        checkpoint.model.to(self.device)
        material = prepare(
            recipe, checkpoint, pairs, other, data=self.data, folder=folder, say=told.say, resume=self.resume
        )
        num_parameters = sum(parameter.numel() for parameter in checkpoint.model.parameters())
        told.say(
            f"Training {recipe.name}: {num_parameters:,} parameters on {len(pairs):,} pictures with "
            f"{len(material.captions):,} captions, {recipe.num_steps:,} steps of {recipe.training.batch_size} on "
            f"{trained_on(self.device)} …"
        )
        stages: list[StageBegun] = []
        emas: dict[str, Ema] = {}
        last = self._train(checkpoint, teacher, material, emas, stages, folder)
        manifest = distributed.from_first(lambda: self._export(checkpoint, material, emas, last, folder))
        return Finished(manifest, last, len(pairs), len(material.captions), pairs.rejected, folder, tuple(stages))

    def _train(
        self,
        checkpoint: Checkpoint,
        teacher: Checkpoint | None,
        material: Material,
        emas: dict[str, Ema],
        stages: list[StageBegun],
        folder: Path,
    ) -> Step:
        """Train the checkpoint's model in place; fills ``emas`` and ``stages``."""
        recipe = self.recipe
        kind = recipe.objective.kind_for(has_bias=getattr(checkpoint.model, "logit_bias", None) is not None)
        # Before running means are made of the model: it may put the scale elsewhere.
        temperature = Temperature(recipe.objective.temperature, checkpoint.model, kind=kind, num_steps=recipe.num_steps)
        objective = self._objective(checkpoint, teacher, material, emas)
        name = run_name(recipe, material.train.digest)
        saved = read_checkpoint(folder, run=name) if self.resume else None

        def began(stage: StageBegun) -> None:
            stages.append(stage)
            if self.told.on_stage is not None:
                self.told.on_stage(stage)

        with Watch(
            recipe.watch,
            folder,
            num_steps=recipe.num_steps,
            steps_per_epoch=material.batches.steps_per_epoch,
            warmup_steps=recipe.training.warmup_steps,
            done=0 if saved is None else saved["step"],
            held_out=material.held_out,
            encode=objective.encode,
            warn=self.told.warn,
            writes=distributed.rank() == 0,
        ) as watch:
            last = train(
                objective,
                material.batches,
                recipe,
                run=name,
                folder=folder,
                watch=watch,
                temperature=temperature,
                emas=emas,
                saved=saved,
                on_step=self.told.on_step,
                on_stage=began,
            )
            watch.finish()
        return last

    def _frozen_teacher(self, checkpoint: Checkpoint) -> Checkpoint | None:
        """The encoder that a distillation names, where it does."""
        distillation = self.recipe.objective.distillation
        if distillation.alpha == 0 or distillation.teacher == "ema":
            return None
        if self.recipe.training.cache_features:
            raise RecipeError("A frozen teacher looks at pictures; leave cache_features in [training] out.")
        teacher = load_teacher(distillation.teacher, checkpoint, accept_licence=self.recipe.model.accept_licence)
        require_readable(teacher, checkpoint, self.recipe.data)
        return teacher

    def _folder(self) -> Path:
        """The run's folder; the first process makes it ready for all."""
        return distributed.from_first(lambda: prepare_folder(self.out, resume=self.resume))

    def _checkpoint(self) -> Checkpoint:
        """The model with its adapters, after every stage has been looked at."""
        recipe = self.recipe
        checkpoint = build_checkpoint(recipe)
        attach(checkpoint, recipe.adapters, seed=recipe.seed)
        if recipe.training.cache_features:
            require_locked(recipe.stages, recipe.adapters)
        for stage in recipe.plan:
            select(checkpoint.model, stage, fixed_scale=not recipe.objective.temperature.learnt)
        if recipe.training.gradient_checkpointing:
            checkpoint.model.set_grad_checkpointing(True)  # type: ignore[operator]
        return checkpoint

    def _objective(
        self, checkpoint: Checkpoint, teacher: Checkpoint | None, material: Material, emas: dict[str, Ema]
    ) -> Objective:
        """The loss of the recipe, on the device; adds the running means that it or the export needs to ``emas``."""
        recipe, precision = self.recipe, self.recipe.training.precision
        warm_up = recipe.training.ema_warm_up
        if recipe.training.ema_decay is not None:
            emas["ema"] = Ema(checkpoint.model, recipe.training.ema_decay, warm_up=warm_up)
        taught: Towers | None = None
        if teacher is not None:
            taught = frozen_teacher(
                teacher,
                checkpoint,
                texts=material.captions,
                tokens=material.tokens,
                vocabulary=material.vocabulary,
                precision=precision,
            )
        elif recipe.objective.distillation.alpha > 0:
            emas["teacher"] = Ema(checkpoint.model, recipe.objective.distillation.ema_decay, warm_up=warm_up)
            taught = mean_teacher(checkpoint, emas["teacher"], precision=precision)
        pixels = checkpoint.pixels
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe.seed)  # an adversary's first weights
            objective = Objective(
                checkpoint.model,
                pixels.mean,
                pixels.std,
                recipe.objective,
                precision=precision,
                teacher=taught,
                dim=checkpoint.model_cfg["embed_dim"],
            )
        return objective.to(self.device)

    def _export(
        self, checkpoint: Checkpoint, material: Material, emas: dict[str, Ema], last: Step, folder: Path
    ) -> BundleManifest:
        """Publish the bundle."""
        recipe = self.recipe
        if recipe.export.weights == "ema":
            checkpoint.model.load_state_dict(emas["ema"].model.state_dict())
        if recipe.training.gradient_checkpointing:
            checkpoint.model.set_grad_checkpointing(False)  # type: ignore[operator]
        if material.vocabulary is not None:
            widen(checkpoint.model, material.vocabulary)
        self.told.say(f"Writing {self.out} …")
        manifest = export_bundle(
            checkpoint,
            self.out,
            recipe=recipe,
            data_sha256=material.train.digest,
            num_pictures=len(material.train),
            last=last,
            settings=recipe.export,
        )
        (folder / FILE_NAME).unlink(missing_ok=True)
        return manifest


def folder_of(out: Path) -> Path:
    """Where a run keeps its log, trace and checkpoint."""
    return out.with_name(f"{out.name}.training")


def prepare_folder(out: Path, *, resume: bool) -> Path:
    """The run's folder ``OUT.training``, empty unless resuming; an unfinished run moves to
    ``OUT.training.old``.

    Raises StorageError when ``out`` is taken.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise StorageError(f"{out} exists already and is not empty; choose another --out or remove it.")
    folder = folder_of(out)
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
