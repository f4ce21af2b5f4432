"""Both towers as ONNX, for runtimes without torch: pixels or token ids in, unit vectors out.

The preprocessing that can go wrong outside (scaling, mean, std, normalising to length 1) is inside the graphs:
``image.onnx`` takes uint8 pixels [B, H, W, 3] and ``text.onnx`` int64 token ids [B, context]. Decoding, resizing and
tokenising stay with the caller. The files are run once and compared with the encoder before they count as written.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from sightline.encoder.checkpoint import Checkpoint
from sightline.encoder.load import wrap_checkpoint
from sightline.encoder.runtime import Encoder
from sightline.errors import BundleCorrupt, DependencyMissing
from sightline.storage import new_directory

IMAGE_NAME, TEXT_NAME, ABOUT_NAME = "image.onnx", "text.onnx", "onnx.json"
MAX_DIFFERENCE = 1e-4
"""Another runtime sums in another order: 1e-6 to 1e-5 is usual in fp32, a wrong graph is at 0.1 and above."""

_NEEDS = ("onnx", "onnxruntime", "onnxscript")
_MAX_ONE_FILE_BYTES = 1_800_000_000
_PROBE_TEXTS = ("a photo of a dog", "two people on a beach at sunset", "RED circle, left of a blue square!")


class _Images(nn.Module):
    """uint8 ``[B, H, W, 3]`` → unit vectors float32 ``[B, D]``."""

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, checkpoint: Checkpoint) -> None:
        super().__init__()
        self.visual: nn.Module = checkpoint.model.visual  # type: ignore[assignment]
        self.register_buffer("mean", torch.tensor(checkpoint.pixels.mean).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(checkpoint.pixels.std).view(1, 3, 1, 1))

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        images = pixels.permute(0, 3, 1, 2).float() / 255.0  # [B, 3, H, W]
        return nn.functional.normalize(self.visual((images - self.mean) / self.std), dim=-1)


class _Texts(nn.Module):
    """int64 ``[B, context]`` → unit vectors float32 ``[B, D]``."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        super().__init__()
        self.model: Any = checkpoint.model

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return nn.functional.normalize(self.model.encode_text(tokens), dim=-1)


def require_onnx() -> None:
    """Raise DependencyMissing unless the extra ``onnx`` is installed."""
    missing = [name for name in _NEEDS if find_spec(name) is None]
    if missing:
        raise DependencyMissing(f"ONNX export needs {', '.join(missing)}; run: pip install sightline[onnx].")


def export_onnx(checkpoint: Checkpoint, out: Path) -> dict[str, Any]:
    """Write a new folder with both graphs and ``onnx.json``, which is returned.

    Raises DependencyMissing, StorageError, or BundleCorrupt when a graph gives other vectors than the encoder.
    """
    require_onnx()
    with new_directory(out) as directory:
        return write_graphs(wrap_checkpoint(checkpoint, device="cpu", precision="fp32"), directory)


def write_graphs(encoder: Encoder, directory: Path) -> dict[str, Any]:
    """Write the graphs of an fp32 encoder on the CPU into an existing directory; see ``export_onnx``."""
    require_onnx()
    checkpoint, spec = encoder.checkpoint, encoder.identity.pixels
    pixels = np.random.default_rng(0).integers(0, 256, (2, spec.height_px, spec.width_px, 3), dtype=np.uint8)
    tokens = encoder.tokenize(_PROBE_TEXTS)  # [3, L]
    differences = {}
    for name, graph, key, values, expected in (
        (IMAGE_NAME, _Images(checkpoint), "pixels", pixels, encoder.encode_pixels(pixels)),
        (TEXT_NAME, _Texts(checkpoint), "tokens", tokens, encoder.encode_tokens(tokens)),
    ):
        _write(graph, key, torch.from_numpy(values), directory / name)
        found = _run(directory / name, key, values)
        alone = _run(directory / name, key, values[:1])
        worst = max(float(np.abs(found - expected).max()), float(np.abs(alone - expected[:1]).max()))
        if not worst <= MAX_DIFFERENCE:
            raise BundleCorrupt(
                f"{name} gives other vectors than the encoder (by {worst:.2g}); the export was not published."
            )
        differences[name] = worst
    about = {
        "fingerprint": encoder.fingerprint,
        "dim": encoder.dim,
        "image": {"file": IMAGE_NAME, "input": "pixels", "dtype": "uint8", "shape": ["B", *pixels.shape[1:]]},
        "text": {"file": TEXT_NAME, "input": "tokens", "dtype": "int64", "shape": ["B", tokens.shape[1]]},
        "output": {"name": "vectors", "dtype": "float32", "shape": ["B", encoder.dim], "length": 1},
        "max_difference": differences,
    }
    (directory / ABOUT_NAME).write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
    return about


def _write(graph: nn.Module, key: str, example: torch.Tensor, path: Path) -> None:
    num_bytes = sum(p.numel() * p.element_size() for p in graph.parameters())
    with _plain_attention(), torch.inference_mode(False), torch.no_grad():
        torch.onnx.export(
            graph.eval(),
            (example,),
            path,
            input_names=[key],
            output_names=["vectors"],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            external_data=num_bytes > _MAX_ONE_FILE_BYTES,
            dynamo=True,
            verbose=False,
        )


@contextlib.contextmanager
def _plain_attention() -> Iterator[None]:
    """Without torch's fused inference kernel for attention, which has no form in ONNX."""
    enabled = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(enabled)


def _run(path: Path, key: str, values: Any) -> Any:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(["vectors"], {key: values})[0]
