"""The arithmetic of the towers' forward pass in training."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from sightline.encoder.precision import has_bf16_matrix_units


@contextlib.contextmanager
def arithmetic(precision: str, device: torch.device, *, trained: bool) -> Iterator[None]:
    """``fp32`` leaves everything as it is, ``bf16`` is autocast, ``auto`` is bf16 where the hardware multiplies it.

    ``trained``: gradients flow into the tower, now or when the same rows are encoded again (see ``same_attention``).
    """
    if not _is_bf16(precision, device):
        yield
        return
    with torch.autocast(device.type, torch.bfloat16), _attention(device, trained=trained):
        yield


@contextlib.contextmanager
def same_attention(precision: str, device: torch.device) -> Iterator[None]:
    """For the backward pass, where gradient checkpointing computes a trained tower's blocks again: attention as
    ``arithmetic`` had it, and nothing else, because a backward pass is not run under autocast."""
    with _attention(device, trained=True) if _is_bf16(precision, device) else contextlib.nullcontext():
        yield


def straighten_attention(model: nn.Module) -> None:
    """Let every ``nn.MultiheadAttention`` of a model read its input in the order in which it computes; more than once
    changes nothing.

    It is given ``[B, L, W]`` and turns that round to ``[L, B, W]``. Under autocast, torch then copies the bf16 weights
    once for each of the L positions unless they need a gradient, that is, in a locked tower and in a teacher. Three
    blocks of a ViT-L/14 took 21 s for 4 pictures so, and 0.29 s with their input laid out as ``[L, B, W]`` (one core
    with AMX; fp32: 0.65 s). What is computed stays the same.
    """
    for module in model.modules():
        if (
            isinstance(module, nn.MultiheadAttention)
            and module.batch_first
            and _position_first not in module._forward_pre_hooks.values()
        ):
            module.register_forward_pre_hook(_position_first, with_kwargs=True)


def _position_first(module: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> tuple[Any, Any] | None:
    """Queries, keys and values ``[B, L, W]`` with the same values, but one position's rows behind the other's."""
    if not torch.is_autocast_enabled("cpu"):
        return None
    turned: dict[int, Any] = {}  # where the three are one tensor they must stay one: then one product makes all of them

    def turn(tensor: Any) -> Any:
        if id(tensor) not in turned:
            turned[id(tensor)] = tensor.transpose(0, 1).contiguous().transpose(0, 1)
        return turned[id(tensor)]

    inputs = {name: turn(tensor) for name, tensor in named.items() if name in ("query", "key", "value")}
    return tuple(turn(tensor) for tensor in given[:3]) + given[3:], named | inputs


def _attention(device: torch.device, *, trained: bool) -> contextlib.AbstractContextManager[object]:
    """Which kernel attention takes in bf16.

    On a CPU torch's fused one is slow backwards: that pass took 173 ms with it and 67 ms with plain matrix products (a
    small ViT, 128 pairs, two cores with AMX). Without a backward pass it is the faster one: 0.19 s against 0.29 s
    (three blocks of a ViT-L/14, 4 pictures, one core). The gradient cache encodes rows first without a graph and then
    with one, and both must give the same vectors; so what counts is whether the tower is trained.
    """
    if device.type == "cpu" and trained:
        return sdpa_kernel(SDPBackend.MATH)
    return contextlib.nullcontext()


def _is_bf16(precision: str, device: torch.device) -> bool:
    if precision == "auto":
        return device.type == "cuda" or has_bf16_matrix_units()
    return precision == "bf16"
