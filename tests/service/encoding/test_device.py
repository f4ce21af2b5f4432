"""What the workers are told of the device."""

from __future__ import annotations

import os
import sys
import threading

import pytest

from service.encoding.device import torch_device


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has a priority for each thread")
def test_the_threads_that_encode_on_a_cpu_step_back_and_nobody_else_does() -> None:
    device = torch_device("cpu", num_workers=2)
    found: list[int] = []

    def encode() -> None:
        device.before_batch(False)
        found.append(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))

    before = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
    thread = threading.Thread(target=encode)
    thread.start()
    thread.join()
    assert found[0] == max(before, 10) > 0
    assert os.getpriority(os.PRIO_PROCESS, threading.get_native_id()) == before
