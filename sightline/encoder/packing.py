"""Making a tower quick on a CPU without changing what it computes.

Two things cost open_clip's blocks time there. ``nn.MultiheadAttention`` hands its input on transposed; torch then
copies the weights once for each position (74 % of the time of a masked text block in bf16). And a bf16 matrix product
repacks its weights for the matrix units at every call, which is most of the work when the batch is small. So attention
is computed on contiguous input, and the weights are packed once.

On one core with AMX, captions of 14 tokens: 48 texts/s in fp32 as open_clip has it, 63 with contiguous attention,
262 in bf16, 290 packed (batch 16; at batch 1: 27, 27, 45, 60); ViT-B/32 in bf16 gains 37 % at batch 1, 15 % at 8
(``python -m benchmarks.encode``).
"""

from __future__ import annotations

import copy
from typing import TypeVar

import torch
import torch.nn.functional as F
from open_clip.transformer import ResidualAttentionBlock
from timm.models.vision_transformer import Block
from torch import nn

_BLOCKS = (ResidualAttentionBlock, Block)
"""Of open_clip and of timm. Elsewhere a linear layer may be a bag of weights for a function, as in RN50's pooling."""

Module = TypeVar("Module", bound=nn.Module)


class SelfAttention(nn.Module):
    """``nn.MultiheadAttention`` where query, key and value are one tensor ``[B, L, W]``; shares its parameters."""

    def __init__(self, original: nn.MultiheadAttention) -> None:
        super().__init__()
        self.num_heads = original.num_heads
        width = original.embed_dim
        self.qkv = nn.Linear(width, 3 * width, bias=original.in_proj_bias is not None, device="meta")
        self.qkv.weight = nn.Parameter(original.in_proj_weight.detach(), requires_grad=False)
        if original.in_proj_bias is not None:
            self.qkv.bias = nn.Parameter(original.in_proj_bias.detach(), requires_grad=False)
        out = original.out_proj
        self.out = nn.Linear(width, width, bias=out.bias is not None, device="meta")  # MHA's own class is a subclass
        self.out.weight, self.out.bias = out.weight, out.bias

    def forward(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        *,
        need_weights: bool = False,
        attn_mask: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, None]:
        """``[B, L, W]`` → ``[B, L, W]``; ``attn_mask`` is added to the ``[L, L]`` logits. Takes one tensor thrice."""
        return self.out(self.mix(self.qkv(query), attn_mask)), None

    def mix(self, qkv: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """Queries, keys and values ``[B, L, 3 W]`` → ``[B, L, W]``, before the last product."""
        batch, length, width = qkv.shape
        shape = (batch, length, 3, self.num_heads, width // (3 * self.num_heads))
        q, k, v = qkv.view(shape).permute(2, 0, 3, 1, 4)  # each [B, heads, L, W / heads]
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return mixed.transpose(1, 2).reshape(batch, length, width // 3)


class PackedLinear(nn.Module):
    """A bf16 ``nn.Linear`` whose weights lie as the matrix units want them; inference on a CPU only."""

    weight: torch.Tensor

    def __init__(self, original: nn.Linear) -> None:
        super().__init__()
        self.register_buffer("weight", original.weight.new_empty(0), persistent=False)  # open_clip asks for its dtype
        self._packed = torch.ops.mkldnn._reorder_linear_weight(original.weight.detach())
        self._bias = None if original.bias is None else original.bias.detach()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.ops.mkldnn._linear_pointwise(x, self._packed, self._bias, "none", [], "")  # type: ignore[no-any-return]


def with_quick_attention(tower: Module) -> Module:
    """A copy of a tower for inference that shares its weights and computes self-attention on contiguous input.

    Convert the tower before, not the copy after: ``.to`` would change the shared weights.
    """
    shared = {id(tensor): tensor for tensor in (*tower.parameters(), *tower.buffers())}
    quick = copy.deepcopy(tower, shared)
    _replace_attention(quick)
    return quick.eval()


def pack_weights(tower: nn.Module) -> None:
    """Pack the weights of a bf16 tower in place. Where this torch cannot, nothing happens."""
    if can_pack():
        for module in tower.modules():
            if isinstance(module, _BLOCKS):
                _pack(module)


def can_pack() -> bool:
    """Whether this torch has oneDNN and its packed products (which are not part of torch's public interface)."""
    operations = torch.ops.mkldnn
    return torch.backends.mkldnn.is_available() and all(  # type: ignore[no-untyped-call]
        hasattr(operations, name) for name in ("_reorder_linear_weight", "_linear_pointwise")
    )


def _replace_attention(module: nn.Module) -> None:
    """Only in open_clip's residual blocks: there query, key and value are one tensor."""
    for child in module.modules():
        if isinstance(child, ResidualAttentionBlock) and not hasattr(child, "ln_1_kv"):
            attention = child.attn
            if isinstance(attention, nn.MultiheadAttention) and attention.batch_first:
                child.attn = SelfAttention(attention)


def _pack(module: nn.Module) -> None:
    for name, child in module.named_children():
        if type(child) is nn.Linear:
            setattr(module, name, PackedLinear(child))
        else:
            _pack(child)
