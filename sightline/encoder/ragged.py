"""A causal text tower on the tokens that its texts have, and on no padding between them.

The texts of a batch lie one behind the other as rows, and everything but attention is computed row by row; for
attention alone they are spread over ``[B, L]`` and gathered again. Captions differ in length, so a batch cut to its
longest is a third padding still. The number of rows is filled up to a multiple of 32: oneDNN generates machine code for
every size it meets (8 to 20 ms for the products of a tower, more than a small batch takes), and batches of 1 to 32
texts of 5 to 30 tokens have hundreds of sizes, but some thirty multiples of 32. On one core with AMX, ViT-B/32 in bf16,
captions of 5 to 39 tokens in batches of 16: 370 texts/s instead of 260 (``python -m benchmarks.encode``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import torch
from open_clip.transformer import ResidualAttentionBlock
from torch import nn

from sightline.encoder.packing import SelfAttention

_STEP_ROWS = 32


@dataclass(frozen=True)
class Rows:
    """Where the tokens of a batch lie. ``kept`` int64 ``[M]`` are the places in ``[B * L]`` of tokens that count;
    ``filled`` int64 ``[R]`` the same and repeats of the first up to a multiple of 32."""

    batch: int
    longest: int
    kept: torch.Tensor
    filled: torch.Tensor

    @classmethod
    def of(cls, lengths: torch.Tensor) -> Rows:
        """For texts of ``lengths`` int64 ``[B]``, each at least 1."""
        longest = int(lengths.max())
        counts = torch.arange(longest, device=lengths.device) < lengths[:, None]  # [B, L]
        kept = counts.flatten().nonzero().squeeze(1)  # [M]
        filled = torch.cat([kept, kept[:1].expand(-len(kept) % _STEP_ROWS)])  # [R]
        return cls(len(lengths), longest, kept, filled)

    def spread(self, rows: torch.Tensor) -> torch.Tensor:
        """``[R, W]`` → ``[B, L, W]`` with zeros where there is no token."""
        spread = rows.new_zeros(self.batch * self.longest, rows.shape[-1])
        spread[self.kept] = rows[: len(self.kept)]
        return spread.view(self.batch, self.longest, -1)

    def gather(self, spread: torch.Tensor) -> torch.Tensor:
        """``[B, L, W]`` → ``[R, W]``."""
        return spread.reshape(self.batch * self.longest, -1)[self.filled]

    def ends(self) -> torch.Tensor:
        """int64 ``[B]``: the row of each text's last token."""
        texts = self.kept // self.longest  # [M]
        return torch.bincount(texts, minlength=self.batch).cumsum(0) - 1


def runs_on_rows(blocks: nn.ModuleList) -> bool:
    """Whether these are open_clip's ordinary blocks with attention of our own (``with_quick_attention``)."""
    return all(type(block) is ResidualAttentionBlock and isinstance(block.attn, SelfAttention) for block in blocks)


def run_blocks(blocks: nn.ModuleList, x: torch.Tensor, rows: Rows, mask: torch.Tensor) -> torch.Tensor:
    """``[R, W]`` → ``[R, W]``, as ``ResidualAttentionBlock.forward`` has it; ``mask`` ``[L, L]`` must be causal."""
    for one in blocks:
        block = cast(Any, one)
        x = x + block.ls_1(_attend(block.attn, block.ln_1(x), rows, mask))
        x = x + block.ls_2(block.mlp(block.ln_2(x)))
    return x


def _attend(attention: SelfAttention, x: torch.Tensor, rows: Rows, mask: torch.Tensor) -> torch.Tensor:
    mixed = attention.mix(rows.spread(attention.qkv(x)), mask)  # [B, L, W]
    return attention.out(rows.gather(mixed))  # type: ignore[no-any-return]
