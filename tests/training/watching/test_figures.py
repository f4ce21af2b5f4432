from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from training.watching.figures import (
    cosines,
    effective_rank,
    gradient_norms,
    modality_gap,
    spread,
    tower_of,
    vector_figures,
)


def unit(num: int, dim: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return nn.functional.normalize(torch.randn(num, dim, generator=generator), dim=1)


@pytest.mark.parametrize("dim", [16, 128, 1536])
def test_the_spread_of_isotropic_vectors_is_one_in_every_dimension(dim: int) -> None:
    assert float(spread(unit(4096, dim))) == pytest.approx(1, abs=0.01)


def test_the_spread_of_unit_vectors_follows_from_their_mean() -> None:
    cone = nn.functional.normalize(unit(300, 32) + torch.eye(32)[0] * 3, dim=1)
    assert float(spread(cone)) == pytest.approx(math.sqrt(1 - float(cone.mean(dim=0).square().sum())), abs=1e-5)
    assert float(spread(cone)) < 0.4
    assert float(spread(unit(1, 32).repeat(64, 1))) == pytest.approx(0, abs=1e-6)
    assert float(spread(torch.zeros(64, 32))) == 0


def test_the_effective_rank_counts_directions() -> None:
    corners = torch.cat([torch.eye(8)[:5], -torch.eye(8)[:5]])  # ±5 axes: five equal singular values
    assert float(effective_rank(corners)) == pytest.approx(5)
    assert float(effective_rank(unit(1, 32).repeat(64, 1))) == 1
    assert float(effective_rank(torch.zeros(64, 32))) == 1
    assert float(effective_rank(unit(512, 64))) > 55
    line = torch.linspace(-1, 1, 50)[:, None] * torch.eye(16)[:1]
    assert float(effective_rank(line)) == pytest.approx(1, abs=1e-5)


def test_the_effective_rank_is_the_entropy_of_the_singular_values_either_way_round() -> None:
    for num, dim in ((20, 50), (50, 20)):
        vectors = unit(num, dim).double()
        singular = torch.linalg.svdvals(vectors - vectors.mean(dim=0))
        shares = singular[singular > 1e-12] / singular.sum()
        expected = math.exp(-float((shares * shares.log()).sum()))
        assert float(effective_rank(vectors)) == pytest.approx(expected, rel=1e-5)


def test_gap_and_cosines_equal_their_definitions() -> None:
    images, texts = unit(7, 5), unit(7, 5, seed=1)
    assert float(modality_gap(images, texts)) == pytest.approx(float((images.mean(0) - texts.mean(0)).norm()), abs=1e-6)
    scores = images @ texts.T
    matched, unmatched = cosines(images, texts)
    assert float(matched) == pytest.approx(sum(float(scores[i, i]) for i in range(7)) / 7, abs=1e-6)
    others = [float(scores[i, j]) for i in range(7) for j in range(7) if i != j]
    assert float(unmatched) == pytest.approx(sum(others) / len(others), abs=1e-6)


def test_made_up_negatives_at_the_end_do_not_count() -> None:
    images, texts = unit(16, 8), unit(16, 8, seed=1)
    negatives = unit(1, 8, seed=2).repeat(100, 1)
    assert vector_figures(images, torch.cat([texts, negatives])) == vector_figures(images, texts)


def test_a_single_pair_has_figures() -> None:
    assert all(math.isfinite(value) for value in vector_figures(unit(1, 8), unit(1, 8)).values())


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("visual.conv1.weight", "image"),
        ("visual.trunk.blocks.0.attn.qkv.weight", "image"),
        ("text.transformer.resblocks.0.ln_1.weight", "text"),
        ("token_embedding.weight", "text"),
        ("text_projection", "text"),
        ("logit_scale", "scalars"),
        ("logit_bias", "scalars"),
    ],
)
def test_each_parameter_belongs_to_a_part(name: str, part: str) -> None:
    assert tower_of(name) == part


def test_the_norms_of_the_parts_make_up_the_whole_norm() -> None:
    model = nn.Module()
    model.visual = nn.Linear(4, 3)
    model.transformer = nn.Linear(3, 3)
    model.frozen = nn.Linear(3, 3).requires_grad_(False)
    model.logit_scale = nn.Parameter(torch.tensor(2.0))
    loss = model.transformer(model.visual(torch.ones(2, 4))).sum() * model.logit_scale
    loss.backward()
    norms = gradient_norms(model)
    assert set(norms) == {"gradient_norm_image", "gradient_norm_text", "gradient_norm_scalars"}
    whole = nn.utils.clip_grad_norm_(model.parameters(), 1e9)
    assert math.sqrt(sum(float(norm) ** 2 for norm in norms.values())) == pytest.approx(float(whole), rel=1e-6)
    assert float(norms["gradient_norm_scalars"]) == pytest.approx(abs(float(model.logit_scale.grad or 0)))
