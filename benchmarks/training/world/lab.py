"""Everything that the experiments of one seed share: the drawn pictures, fresh models, and one plainly trained base."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import nn

from benchmarks.training.world.batches import DrawnBatches, Tokenised, Tokenizer, Tokens, tokenise
from benchmarks.training.world.fit import Fitted, fit
from benchmarks.training.world.scenes import PLAIN, SHIFTED, SIDE_PX, STYLES, Style, Told, list_apart, told
from sightline.encoder.checkpoint import Checkpoint
from training.model import build_checkpoint
from training.recipe import Recipe, Training
from training.vocabulary import narrow
from training.world.scene import Scene, Split

CONTEXT_LENGTH = 20


@dataclass(frozen=True)
class Size:
    """How much of everything. ``steps`` multiplies the steps of every experiment."""

    num_train: int = 8000
    num_held_out: int = 400
    base_steps: int = 400
    steps: float = 1.0

    def of(self, num_steps: int) -> int:
        """That many steps at this size."""
        return max(4, round(self.steps * num_steps))


QUICK = Size(num_train=256, num_held_out=40, base_steps=6, steps=0.02)


class Lab:
    """The bench of one seed. ``folder`` keeps the base's weights, so that every experiment starts from the same."""

    def __init__(self, seed: int, folder: Path, size: Size) -> None:
        self.seed, self.folder, self.size = seed, folder, size
        self._tokenizer = Tokenizer(CONTEXT_LENGTH)

    @cached_property
    def train(self) -> Tokenised:
        """Training pictures in the plain style."""
        return self._draw(PLAIN, "train")

    @cached_property
    def train_without_mates(self) -> Tokenised:
        """Training pictures in the plain style, of a scene and its swap only ever one."""
        return self._tokenised(self._without_mates)

    @cached_property
    def train_listed(self) -> Tokenised:
        """The pictures of ``train_without_mates`` with captions that list colours and shapes: which belongs to which
        goes unsaid."""
        lists = tuple(list_apart(scene, self.seed) for scene in self._without_mates.scenes)
        listed = replace(self._without_mates, captions=lists, swaps=(None,) * len(lists))
        return self._tokenised(listed)

    @cached_property
    def held_out(self) -> Tokenised:
        """Pictures of scenes of which training has none."""
        return self._draw(PLAIN, "held-out")

    @cached_property
    def shifted_train(self) -> Tokenised:
        """Training pictures in the other style: other words, other backgrounds."""
        return self._draw(SHIFTED, "train")

    @cached_property
    def shifted_held_out(self) -> Tokenised:
        """Held-out pictures in the other style."""
        return self._draw(SHIFTED, "held-out")

    def fresh(self, *, logit_bias: float | None = None) -> Checkpoint:
        """An untrained model of this seed; with ``logit_bias`` one for the sigmoid loss."""
        checkpoint = build_checkpoint(RECIPE.model_copy(update={"seed": self.seed}))
        narrow(checkpoint.model, self._vocabulary)
        model = checkpoint.model
        if logit_bias is not None:
            model.logit_bias = nn.Parameter(torch.tensor(logit_bias))
        return checkpoint

    def base(self) -> tuple[Checkpoint, dict[str, float]]:
        """A model trained plainly, in eval mode, with how that went. A new copy each time.

        One picture in eleven is of the other style: as a pretrained encoder, it has met, rarely, the words and looks
        that it will be tuned to.
        """

        def make(checkpoint: Checkpoint) -> Fitted:
            data = self.train.joined_with_first(len(self.train) // 10, self.shifted_train)
            return self.fit(checkpoint, data, self.training(self.size.base_steps, scaled=False))

        return self._kept("base", make)

    def untaught(self) -> Checkpoint:
        """A model trained plainly on whole sentences, of a scene and its swap only ever one."""

        def make(checkpoint: Checkpoint) -> Fitted:
            data = self.train_without_mates
            return self.fit(checkpoint, data, self.training(self.size.base_steps, scaled=False))

        return self._kept("untaught", make)[0]

    def unasked(self) -> Checkpoint:
        """A model whose towers know which colour belongs to which thing, and whose alignment was never asked for it.

        CLIP in small: its image and its text vectors each tell who is who, but captions of the web can be told apart
        without that (LABCLIP). Here both towers learn it from swapped captions, then get new heads that learn, alone,
        from captions that only list what there is.
        """

        def make(checkpoint: Checkpoint) -> Fitted:
            checkpoint.model.load_state_dict(self.untaught().model.state_dict())
            checkpoint.model.requires_grad_(True)
            training = self.training(self.size.base_steps, scaled=False, learning_rate=5e-4, muon_learning_rate=2.5e-3)
            fit(checkpoint, self.batches(self.train_without_mates, training, negatives=True), training, seed=self.seed)
            self._new_heads(checkpoint)
            training = self.training(self.size.base_steps, scaled=False)
            batches = self.batches(self.train_listed, training)
            return fit(checkpoint, batches, training, seed=self.seed, parts=("image-head", "text-head"))

        return self._kept("unasked", make)[0]

    def training(self, num_steps: int, *, scaled: bool = True, **settings: object) -> Training:
        """The optimiser's settings of all experiments, but for what one of them varies."""
        steps = self.size.of(num_steps) if scaled else num_steps
        values = {"warmup_steps": min(20, steps // 4), "batch_size": 128, "learning_rate": 1e-3, **settings}
        return Training.model_validate(
            {"num_steps": steps, "optimizer": "muon", "muon_learning_rate": 5e-3, "weight_decay": 0.05, "beta2": 0.95,
             "epsilon": 1e-8, "precision": "auto", **values}
        )  # fmt: skip

    def fit(self, checkpoint: Checkpoint, data: Tokenised, training: Training) -> Fitted:
        """Train the whole model on ``data`` with the plain loss."""
        return fit(checkpoint, self.batches(data, training), training, seed=self.seed)

    def batches(self, data: Tokenised, training: Training, *, negatives: bool = False) -> DrawnBatches:
        """The batches of a run."""
        size = min(training.batch_size, len(data))
        return DrawnBatches(data, batch_size=size, seed=self.seed, negatives=negatives)

    def _kept(self, name: str, make: Callable[[Checkpoint], Fitted]) -> tuple[Checkpoint, dict[str, float]]:
        """What ``make`` trains, made once for a seed: in eval mode, a new copy each time."""
        path = self.folder / f"{name}-{self.seed}.pt"
        if not path.is_file():
            checkpoint = self.fresh()
            fitted = make(checkpoint)
            self.folder.mkdir(parents=True, exist_ok=True)
            torch.save({"model": checkpoint.model.state_dict(), "figures": fitted.as_json()}, path)
        saved = torch.load(path, weights_only=True)
        checkpoint = copy.deepcopy(self._empty)
        checkpoint.model.load_state_dict(saved["model"])
        checkpoint.model.eval()
        return checkpoint, saved["figures"]

    def _new_heads(self, checkpoint: Checkpoint) -> None:
        """Projections of both towers drawn anew, as open_clip draws them."""
        chance = torch.Generator().manual_seed(self.seed)
        for projection in (checkpoint.model.visual.proj, checkpoint.model.text_projection):  # type: ignore[union-attr]
            assert isinstance(projection, nn.Parameter)
            projection.data.copy_(torch.randn(projection.shape, generator=chance) * projection.shape[0] ** -0.5)

    @cached_property
    def _empty(self) -> Checkpoint:
        return self.fresh()

    def scenes(self, split: Split) -> tuple[Scene, ...]:
        """The scenes of ``train`` or of ``held_out``."""
        return self._told[PLAIN, split].scenes

    @cached_property
    def _told(self) -> dict[tuple[Style, Split], Told]:
        counts: dict[Split, int] = {"train": self.size.num_train, "held-out": self.size.num_held_out}
        return {(style, split): told(self.seed, style, split, num) for style in STYLES for split, num in counts.items()}

    @cached_property
    def _without_mates(self) -> Told:
        return told(self.seed, PLAIN, "train", self.size.num_train, mates=False)

    @cached_property
    def _vocabulary(self) -> Tokens:
        texts = [one.captions for one in self._told.values()]  # swaps have the words of captions
        texts.append(tuple(list_apart(scene, self.seed) for scene in self.scenes("train")))
        return np.unique(np.concatenate([self._tokenizer(several).ravel() for several in texts]))

    def _draw(self, style: Style, split: Split) -> Tokenised:
        return self._tokenised(self._told[style, split])

    def _tokenised(self, scenes: Told) -> Tokenised:
        return tokenise(scenes, scenes.paint(self.seed), self._tokenizer, self._vocabulary)


RECIPE = Recipe.model_validate(
    {
        "name": "small-world",
        "model": {
            "embed_dim": 64,
            "init_logit_scale": 20.0,
            "vision": {"image_size": SIDE_PX, "patch_size": 8, "layers": 3, "width": 96, "head_width": 32},
            "text": {"context_length": CONTEXT_LENGTH, "layers": 2, "width": 96, "heads": 3},
        },
        "training": {"num_steps": 1, "batch_size": 2, "learning_rate": 1e-3},
    }
)
"""A ViT on 16 patches and a text tower of the same width: 0.6 million parameters beside the few words in use."""
