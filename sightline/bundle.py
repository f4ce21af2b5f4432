"""The encoder bundle: an encoder on disk, complete, verified, and named by what it does.

A bundle is a directory that open_clip itself loads as ``local-dir:`` (``open_clip_config.json`` with preprocessing and
activation written out, ``open_clip_model.safetensors``, tokenizer files where the tokenizer is not built in), plus
``sightline.json``: identity, contract and a SHA-256 for every other file. This module knows the format only; torch and
open_clip enter in ``sightline.encoder``. All functions are thread-safe.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from sightline.errors import BundleCorrupt, EncoderUnknown
from sightline.images import PixelSpec
from sightline.storage import FileRecord, first_difference, record_files
from sightline.texts import TextSpec

MANIFEST_NAME = "sightline.json"
CONFIG_NAME = "open_clip_config.json"
WEIGHTS_NAME = "open_clip_model.safetensors"


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ScoreScale(_Strict):
    """How a checkpoint turns inner products into probabilities.

    ``softmax``: softmax(scale · score) over the labels; ``sigmoid``: sigmoid(scale · score + bias) for each label
    (SigLIP, Zhai et al. 2023). ``scale`` is the exponentiated logit scale.
    """

    kind: Literal["softmax", "sigmoid"]
    scale: float
    bias: float


class ImageEngine(_Strict):
    """An image tower other than the weights, and how near its vectors were to theirs on held-out pictures."""

    kind: Literal["openvino-int8"]
    file: str
    num_calibration: int
    num_held_out: int
    mean_cosine: float
    min_cosine: float


class BundleManifest(_Strict):
    """``sightline.json``. ``fingerprint`` names the function (weights, architecture, preprocessing, text handling):
    two encoders with the same fingerprint give the same vectors up to rounding, whatever file they came from.

    ``same_images_as`` are fingerprints of encoders with the same image tower, tensor by tensor, and another text tower:
    vectors of pictures that one of them made are also this one's, vectors of texts are not."""

    schema_version: Literal[1] = 1
    name: str
    fingerprint: str
    dim: int
    pixels: PixelSpec
    texts: TextSpec
    score_scale: ScoreScale
    licence: str
    image_engine: ImageEngine | None = None
    same_images_as: tuple[str, ...] | None = None
    provenance: dict[str, Any] = {}
    files: dict[str, FileRecord] = {}


def fingerprint_of(
    *, weights_sha256: str, architecture: dict[str, Any], pixels: dict[str, Any], texts: dict[str, Any]
) -> str:
    """64 hex digits over everything that decides a vector; inputs are JSON-serialisable and order does not matter."""
    parts = {"weights": weights_sha256, "architecture": architecture, "pixels": pixels, "texts": texts}
    canonical = json.dumps(parts, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(canonical.encode()).hexdigest()


def engine_fingerprint(base: str, engine: ImageEngine, engine_sha256: str) -> str:
    """The fingerprint of an encoder whose image tower is an engine: another one than ``base``, that of its weights."""
    return hashlib.sha256(f"{base}|{engine.kind}|{engine_sha256}".encode()).hexdigest()


def is_bundle(path: Path) -> bool:
    """Whether ``path`` is a directory that claims to be a bundle."""
    return (path / MANIFEST_NAME).is_file()


def read_manifest(path: Path) -> BundleManifest:
    """Read ``sightline.json`` without touching the weights. Raises EncoderUnknown or BundleCorrupt."""
    if not is_bundle(path):
        raise EncoderUnknown(
            f"{path} is not an encoder bundle (it has no {MANIFEST_NAME}); "
            "make one with: sightline encoder pull SPEC --out BUNDLE."
        )
    try:
        return BundleManifest.model_validate_json((path / MANIFEST_NAME).read_bytes())
    except (OSError, ValidationError, ValueError) as error:
        raise BundleCorrupt(
            f"{path / MANIFEST_NAME} is damaged or of a newer version; restore the bundle or update Sightline."
        ) from error


def verify_bundle(path: Path) -> BundleManifest:
    """Read the manifest and compare the SHA-256 of every file with it. Raises BundleCorrupt naming the file."""
    manifest = read_manifest(path)
    difference = first_difference(path, manifest.files)
    if difference is not None:
        raise BundleCorrupt(f"{difference}; copy the bundle again or restore it from a backup.")
    return manifest


def seal_bundle(directory: Path, manifest: BundleManifest) -> BundleManifest:
    """Record every file of a finished directory in the manifest and write ``sightline.json`` last."""
    sealed = manifest.model_copy(update={"files": record_files(directory, leave_out=MANIFEST_NAME)})
    (directory / MANIFEST_NAME).write_text(sealed.model_dump_json(indent=2, exclude_none=True) + "\n", encoding="utf-8")
    return sealed
