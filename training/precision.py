"""The arithmetic of the towers' forward pass in training."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from sightline.encoder.precision import has_bf16_matrix_units


@contextlib.contextmanager
def arithmetic(precision: str, device: torch.device) -> Iterator[None]:
    """``fp32`` leaves everything as it is, ``bf16`` is autocast, ``auto`` is bf16 where the hardware multiplies it.

    In bf16 on a CPU torch's fused attention is slow backwards: that pass took 173 ms with it and 67 ms
    with plain matrix products (a small ViT, 128 pairs, two cores with AMX), so attention is
    done with those.
    """
    if precision == "auto":
        precision = "bf16" if device.type == "cuda" or has_bf16_matrix_units() else "fp32"
    if precision == "fp32":
        yield
        return
    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.autocast(device.type, torch.bfloat16))
        if device.type == "cpu":
            stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        yield
