"""What bf16 and text trimming bring, by size of the tower: ``python -m benchmarks.encode``.

Variants take turns, so that a machine that changes speed changes it for all; the median of the rounds counts.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from torch import nn

from benchmarks.machine import describe_machine
from sightline.encoder import load_encoder

IMAGE_BATCHES = (1, 32)
TEXT_BATCH = 64
CAPTION = "a brown dog runs along a wide beach at sunset"
# width, layers, patch and side of image towers from the demo's to ViT-B/32's
TOWERS = [(192, 3, 12, 48), (256, 6, 32, 224), (384, 12, 32, 224), (512, 12, 32, 224), (768, 12, 32, 224)]


def medians(variants: dict[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """Median seconds of each variant, after one round that does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for number in range(rounds + 1):
        for name, run in variants.items():
            started = time.perf_counter()
            run()
            if number:
                seconds[name].append(time.perf_counter() - started)
    return {name: statistics.median(times) for name, times in seconds.items()}


def image_tower(width: int, layers: int, patch: int, side: int) -> nn.Module:
    """An untrained ViT of the given size."""
    vision = {"image_size": side, "layers": layers, "width": width, "head_width": 64, "patch_size": patch}
    text = {"context_length": 8, "vocab_size": 64, "width": 64, "heads": 1, "layers": 1}
    model = open_clip.CLIP(512, vision, text)
    tower: nn.Module = model.visual
    return tower.eval().requires_grad_(False)


@torch.inference_mode()
def bf16_by_size(rounds: int) -> list[dict[str, Any]]:
    """Images/s in fp32 and bf16 for towers of growing size."""
    rows = []
    for size, batch in itertools.product(TOWERS, IMAGE_BATCHES):
        tower = image_tower(*size)
        low = copy.deepcopy(tower).to(torch.bfloat16)
        pixels = torch.randn(batch, 3, size[3], size[3])  # [B, 3, H, W]
        pixels_low = pixels.to(torch.bfloat16)
        times = medians({"fp32": lambda: tower(pixels), "bf16": lambda: low(pixels_low)}, rounds)  # noqa: B023
        rows.append(
            {
                "tower": "width {} layers {} patch {} side {}".format(*size),
                "parameters_millions": round(sum(p.numel() for p in tower.parameters()) / 1e6, 1),
                "batch": batch,
                "fp32_images_per_second": round(batch / times["fp32"], 1),
                "bf16_images_per_second": round(batch / times["bf16"], 1),
                "ratio": round(times["fp32"] / times["bf16"], 2),
            }
        )
    return rows


def text_trimming(rounds: int) -> dict[str, Any]:
    """Texts/s of ViT-B/32 with the full context of 77 tokens, and trimmed to the longest of the batch."""
    encoder = load_encoder("ViT-B-32:random", device="cpu", precision="fp32")
    tokens = encoder.tokenize([CAPTION] * TEXT_BATCH)  # [B, 77]
    model = encoder.checkpoint.model

    @torch.inference_mode()
    def full() -> None:
        model.encode_text(torch.from_numpy(tokens), normalize=True)  # type: ignore[operator]

    times = medians({"full": full, "trimmed": lambda: encoder.encode_tokens(tokens)}, rounds)
    return {
        "tokens": int(np.argmax(tokens[0])) + 1,
        "full_texts_per_second": round(TEXT_BATCH / times["full"], 1),
        "trimmed_texts_per_second": round(TEXT_BATCH / times["trimmed"], 1),
        "ratio": round(times["full"] / times["trimmed"], 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write the raw figures here")
    options = parser.parse_args()
    result: dict[str, Any] = {
        "machine": describe_machine(),
        "bf16": bf16_by_size(options.rounds),
        "text": text_trimming(options.rounds),
    }
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n")
    print("Machine:", ", ".join(f"{key} {value}" for key, value in result["machine"].items()))
    print(
        "\n| image tower | parameters (M) | batch | fp32 images/s | bf16 images/s | ratio |\n|---|---|---|---|---|---|"
    )
    for row in result["bf16"]:
        print("|", " | ".join(str(value) for value in row.values()), "|")
    print("\n| ViT-B/32 texts | 77 tokens, texts/s | trimmed, texts/s | ratio |\n|---|---|---|---|")
    print("|", " | ".join(str(value) for value in result["text"].values()), "|")


if __name__ == "__main__":
    main()
