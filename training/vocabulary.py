"""Train only the token embeddings that the data use.

CLIP's vocabulary has 49,408 rows. Captions of one domain use a few hundred of them, yet AdamW reads and
writes every row at every step: for the drawn world three times as many parameters as the rest of the
model. Rows that never occur have a gradient of zero and no weight decay, so they never move: training on
a table of the used rows alone gives the same weights up to rounding. The rows keep their order, because
the text tower finds the end of a text by its highest token.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from sightline.encoder.text_tower import trimmable

Tokens = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """The token ids in use, ascending, int64 [V], and the full table float32 [vocabulary, width] they
    came from."""

    ids: Tokens
    full: torch.Tensor

    def compact(self, tokens: Tokens) -> Tokens:
        """Token ids of the full vocabulary as row numbers of the small table; every id must be in use."""
        return np.searchsorted(self.ids, tokens)


def narrow(model: nn.Module, tokens: Tokens) -> Vocabulary | None:
    """Give the model a table of only the ids in ``tokens`` until ``widen``; None where that would change
    vectors."""
    if not trimmable(model):
        return None
    tower = _tower(model)
    full = _embedding(tower).weight.detach()
    ids = np.unique(tokens)
    small = full[torch.from_numpy(ids).to(full.device)].clone()
    _put(tower, small)
    return Vocabulary(ids, full)


def widen(model: nn.Module, vocabulary: Vocabulary) -> None:
    """Put the trained rows back into the full table and give the model that table again."""
    tower = _tower(model)
    small = _embedding(tower).weight.detach()
    weight = vocabulary.full.to(small.device, copy=True)
    weight[torch.from_numpy(vocabulary.ids).to(small.device)] = small
    _put(tower, weight)


def _tower(model: nn.Module) -> nn.Module:
    tower: nn.Module = getattr(model, "text", model)  # open_clip's CLIP is its own text tower
    return tower


def _embedding(tower: nn.Module) -> nn.Embedding:
    table = tower.token_embedding
    assert isinstance(table, nn.Embedding)
    return table


def _put(tower: nn.Module, weight: torch.Tensor) -> None:
    table = nn.Embedding(weight.shape[0], weight.shape[1], device="meta")
    table.weight = nn.Parameter(weight)
    tower.token_embedding = table
