"""What the machine could do at best: decoding alone, the encoder alone, and the two sharing the cores.

Measured with every core busy, because two cores of one machine are not twice one core. Runs as a process of its own,
``python -m benchmarks.serving.ceilings``, and prints one JSON object.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import json
import os
import statistics
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.serving.pictures import Pool, open_pool
from sightline.encoder import Encoder, load_encoder
from sightline.images import ImageLimits, Pixels, decode_image

IMAGE_BATCHES = {"cpu": (8, 16, 32, 64), "cuda": (32, 64, 128, 256)}
TEXT_BATCHES = (16, 32, 64)
_LIMITS = ImageLimits()


def measure(encoder: Encoder, pool: Pool, seconds: float, cores: int) -> dict[str, Any]:
    """Rates with all cores, and seconds of one input alone. ``seconds`` is for each figure."""

    def pixels_of(data: bytes) -> Pixels:
        return encoder.preprocess(decode_image(data, _LIMITS))

    decoded = np.stack([pixels_of(data) for data in pool.pictures[:64]])  # [64, H, W, 3]
    kind = "cuda" if encoder.device.type == "cuda" else "cpu"
    images = _by_batch(encoder, decoded, IMAGE_BATCHES[kind], seconds, cores)
    texts = {size: _texts_per_second(encoder, pool, size, seconds, cores) for size in TEXT_BATCHES}
    numbers = itertools.count()
    decode_rate = rate(lambda: pixels_of(_next(pool.pictures, numbers)), 1, seconds, cores, 1)
    encode_rate = max(images.values())
    return {
        "cores": cores,
        "precision": encoder.identity.precision,
        "decodes_per_second": round(decode_rate, 2),
        "encoder_images_per_second": round(encode_rate, 2),
        "encoder_images_per_second_by_batch": {str(size): round(rate, 2) for size, rate in images.items()},
        "encoder_texts_per_second": round(max(texts.values()), 2),
        "encoder_texts_per_second_by_batch": {str(size): round(rate, 2) for size, rate in texts.items()},
        "decode_core_seconds": round(cores / decode_rate, 6),
        "encoder_core_seconds": round(cores / encode_rate, 6),
        "roofline_images_per_second": round(roofline(cores, cores / decode_rate, cores / encode_rate, kind), 2),
        "decode_one_seconds": round(_median_seconds(lambda: pixels_of(_next(pool.pictures, numbers)), seconds), 6),
        "encode_one_seconds": round(_alone_seconds(lambda: encoder.encode_pixels(decoded[:1]), seconds), 6),
        "text_one_seconds": round(
            _alone_seconds(lambda: encoder.encode_texts([_next(pool.captions, numbers)]), seconds), 6
        ),
    }  # fmt: skip


def roofline(cores: int, decode_core_seconds: float, encoder_core_seconds: float, kind: str = "cpu") -> float:
    """Images a second that no server can exceed: on a CPU decoding and encoding share the cores, on a GPU the slower
    of the two decides."""
    if kind == "cuda":
        return cores / max(decode_core_seconds, encoder_core_seconds)
    return cores / (decode_core_seconds + encoder_core_seconds)


def _by_batch(
    encoder: Encoder, decoded: Pixels, sizes: tuple[int, ...], seconds: float, cores: int
) -> dict[int, float]:
    """Images a second by batch size; larger ones are left out once a batch takes longer than ``seconds``."""
    rates: dict[int, float] = {}
    for size in sizes:
        batch = np.resize(decoded, (size, *decoded.shape[1:]))  # [B, H, W, 3]
        rates[size] = _best_rate(functools.partial(encoder.encode_pixels, batch), size, seconds, cores)
        if size / rates[size] > seconds:
            break
    return rates


def _texts_per_second(encoder: Encoder, pool: Pool, size: int, seconds: float, cores: int) -> float:
    starts = itertools.cycle(range(0, len(pool.captions) - size, size))

    def run() -> None:
        start = next(starts)
        encoder.encode_texts(pool.captions[start : start + size])

    return _best_rate(run, size, seconds, cores)


def _best_rate(run: Callable[[], object], size: int, seconds: float, cores: int) -> float:
    """The better of one batch on all cores and a batch on each core."""
    return max(rate(run, size, seconds, 1, cores), rate(run, size, seconds, cores, 1))


def rate(run: Callable[[], object], size: int, seconds: float, num_threads: int, torch_threads: int) -> float:
    """Items a second when ``num_threads`` threads run batches of ``size``, each with ``torch_threads`` of torch's."""
    together = threading.Barrier(num_threads)

    def work() -> tuple[float, float, int]:
        torch.set_num_threads(torch_threads)
        run()
        together.wait()
        started, num = time.perf_counter(), 0
        while not num or time.perf_counter() < started + seconds:
            run()
            num += size
        return started, time.perf_counter(), num

    with ThreadPoolExecutor(num_threads) as threads:
        spans = [future.result() for future in [threads.submit(work) for _ in range(num_threads)]]
    begin, end = min(span[0] for span in spans), max(span[1] for span in spans)
    return sum(span[2] for span in spans) / (end - begin)


def _alone_seconds(run: Callable[[], object], seconds: float) -> float:
    """The better of one thread and all: a small tower can lose more by waiting for its threads than they bring."""
    usual = torch.get_num_threads()
    medians = []
    for num_threads in {1, usual}:
        torch.set_num_threads(num_threads)
        medians.append(_median_seconds(run, seconds))
    torch.set_num_threads(usual)
    return min(medians)


def _median_seconds(run: Callable[[], object], seconds: float) -> float:
    run()
    times: list[float] = []
    deadline = time.perf_counter() + seconds
    while not times or time.perf_counter() < deadline:
        started = time.perf_counter()
        run()
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def _next(items: tuple[Any, ...], numbers: itertools.count[int]) -> Any:
    return items[next(numbers) % len(items)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--encoder", default="ViT-B-32:random")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", choices=("auto", "fp32", "bf16"), default="auto")
    parser.add_argument("--pool", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=2.0, help="for each figure")
    options = parser.parse_args()
    encoder = load_encoder(options.encoder, device=options.device, precision=options.precision)
    print(json.dumps(measure(encoder, open_pool(options.pool), options.seconds, len(os.sched_getaffinity(0)))))


if __name__ == "__main__":
    main()
