"""What bf16, packed weights and text trimming bring: ``python -m benchmarks.encode``.

Variants take turns, so that a machine that changes speed changes it for all; the median of the rounds counts.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import json
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import open_clip
import torch
from torch import nn

from benchmarks.machine import describe_machine
from sightline.encoder import load_encoder
from sightline.encoder.packing import pack_weights, with_quick_attention
from sightline.encoder.text_tower import text_tower

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


@torch.inference_mode()
def steps_on_one_core(rounds: int) -> list[dict[str, Any]]:
    """Items/s on one core of ViT-B/32 after each step: as open_clip has it, contiguous attention, bf16, packed.

    Texts are trimmed to the longest of the batch throughout, except for the first step's.
    """
    checkpoint = load_encoder("ViT-B-32:random", device="cpu", precision="fp32").checkpoint
    tokens = open_clip.get_tokenizer("ViT-B-32")([CAPTION] * TEXT_BATCH)  # [B, 77]
    pixels = torch.randn(max(IMAGE_BATCHES), 3, 224, 224)  # [B, 3, H, W]
    image: nn.Module = checkpoint.model.visual  # type: ignore[assignment]
    model: Any = checkpoint.model
    rows = []
    torch.set_num_threads(1)
    for kind, tower, probe in (("text", text_tower(model), tokens), ("image", image, pixels)):
        quick = with_quick_attention(tower)
        low = with_quick_attention(copy.deepcopy(tower).to(torch.bfloat16))
        packed = with_quick_attention(copy.deepcopy(tower).to(torch.bfloat16))
        pack_weights(packed)
        for batch in (1, 4, 16):
            part = probe[:batch]
            low_part = part if kind == "text" else part.to(torch.bfloat16)
            times = medians(
                {
                    "open_clip": lambda: model.encode_text(part) if kind == "text" else image(part),  # noqa: B023
                    "contiguous": lambda: quick(part),  # noqa: B023
                    "bf16": lambda: low(low_part),  # noqa: B023
                    "packed": lambda: packed(low_part),  # noqa: B023
                },
                rounds,
            )
            rows.append({"tower": kind, "batch": batch} | {name: round(batch / one, 1) for name, one in times.items()})
    torch.set_num_threads(os.cpu_count() or 1)
    return rows


@torch.inference_mode()
def captions_on_one_core(num_batches: int) -> list[dict[str, Any]]:
    """Texts/s of ViT-B/32 in bf16 on one core for captions of differing lengths, as a service gets them: no two batches
    alike, cut to the longest or run on the tokens there are."""
    tower: Any = load_encoder("ViT-B-32:random", device="cpu", precision="bf16").text_tower
    random = torch.Generator().manual_seed(0)
    rows = []
    torch.set_num_threads(1)
    for batch in (4, 16, 32):
        seconds = {False: 0.0, True: 0.0}
        for _ in range(num_batches):
            tokens = _captions(batch, random)
            for on_rows in seconds:
                with patch("sightline.encoder.text_tower.runs_on_rows", return_value=on_rows):
                    started = time.perf_counter()
                    tower(tokens)
                    seconds[on_rows] += time.perf_counter() - started
        rates = {on_rows: round(batch * num_batches / spent, 1) for on_rows, spent in seconds.items()}
        rows.append({"batch": batch, "padded": rates[False], "on_rows": rates[True]})
    torch.set_num_threads(os.cpu_count() or 1)
    return rows


def _captions(batch: int, random: torch.Generator) -> torch.Tensor:
    """Token ids int64 ``[B, 77]`` with the lengths of photo captions: 5 to 39 tokens, 14 on average."""
    lengths = (torch.randn(batch, generator=random) * 4.5 + 14).round().clamp(5, 39).long()  # [B]
    tokens = torch.randint(1, 49_000, (batch, 77), generator=random)
    places = torch.arange(77)
    tokens[places >= lengths[:, None]] = 0
    tokens[torch.arange(batch), lengths - 1] = 49_407
    return tokens


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write the raw figures here")
    options = parser.parse_args()
    result: dict[str, Any] = {
        "machine": describe_machine(),
        "bf16": bf16_by_size(options.rounds),
        "one_core": steps_on_one_core(options.rounds),
        "captions": captions_on_one_core(8 * options.rounds),
    }
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n")
    print("Machine:", ", ".join(f"{key} {value}" for key, value in result["machine"].items()))
    print(
        "\n| image tower | parameters (M) | batch | fp32 images/s | bf16 images/s | ratio |\n|---|---|---|---|---|---|"
    )
    for row in result["bf16"]:
        print("|", " | ".join(str(value) for value in row.values()), "|")
    print("\n| ViT-B/32, one core | batch | open_clip, fp32 | contiguous attention | bf16 | packed |")
    print("|---|---|---|---|---|---|")
    for row in result["one_core"]:
        print("|", " | ".join(str(value) for value in row.values()), "|")
    print("\n| captions of 5 to 39 tokens, bf16, one core: batch | padded to the longest, texts/s | on rows, texts/s |")
    print("|---|---|---|")
    for row in result["captions"]:
        print("|", " | ".join(str(value) for value in row.values()), "|")


if __name__ == "__main__":
    main()
