"""What the workers must know of the device under the encoder, without importing torch themselves."""

from __future__ import annotations

import contextlib
import gc
import os
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass

_NICENESS = 10
"""Of the threads that encode on a CPU: where all cores are busy, the event loop and the decoders come first. Under ten
times the load that a machine can take, 99 % of the refusals came within 27 ms instead of 37
(``benchmarks.serving.overload``)."""


@dataclass(frozen=True)
class Device:
    """``before_batch`` is called by a worker before each batch, with True when nothing else is to be done. ``is_lost``
    says whether an error means that this process cannot use the device again."""

    num_workers: int = 1
    out_of_memory: tuple[type[BaseException], ...] = (MemoryError,)
    free_memory: Callable[[], None] = lambda: None
    before_batch: Callable[[bool], None] = lambda alone: None
    is_lost: Callable[[BaseException], bool] = lambda error: False


def torch_device(name: str, num_workers: int = 0) -> Device:
    """The device that torch runs on. ``num_workers`` 0: two where work can overlap, which is on any GPU (the next batch
    is copied while one is computed) and on CPUs with several cores (see ``service.encoding.workers``)."""
    import torch  # heavy, and not needed to check settings or ports

    num_cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    on_cpu = name == "cpu" or (name == "auto" and not torch.cuda.is_available())
    if not num_workers:
        num_workers = 1 if on_cpu and num_cores == 1 else 2
    threads_each = max(1, num_cores // num_workers)

    def free_memory() -> None:
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def share_cores(alone: bool) -> None:
        _step_back()
        torch.set_num_threads(num_cores if alone else threads_each)  # counts for the calling thread alone

    return Device(
        num_workers,
        (MemoryError, torch.OutOfMemoryError),
        free_memory,
        share_cores if on_cpu else lambda alone: None,
        _context_is_lost,
    )


def _step_back() -> None:
    """Lower the priority of the calling thread, and of those that it starts: on Linux each thread has its own."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            thread = threading.get_native_id()
            if os.getpriority(os.PRIO_PROCESS, thread) < _NICENESS:
                os.setpriority(os.PRIO_PROCESS, thread, _NICENESS)


def leave_cores_to_workers() -> None:
    """To be called by the main thread before it loads an encoder: libgomp lets a team of threads spin between two loops
    only while all teams together have no more threads than there are cores, and a team that was made is never undone.
    With a team of the main thread beside it, a worker's batch of one took 33 ms on two cores instead of 21."""
    import torch

    torch.set_num_threads(1)


def _context_is_lost(error: BaseException) -> bool:
    """Whether CUDA's context is gone, as after an illegal memory access: every later call fails, whatever it does.

    Other CUDA errors (a kernel that was launched wrongly) pass. Which it is shows when the device is asked for
    something harmless; a process that ends over an error which passes could be ended by a request.
    """
    import torch

    kinds = getattr(torch, "AcceleratorError", ()), getattr(torch.cuda, "CudaError", ())
    if not any(kind and isinstance(error, kind) for kind in kinds) and "CUDA error" not in str(error):
        return False
    try:
        torch.cuda.synchronize()
        torch.ones(1, device="cuda").item()
    except Exception:
        return True
    return False
