"""An int8 image tower through OpenVINO: made once, kept in a bundle with a fingerprint of its own.

Post-training quantisation by NNCF: weights and activations to 8 bits with SmoothQuant (Xiao et al. 2022), ranges taken
from pictures like those to be encoded. Its vectors are near the original's, not equal to them, so an index built with
one must not be searched with the other: the quantised encoder is another encoder, and says so by its fingerprint.
CPU only. OpenVINO and NNCF are the optional extra ``int8``; serving needs the first of them alone.
"""

from __future__ import annotations

import importlib
import logging
import os
import threading
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from sightline.bundle import ImageEngine
from sightline.errors import DependencyMissing, EncoderUnsuitable
from sightline.images import Pixels, PixelSpec

IR_NAME = "image_tower_int8.xml"
MIN_HELD_OUT = 8
_BATCH = 16


class Int8ImageTower:
    """A compiled tower: uint8 ``[B, H, W, 3]`` → float32 ``[B, D]``, not normalised. Thread-safe.

    Each of ``num_streams`` callers has its own share of the cores. Raises DependencyMissing.
    """

    def __init__(self, path: Path, num_streams: int) -> None:
        openvino = _require("openvino")
        self._compiled = openvino.Core().compile_model(
            str(path), "CPU",
            {"NUM_STREAMS": str(num_streams), "PERFORMANCE_HINT": "THROUGHPUT", "ENABLE_CPU_PINNING": "NO"},
        )  # fmt: skip
        self._requests = threading.local()

    def __call__(self, pixels: Pixels) -> torch.Tensor:
        request = getattr(self._requests, "own", None)
        if request is None:
            request = self._requests.own = self._compiled.create_infer_request()
        found = request.infer([np.ascontiguousarray(pixels)], share_inputs=True)
        return torch.from_numpy(np.array(found[0], dtype=np.float32))  # [B, D]


def quantize_tower(
    tower: nn.Module, spec: PixelSpec, calibration: Pixels, held_out: Pixels, directory: Path, *, min_cosine: float
) -> ImageEngine:
    """Quantise an image tower in fp32 and write it into ``directory`` as OpenVINO IR.

    ``calibration`` and ``held_out``: uint8 ``[N, H, W, 3]``, different pictures. The mean cosine of original and
    quantised vectors over the held-out pictures must reach ``min_cosine``. Raises EncoderUnsuitable, DependencyMissing.
    """
    if len(held_out) < MIN_HELD_OUT or not len(calibration):
        raise EncoderUnsuitable(
            f"Quantising needs pictures to measure with, at least {MIN_HELD_OUT} for the check; name a larger folder."
        )
    os.environ.setdefault("NNCF_CI", "1")  # its switch for "send no telemetry"
    openvino, nncf = _require("openvino"), _require("nncf")
    logging.getLogger("nncf").setLevel(logging.ERROR)
    exact = _unit(np.concatenate([tower(_floats(held_out[i : i + _BATCH], spec)) for i in _steps(held_out)]))
    traced = openvino.convert_model(tower, example_input=_floats(calibration[:2], spec))
    traced.reshape([-1, 3, spec.height_px, spec.width_px])
    samples = [_floats(calibration[i : i + 1], spec).numpy() for i in range(len(calibration))]
    quantized = nncf.quantize(
        traced, nncf.Dataset(samples), subset_size=len(samples), model_type=nncf.ModelType.TRANSFORMER
    )
    openvino.save_model(_with_preprocessing(quantized, spec), directory / IR_NAME, compress_to_fp16=False)
    engine = Int8ImageTower(directory / IR_NAME, num_streams=1)
    rough = _unit(np.concatenate([engine(held_out[i : i + _BATCH]).numpy() for i in _steps(held_out)]))
    cosines = (exact * rough).sum(axis=1)  # [N]
    if cosines.mean() < min_cosine:
        raise EncoderUnsuitable(
            f"In int8 the vectors have a mean cosine of {cosines.mean():.4f} to the original's and {min_cosine} is "
            "asked for; keep bf16, or give more and more typical pictures."
        )
    return ImageEngine(
        kind="openvino-int8", file=IR_NAME, num_calibration=len(calibration), num_held_out=len(held_out),
        mean_cosine=float(cosines.mean()), min_cosine=float(cosines.min()),
    )  # fmt: skip


def _with_preprocessing(model: Any, spec: PixelSpec) -> Any:
    """Float, layout and normalisation inside the graph, so that it takes uint8 ``[B, H, W, 3]``."""
    preprocess = importlib.import_module("openvino.preprocess").PrePostProcessor(model)
    openvino = _require("openvino")
    step = preprocess.input()
    step.tensor().set_element_type(openvino.Type.u8).set_layout(openvino.Layout("NHWC"))
    step.model().set_layout(openvino.Layout("NCHW"))
    step.preprocess().convert_element_type(openvino.Type.f32).mean([255.0 * mean for mean in spec.mean]).scale(
        [255.0 * std for std in spec.std]
    )
    return preprocess.build()


def _floats(pixels: Pixels, spec: PixelSpec) -> torch.Tensor:
    batch = torch.from_numpy(np.ascontiguousarray(pixels)).permute(0, 3, 1, 2).float() / 255.0  # [B, 3, H, W]
    return (batch - torch.tensor(spec.mean).view(1, 3, 1, 1)) / torch.tensor(spec.std).view(1, 3, 1, 1)


def _unit(features: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    return np.asarray(features / np.linalg.norm(features, axis=1, keepdims=True), dtype=np.float32)


def _steps(pixels: Pixels) -> range:
    return range(0, len(pixels), _BATCH)


def _require(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise DependencyMissing(
            f"An int8 encoder needs {name}, which is not installed; pip install 'sightline[int8]'."
        ) from error
