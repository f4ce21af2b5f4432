"""Running the text tower on no more tokens than the batch has.

A causal tower that reads its answer at the end-of-text token never looks at the padding behind it, so a batch may be
cut to its longest text without changing a vector. Captions have 10 to 25 tokens where CLIP's context has 77: that is
three to five times less work. SigLIP-type towers attend to their padding and must get all of it.
"""

from __future__ import annotations

from typing import Any

import torch
from open_clip.transformer import text_global_pool
from torch import nn


def trimmable(model: nn.Module) -> bool:
    """Whether cutting the padding leaves every vector of this open_clip model unchanged."""
    tower = getattr(model, "text", model)
    return (
        _pool_type(tower) == "argmax"
        and getattr(tower, "attn_mask", None) is not None
        and getattr(tower, "cls_emb", None) is None
        and not getattr(tower, "use_pad_mask", False)
        and hasattr(tower, "token_embedding")
    )


def encode_tokens(model: nn.Module, tokens: torch.Tensor) -> torch.Tensor:
    """Text features before normalisation: token ids int64 ``[B, L]`` → ``[B, D]``; differentiable.

    Equal to ``model.encode_text(tokens)``; ``L`` may be shorter than the context for a trimmable model.
    """
    if not trimmable(model):
        return model.encode_text(tokens)  # type: ignore[operator,no-any-return]
    tower: Any = getattr(model, "text", model)
    length = int(tokens.argmax(dim=-1).max()) + 1
    tokens = tokens[:, :length]  # [B, longest]
    cast_dtype = tower.transformer.get_cast_dtype()
    x = tower.token_embedding(tokens).to(cast_dtype)  # [B, longest, width]
    x = x + tower.positional_embedding[:length].to(cast_dtype)
    x = tower.transformer(x, attn_mask=tower.attn_mask[:length, :length])
    x = text_global_pool(tower.ln_final(x), tokens, "argmax")  # [B, width]
    projection = tower.text_projection
    if projection is None:
        return x  # type: ignore[no-any-return]
    return projection(x) if isinstance(projection, nn.Linear) else x @ projection  # type: ignore[no-any-return]


def groups_by_length(lengths: torch.Tensor, *, group_size: int) -> list[torch.Tensor]:
    """Row numbers of texts in groups of similar length: int64 ``[B]`` → a list of int64 ``[≤ group_size]``, shortest
    first, so that one long text does not make a whole batch long."""
    return list(torch.split(torch.argsort(lengths, stable=True), group_size))


def _pool_type(tower: nn.Module) -> str:
    return str(getattr(tower, "text_pool_type", getattr(tower, "pool_type", "")))
