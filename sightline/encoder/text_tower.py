"""Running the text tower on no more tokens than the batch has.

A causal tower that reads its answer at the end-of-text token never looks at the padding behind it, so a batch may be
cut to its longest text without changing a vector. Captions have 10 to 25 tokens where CLIP's context has 77: that is
three to five times less work; on a CPU not even shorter texts of a batch are padded (``sightline.encoder.ragged``).
SigLIP-type towers attend to their padding and must get all of it.
"""

from __future__ import annotations

from typing import Any

import torch
from open_clip import CustomTextCLIP
from open_clip.transformer import text_global_pool
from torch import nn

from sightline.encoder.ragged import Rows, run_blocks, runs_on_rows


class CausalTextTower(nn.Module):
    """The trimmable text tower of an open_clip model, sharing its modules; equal to ``model.encode_text``."""

    attn_mask: torch.Tensor

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        tower: Any = getattr(model, "text", model)
        self.token_embedding = tower.token_embedding
        self.positional_embedding = tower.positional_embedding
        self.transformer = tower.transformer
        self.ln_final = tower.ln_final
        self.text_projection = tower.text_projection
        self.register_buffer("attn_mask", tower.attn_mask, persistent=False)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Token ids int64 ``[B, L]`` → features ``[B, D]`` before normalisation; ``L`` may be less than the context."""
        lengths = tokens.argmax(dim=-1) + 1  # [B]
        if len(tokens) > 1 and runs_on_rows(self.transformer.resblocks):
            return self._project(self._last_rows(tokens, Rows.of(lengths)))
        length = int(lengths.max())
        tokens = tokens[:, :length]  # [B, longest]
        x = self.token_embedding(tokens) + self.positional_embedding[:length]  # [B, longest, width]
        x = self.transformer(x, attn_mask=self.attn_mask[:length, :length])
        return self._project(text_global_pool(self.ln_final(x), tokens, "argmax"))

    def _last_rows(self, tokens: torch.Tensor, rows: Rows) -> torch.Tensor:
        """Token ids int64 ``[B, L]`` → ``[B, width]`` at the end-of-text tokens."""
        length = rows.longest
        texts, places = rows.filled // length, rows.filled % length  # each [R]
        x = self.token_embedding(tokens[texts, places]) + self.positional_embedding[places]  # [R, width]
        x = run_blocks(self.transformer.resblocks, x, rows, self.attn_mask[:length, :length])
        return self.ln_final(x[rows.ends()])  # type: ignore[no-any-return]

    def _project(self, x: torch.Tensor) -> torch.Tensor:
        projection = self.text_projection
        if projection is None:
            return x
        return projection(x) if callable(projection) else x @ projection  # type: ignore[no-any-return]


class WholeTextTower(nn.Module):
    """Any other text tower of an open_clip model, run on the whole context.

    ``separate``: the text tower is a module of its own, so that it can be copied without the image tower.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.separate = isinstance(model, CustomTextCLIP)
        self.model: Any = model.text if self.separate else model

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Token ids int64 ``[B, context]`` → features ``[B, D]`` before normalisation."""
        return self.model(tokens) if self.separate else self.model.encode_text(tokens)  # type: ignore[no-any-return]


def text_tower(model: nn.Module) -> CausalTextTower | WholeTextTower:
    """The text tower of an open_clip model as a module of its own; it shares the model's weights."""
    return CausalTextTower(model) if trimmable(model) else WholeTextTower(model)


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
    """Text features before normalisation: token ids int64 ``[B, L]`` → ``[B, D]``; differentiable."""
    return text_tower(model)(tokens)  # type: ignore[no-any-return]


def groups_by_length(lengths: torch.Tensor, *, group_size: int) -> list[torch.Tensor]:
    """Row numbers of texts in groups of similar length: int64 ``[B]`` → a list of int64 ``[≤ group_size]``, shortest
    first, so that one long text does not make a whole batch long."""
    return list(torch.split(torch.argsort(lengths, stable=True), group_size))


def _pool_type(tower: nn.Module) -> str:
    return str(getattr(tower, "text_pool_type", getattr(tower, "pool_type", "")))
