"""What the machine could do at best with pictures: decoding alone and the encoder alone, with every core busy.

Runs as a process of its own, ``python -m benchmarks.indexing.ceilings``, and prints one JSON object. The best of
several batch sizes counts, and of one batch on all cores and one on each, whatever the indexer does.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.serving.ceilings import rate, roofline
from benchmarks.serving.pictures import Pool, open_pool
from sightline.encoder import Encoder, load_encoder
from sightline.images import ImageLimits, decode_image

BATCHES = (16, 32)
"""The best on CPUs; smaller and larger ones were slower for both engines (``benchmarks.serving``)."""


def measure(encoder: Encoder, pool: Pool, seconds: float, cores: int) -> dict[str, Any]:
    """Images a second of each, and of the two sharing the cores. ``seconds`` is for each figure."""
    limits = ImageLimits()
    numbers = itertools.count()
    decoded = np.stack([encoder.preprocess(decode_image(data, limits)) for data in pool.pictures[: max(BATCHES)]])

    def decode() -> None:
        encoder.preprocess(decode_image(pool.pictures[next(numbers) % len(pool.pictures)], limits))

    decodes = rate(decode, 1, seconds, cores, 1)
    encodes: dict[str, float] = {}
    for size in BATCHES:
        batch = np.resize(decoded, (size, *decoded.shape[1:]))  # [B, H, W, 3]
        for way, num_threads, torch_threads in (("on all cores", 1, cores), ("on each core", cores, 1)):

            def encode(batch: Any = batch) -> None:
                encoder.encode_pixels(batch)

            encodes[f"{size} {way}"] = rate(encode, size, seconds, num_threads, torch_threads)
    best = max(encodes.values())
    return {
        "cores": cores,
        "precision": encoder.identity.precision,
        "decodes_per_second": round(decodes, 2),
        "encoder_images_per_second": round(best, 2),
        "encoder_images_per_second_by_batch": {name: round(value, 2) for name, value in encodes.items()},
        "roofline_images_per_second": round(roofline(cores, cores / decodes, cores / best), 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--encoder", required=True)
    parser.add_argument("--precision", choices=("auto", "fp32", "bf16"), default="auto")
    parser.add_argument("--pool", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=1.0, help="for each figure")
    options = parser.parse_args()
    encoder = load_encoder(options.encoder, device="cpu", precision=options.precision)
    print(json.dumps(measure(encoder, open_pool(options.pool), options.seconds, len(os.sched_getaffinity(0)))))


if __name__ == "__main__":
    main()
