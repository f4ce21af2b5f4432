"""How good the weights of either side are, by the same evaluator: both become bundles first."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import torch

from benchmarks.indexing.watch import watch
from benchmarks.training.photos.data import HELD_OUT
from benchmarks.training.photos.ours import environment
from sightline.encoder import write_bundle
from training.model import build_checkpoint
from training.recipe import Recipe

R_AT_10 = "any_text_to_image_recall_at_10"
KEPT = (R_AT_10, "any_text_to_image_recall_at_1", "image_to_text_recall_at_10", "num_images", "num_captions")


def bundle_of_peer(recipe: Recipe, checkpoint: Path, out: Path) -> None:
    """The peer's weights in the recipe's architecture as a bundle; every tensor must fit."""
    built = build_checkpoint(recipe)
    saved = torch.load(checkpoint, map_location="cpu", weights_only=True)["state_dict"]
    built.model.load_state_dict({name.removeprefix("module."): tensor for name, tensor in saved.items()})
    built.model.eval().requires_grad_(False)
    shutil.rmtree(out, ignore_errors=True)
    write_bundle(built, out, provenance={"trained_with": "open_clip_train"})


def score(bundle: Path, data: str, log: Path) -> dict[str, float]:
    """``sightline evaluate`` on the held-out photos, in fp32. Raises CommandFailed."""
    command = [
        sys.executable, "-m", "sightline", "evaluate", "--encoder", str(bundle), "--data", data, "--split", HELD_OUT,
        "--device", "cpu", "--precision", "fp32", "--json",
    ]  # fmt: skip
    found = json.loads(watch(command, log, environment()).stdout)
    return {name: float(found[name]) for name in KEPT}
