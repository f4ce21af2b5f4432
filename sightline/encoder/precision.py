"""bf16 towers on CPUs with bf16 matrix units, when they give the same vectors.

On an AMX machine ViT-B/32 encodes 2 to 4 times as many images in bf16 as in fp32, from batch 1 to batch 32, and four
times as many captions. A tower of 6 million parameters still gains at every batch size, one of 1.5 million loses at
small ones, so towers below 4 million stay in fp32 (``python -m benchmarks.encode``; docs/benchmarks.md).
"""

from __future__ import annotations

import copy
from pathlib import Path

import torch
from torch import nn

MIN_COSINE = 0.999
MIN_PARAMETERS = 4_000_000
_PROBES = 4


def has_bf16_matrix_units(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether this CPU multiplies bf16 matrices in hardware (AMX or AVX-512 BF16); False where it cannot be told."""
    try:
        flags = cpuinfo.read_text(encoding="ascii", errors="replace")
    except OSError:
        return False
    return "amx_bf16" in flags or "avx512_bf16" in flags


def bf16_copy(tower: nn.Module, probe: torch.Tensor) -> nn.Module | None:
    """A bf16 copy of a tower, or None when it is too small to gain or misses the parity gate.

    The gate encodes ``probe`` with both towers and asks for a cosine of at least ``MIN_COSINE`` for each.
    """
    if sum(parameter.numel() for parameter in tower.parameters()) < MIN_PARAMETERS:
        return None
    low = copy.deepcopy(tower).to(torch.bfloat16)
    with torch.inference_mode():
        exact = nn.functional.normalize(tower(probe).float(), dim=-1)  # [B, D]
        rough = nn.functional.normalize(
            low(probe.to(torch.bfloat16) if probe.is_floating_point() else probe).float(), dim=-1
        )
    cosine = (exact * rough).sum(dim=-1).min().item()
    return low if cosine >= MIN_COSINE else None


def probe_images(height_px: int, width_px: int) -> torch.Tensor:
    """Smooth random pictures, normalised like photos: float32 ``[4, 3, H, W]``."""
    coarse = torch.randn(_PROBES, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    return nn.functional.interpolate(coarse, size=(height_px, width_px), mode="bicubic")  # [B, 3, H, W]


def probe_tokens(context_length: int, vocabulary_size: int) -> torch.Tensor:
    """Random texts of four lengths, each ended by the highest token and padded with 0: int64 ``[4, L]``."""
    tokens = torch.randint(
        1, vocabulary_size - 2, (_PROBES, context_length), generator=torch.Generator().manual_seed(0)
    )  # [B, L]
    for row in range(_PROBES):
        end = (row + 1) * (context_length - 1) // _PROBES
        tokens[row, end] = vocabulary_size - 1
        tokens[row, end + 1 :] = 0
    return tokens
