"""A trained model as an encoder bundle: adapters folded in, loaded back and compared before it gets its name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from sightline.bundle import BundleManifest, is_bundle, read_manifest
from sightline.encoder import write_bundle
from sightline.encoder.checkpoint import Checkpoint, load_checkpoint
from sightline.encoder.load import fingerprint
from sightline.encoder.runtime import Encoder
from sightline.encoder.spec import parse_spec
from training.adapters import merge
from training.export_settings import ExportSettings
from training.loop import Step
from training.onnx_export import write_graphs
from training.recipe import Recipe

ONNX_FOLDER = "onnx"


def export_bundle(
    checkpoint: Checkpoint,
    out: Path,
    *,
    recipe: Recipe,
    data_sha256: str,
    num_pictures: int,
    last: Step,
    settings: ExportSettings | None = None,
) -> BundleManifest:
    """Write the bundle ``out`` with its provenance: the recipe, what it was trained on and how it ended.

    A fine-tuned encoder whose image tower did not move names the encoders that give pictures the same vectors, so that
    their collections can be taken over. Raises StorageError when ``out`` exists, BundleCorrupt when the written bundle
    gives other vectors.
    """
    merge(checkpoint.model).eval().requires_grad_(False).to("cpu")

    def add_graphs(encoder: Encoder, directory: Path) -> None:
        folder = directory / ONNX_FOLDER
        folder.mkdir()
        write_graphs(encoder, folder)

    return write_bundle(
        checkpoint,
        out,
        provenance={
            "recipe": recipe.model_dump(mode="json"),
            "data": {"sha256": data_sha256, "num_pictures": num_pictures},
            "training": {"steps": last.step, "last_loss": last.loss},
        },
        same_images_as=same_images_as(checkpoint, recipe.model.encoder, recipe.model.accept_licence),
        add_files=add_graphs if settings is not None and settings.onnx else None,
    )


def same_images_as(checkpoint: Checkpoint, base_spec: str | None, accept_licence: str | None = None) -> tuple[str, ...]:
    """Fingerprints of the encoders that give every picture the same vector as this one, bit for bit: the base, where no
    tensor of the image tower differs, and what the base itself names."""
    if base_spec is None:
        return ()
    spec = parse_spec(base_spec)
    base = load_checkpoint(spec, accept_licence=accept_licence)
    if base.pixels != checkpoint.pixels or not _same_state(_image_state(base), _image_state(checkpoint)):
        return ()
    named = read_manifest(spec.path).same_images_as if spec.path is not None and is_bundle(spec.path) else None
    return (fingerprint(base), *(named or ()))


def _image_state(checkpoint: Checkpoint) -> dict[str, Any]:
    return dict(checkpoint.model.visual.state_dict())  # type: ignore[union-attr]


def _same_state(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
