"""A text tower that runs on the tokens there are gives the vectors that it gives with padding."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from sightline.encoder.packing import pack_weights, with_quick_attention
from sightline.encoder.ragged import Rows, runs_on_rows
from sightline.encoder.text_tower import text_tower
from tests.sightline.test_packing import build, cosine

CONTEXT, VOCABULARY = 24, 1000


def texts(*lengths: int) -> torch.Tensor:
    """Token ids int64 ``[B, CONTEXT]``: words, the end-of-text token at each length, padding."""
    generator = torch.Generator().manual_seed(sum(lengths))
    tokens = torch.randint(1, VOCABULARY - 1, (len(lengths), CONTEXT), generator=generator)
    for row, length in enumerate(lengths):
        tokens[row, length - 1] = VOCABULARY - 1
        tokens[row, length:] = 0
    return tokens


def quick(tower: nn.Module) -> nn.Module:
    made = with_quick_attention(tower)
    assert runs_on_rows(made.transformer.resblocks)  # type: ignore[arg-type,union-attr]
    return made


@pytest.mark.parametrize(
    "lengths", [(2, 2), (3, 24), (24, 3, 7), (5,) * 33, tuple(range(2, 25)), (24, 24), (9,)], ids=str
)
def test_the_vectors_are_those_of_open_clip(lengths: tuple[int, ...]) -> None:
    model = build()
    tokens = texts(*lengths)
    with torch.inference_mode():
        torch.testing.assert_close(quick(text_tower(model))(tokens), model.encode_text(tokens), atol=1e-5, rtol=1e-5)


def test_a_vector_does_not_depend_on_its_batch_mates() -> None:
    tower = quick(text_tower(build()))
    tokens = texts(4, 20, 11, 24)
    with torch.inference_mode():
        together = tower(tokens)
        for row in range(len(tokens)):
            torch.testing.assert_close(tower(tokens[row : row + 1])[0], together[row], atol=1e-5, rtol=1e-5)


def test_bf16_with_packed_weights() -> None:
    tower = text_tower(build())
    low = quick(copy.deepcopy(tower).to(torch.bfloat16))
    pack_weights(low)
    assert cosine(tower, low, texts(*range(2, 25))) > 0.999


def test_other_towers_keep_their_padding() -> None:
    """open_clip's own attention and what training wraps it in are not rewritten."""
    assert not runs_on_rows(text_tower(build()).transformer.resblocks)  # type: ignore[arg-type,union-attr]


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=40))
def test_spreading_and_gathering_lose_nothing(lengths: list[int]) -> None:
    rows = Rows.of(torch.tensor(lengths))
    assert len(rows.filled) % 32 == 0
    assert len(rows.kept) == sum(lengths)
    values = torch.arange(1.0, len(rows.filled) + 1)[:, None]  # [R, 1]
    spread = rows.spread(values)  # [B, L, 1]
    assert [int((line != 0).sum()) for line in spread[..., 0]] == lengths
    assert torch.equal(rows.gather(spread)[: len(rows.kept)], values[: len(rows.kept)])
    ends = torch.tensor(lengths).cumsum(0) - 1
    assert torch.equal(rows.ends(), ends)
