"""A trained model as an encoder bundle: loaded back and compared before it gets its name
(``sightline.encoder``)."""

from __future__ import annotations

from pathlib import Path

from sightline.bundle import BundleManifest
from sightline.encoder import write_bundle
from sightline.encoder.checkpoint import Checkpoint
from training.loop import Step
from training.recipe import Recipe


def export_bundle(
    checkpoint: Checkpoint, out: Path, *, recipe: Recipe, data_sha256: str, num_pictures: int, last: Step
) -> BundleManifest:
    """Write the bundle ``out`` with its provenance: the recipe, what it was trained on and how it ended.

    Raises StorageError when ``out`` exists, BundleCorrupt when the written bundle gives other vectors.
    """
    checkpoint.model.eval().requires_grad_(False).to("cpu")
    return write_bundle(
        checkpoint,
        out,
        provenance={
            "recipe": recipe.model_dump(mode="json"),
            "data": {"sha256": data_sha256, "num_pictures": num_pictures},
            "training": {"steps": last.step, "last_loss": last.loss},
        },
    )
