"""Several processes that train as one: ``torchrun --nproc-per-node N -m sightline train …``.

Each process draws the same global batch (it is a function of the step), encodes its own share and gathers everybody's
vectors, so that each computes the whole batch's loss. The backward pass of ``gather`` sums the gradients of all
processes and keeps the own share; averaging the parameters' gradients over the processes then gives exactly what one
process would have computed, for the towers and for the scalars of the loss alike: a tower's gradient is N times its
share, summed over N shares and divided by N; a scalar's is the whole gradient N times, divided by N.

``torch.distributed.all_gather`` alone has no gradient: a loss over its result does not train the towers. Batch norm is
not a function of one row, so a tower that has it normalises over its process's share.

Without torchrun there is one process, and every function here does nothing.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from sightline.errors import SettingError

_BUCKET_BYTES = 64 * 1024 * 1024  # gradients travel in pieces: one copy of all of them would double their memory


@contextlib.contextmanager
def processes(device: torch.device) -> Iterator[torch.device]:
    """Join the processes that torchrun started, until the block ends; yields the device of this one.

    gloo connects processes on CPUs, nccl those on GPUs, where each takes the GPU of its local rank. Raises
    SettingError when there are fewer GPUs than processes.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or dist.is_initialized():
        yield device
        return
    if device.type == "cuda":
        local = int(os.environ.get("LOCAL_RANK", "0"))
        if local >= torch.cuda.device_count():
            raise SettingError(
                f"torchrun started more processes than the {torch.cuda.device_count()} GPUs here; "
                "lower --nproc-per-node or train with --device cpu."
            )
        device = torch.device("cuda", local)
        torch.cuda.set_device(device)
        dist.init_process_group("nccl", device_id=device)
    else:
        dist.init_process_group("gloo")
    try:
        yield device
    finally:
        dist.destroy_process_group()


def rank() -> int:
    """This process's number, from 0; only number 0 writes and speaks."""
    return dist.get_rank() if dist.is_initialized() else 0


def world() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_initialized() else 1


def wait() -> None:
    """Wait until every process has come here."""
    if world() > 1:
        dist.barrier()


def share(count: int) -> slice:
    """This process's part of ``count`` rows: contiguous, in the order of the ranks, sizes differ by at most one."""
    return _share(count, rank())


def gather(vectors: torch.Tensor, count: int) -> torch.Tensor:
    """Everybody's vectors in the order of the rows, with gradient: this process's ``share`` [b, D] to [count, D]."""
    if world() == 1:
        return vectors
    whole: torch.Tensor = _Gather.apply(vectors, count)
    return whole


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replace each gradient by its mean over the processes; every process must have the same ones."""
    if world() > 1:
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        _reduce([gradient for gradient in gradients if not gradient.is_sparse])


def average_statistics(module: nn.Module) -> None:
    """Replace batch norm's statistics by their means over the processes, which saw different rows."""
    if world() > 1:
        norms = [part for part in module.modules() if isinstance(part, _BatchNorm) and part.track_running_stats]
        _reduce([tensor for norm in norms for tensor in (norm.running_mean, norm.running_var) if tensor is not None])


def copy_from_first(module: nn.Module) -> None:
    """Give every process the parameters and buffers of number 0."""
    if world() > 1:
        for tensor in (*module.parameters(), *module.buffers()):
            dist.broadcast(tensor.detach(), src=0)


def _share(count: int, of_rank: int) -> slice:
    return slice(of_rank * count // world(), (of_rank + 1) * count // world())


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, vectors: torch.Tensor, count: int) -> torch.Tensor:
        ctx.count = count
        shares = [_share(count, of_rank) for of_rank in range(world())]
        largest = max(part.stop - part.start for part in shares)
        padded = vectors.new_zeros(largest, vectors.shape[1])  # equal sizes for everybody: gloo wants them
        padded[: len(vectors)] = vectors
        pieces = [torch.empty_like(padded) for _ in shares]
        dist.all_gather(pieces, padded)
        return torch.cat([piece[: part.stop - part.start] for piece, part in zip(pieces, shares, strict=True)])

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        whole = gradients[0].contiguous().clone()  # [count, D]
        dist.all_reduce(whole)
        return whole[share(ctx.count)], None


def _reduce(tensors: list[torch.Tensor]) -> None:
    bucket: list[torch.Tensor] = []
    num_bytes = 0
    for tensor in sorted(tensors, key=lambda tensor: str(tensor.dtype)):  # stable: the same order everywhere
        if bucket and (bucket[0].dtype != tensor.dtype or num_bytes >= _BUCKET_BYTES):
            _reduce_bucket(bucket)
            bucket, num_bytes = [], 0
        bucket.append(tensor)
        num_bytes += tensor.numel() * tensor.element_size()
    if bucket:
        _reduce_bucket(bucket)


@torch.no_grad()
def _reduce_bucket(tensors: list[torch.Tensor]) -> None:
    flat = torch.cat([tensor.flatten() for tensor in tensors])
    dist.all_reduce(flat)
    flat /= world()
    for tensor, mean in zip(tensors, torch.split(flat, [tensor.numel() for tensor in tensors]), strict=True):
        tensor.copy_(mean.view_as(tensor))
