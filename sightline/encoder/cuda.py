"""The image tower on a GPU: pinned buffers, a stream for each thread, one CUDA graph for each batch size.

A batch of uint8 pixels is copied into pinned memory and from there asynchronously to the device; float, scale,
normalise and the tower are one recorded graph, so that a small batch does not wait for a hundred kernel launches.
Batches are padded to the next power of two: no shape is met that was not recorded. Two threads, each with a stream of
its own, keep two batches in flight: one is copied while the other is computed.

Written after the CUDA documentation and tested by ``make test-gpu`` only; where a graph cannot be recorded the tower
runs without.
"""

from __future__ import annotations

import logging
import threading

import numpy as np
import torch
from torch import nn

from sightline.images import Pixels, PixelSpec

MAX_BATCH = 256
_WARM_RUNS = 3

logger = logging.getLogger(__name__)


class CudaImageTower:
    """uint8 ``[B, H, W, 3]`` → float32 features ``[B, D]`` on the CPU, not normalised. Thread-safe.

    Each calling thread has buffers and graphs of its own, made at its first batch of a size.
    """

    def __init__(self, tower: nn.Module, spec: PixelSpec, device: torch.device) -> None:
        self._tower = tower.to(device).eval()
        self._spec = spec
        self._device = device
        self._dtype = next(tower.parameters()).dtype
        self._mean = torch.tensor(spec.mean, device=device).view(1, 3, 1, 1)
        self._std = torch.tensor(spec.std, device=device).view(1, 3, 1, 1)
        self._lanes = threading.local()

    def __call__(self, pixels: Pixels) -> torch.Tensor:
        lane: dict[int, _Bucket] | None = getattr(self._lanes, "buckets", None)
        if lane is None:
            lane = self._lanes.buckets = {}
            self._lanes.stream = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        parts = []
        for start in range(0, len(pixels), MAX_BATCH):
            part = pixels[start : start + MAX_BATCH]
            size = bucket_of(len(part))
            if size not in lane:
                lane[size] = _Bucket(self, size, self._lanes.stream)
            parts.append(lane[size].run(part))
        return torch.cat(parts)  # [B, D]

    def features(self, pixels: torch.Tensor) -> torch.Tensor:
        """uint8 ``[B, H, W, 3]`` on the device → float32 ``[B, D]`` on the device."""
        batch = pixels.permute(0, 3, 1, 2).float().div(255.0)  # [B, 3, H, W]
        batch = batch.sub(self._mean).div(self._std).to(self._dtype)
        return self._tower(batch).float()  # type: ignore[no-any-return]


class _Bucket:
    """Buffers and the graph of one batch size on one stream."""

    def __init__(self, tower: CudaImageTower, size: int, stream: torch.cuda.Stream) -> None:
        spec = tower._spec
        shape = (size, spec.height_px, spec.width_px, 3)
        self._tower = tower
        self._stream = stream
        self._staging = torch.zeros(shape, dtype=torch.uint8).pin_memory()  # [size, H, W, 3]
        self._input = torch.zeros(shape, dtype=torch.uint8, device=tower._device)
        with torch.cuda.stream(stream):
            for _ in range(_WARM_RUNS):
                output = tower.features(self._input)
        stream.synchronize()
        self._output = output
        self._result = torch.zeros(output.shape, dtype=torch.float32).pin_memory()  # [size, D]
        self._graph = self._record()

    def _record(self) -> torch.cuda.CUDAGraph | None:
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph, stream=self._stream, capture_error_mode="thread_local"):
                self._output = self._tower.features(self._input)
        except RuntimeError:
            logger.warning("The image tower cannot be recorded as a CUDA graph; it runs without.", exc_info=True)
            return None
        return graph

    def run(self, pixels: Pixels) -> torch.Tensor:
        num = len(pixels)
        self._staging[:num].copy_(torch.from_numpy(np.ascontiguousarray(pixels)))
        with torch.cuda.stream(self._stream):
            self._input.copy_(self._staging, non_blocking=True)
            if self._graph is not None:
                self._graph.replay()
            else:
                self._output = self._tower.features(self._input)
            self._result.copy_(self._output, non_blocking=True)
        self._stream.synchronize()
        return self._result[:num].clone()


def bucket_of(size: int) -> int:
    """The power of two, at most ``MAX_BATCH``, that a batch is padded to."""
    return min(MAX_BATCH, 1 << (size - 1).bit_length())
