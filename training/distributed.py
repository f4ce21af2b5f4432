"""Several processes that train as one: ``torchrun --nproc-per-node N -m sightline train …``.

Each process draws the same global batch (it is a function of the step), encodes its own share and gathers everybody's
vectors, so that each computes the whole batch's loss. The backward pass of ``gather`` sums the gradients of all
processes and keeps the own share; averaging the parameters' gradients over the processes then gives exactly what one
process would have computed, for the towers and for the scalars of the loss alike: a tower's gradient is N times its
share, summed over N shares and divided by N; a scalar's is the whole gradient N times, divided by N.

``torch.distributed.all_gather`` alone has no gradient: a loss over its result does not train the towers. Batch norm is
not a function of one row, so a tower that has it normalises over its process's share.

Without torchrun there is one process, and every function here leaves things as they are.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator
from datetime import timedelta
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from sightline.errors import SettingError, SightlineError, TrainingStopped

_BUCKET_BYTES = 64 * 1024 * 1024  # gradients travel in pieces: one copy of all of them would double their memory
_PATIENCE = timedelta(days=30)

T = TypeVar("T")


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


def from_first(compute: Callable[[], T]) -> T:
    """What ``compute`` gives in the first process, in every process; called there only, and its result is pickled.

    The others wait for as long as it takes. A SightlineError ends all of them with its sentence; when the first process
    is gone, they raise TrainingStopped.
    """
    if world() == 1:
        return compute()
    outcome: list[Any] = [None, None]  # the result, the error
    group = _patient_group()
    if rank() == 0:
        try:
            outcome[0] = compute()
        except SightlineError as error:
            outcome[1] = error
    with _losses_said():
        dist.broadcast_object_list(outcome, src=0, group=group)
    if outcome[1] is not None:
        raise outcome[1]
    result: T = outcome[0]
    return result


def in_all(compute: Callable[[], T]) -> T:
    """What ``compute`` gives in this process, when all are through with it.

    A SightlineError of one of them ends all of them with its sentence.
    """
    if world() == 1:
        return compute()
    error: SightlineError | None = None
    group = _patient_group()
    try:
        result = compute()
    except SightlineError as raised:
        error = raised
    errors: list[SightlineError | None] = [None] * world()
    with _losses_said():
        dist.all_gather_object(errors, error, group=group)
    for found in errors:
        if found is not None:
            raise found
    return result


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


def _patient_group() -> dist.ProcessGroup:
    """All processes, joined for objects on CPUs, whatever trains. They may wait for each other: reading and encoding
    take hours where the limit for a step (10 minutes with nccl, 30 with gloo) finds a process that hangs.

    A new group each time, ended with the processes: ending it at once could cut off what a slower process reads.
    """
    with _losses_said():
        return cast(dist.ProcessGroup, dist.new_group(backend="gloo", timeout=_PATIENCE))


@contextlib.contextmanager
def _losses_said() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:  # what torch.distributed raises has no class of its own for this
        raise TrainingStopped(
            "One of the processes that train together has ended before the others; its last lines say why."
        ) from error


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
