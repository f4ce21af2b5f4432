"""The GPU tower against the CPU's."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch

from sightline.encoder.cuda import MAX_BATCH, bucket_of
from sightline.encoder.load import wrap_checkpoint
from tests.tiny import tiny_checkpoint


def test_batches_are_padded_to_powers_of_two() -> None:
    assert [bucket_of(size) for size in (1, 2, 3, 16, 17, 200, MAX_BATCH)] == [1, 2, 4, 16, 32, 256, 256]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no CUDA device")
def test_vectors_equal_the_cpus_from_several_threads() -> None:
    cpu = wrap_checkpoint(tiny_checkpoint(), device="cpu", precision="fp32")
    gpu = wrap_checkpoint(tiny_checkpoint(), device="cuda", precision="fp32")
    pixels = np.random.default_rng(0).integers(0, 256, (300, 32, 32, 3), dtype=np.uint8)
    expected = cpu.encode_pixels(pixels)
    found: dict[int, np.ndarray] = {}

    def encode(number: int) -> None:
        sizes = (1, 3, 16, 300) if number % 2 else (300, 16, 3, 1)
        found[number] = np.stack([(gpu.encode_pixels(pixels[:n]) * expected[:n]).sum(1).min() for n in sizes])

    threads = [threading.Thread(target=encode, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert min(float(one.min()) for one in found.values()) > 0.9999
