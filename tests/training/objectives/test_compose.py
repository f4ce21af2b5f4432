"""The table [objective] as a whole."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError

from sightline.errors import RecipeError
from tests.training.objectives import naive
from training.objectives import ObjectiveSettings, Pairs, compose, make_loss, text_ids
from training.objectives.settings import TemperatureSettings


def test_the_defaults_ask_for_nothing_special() -> None:
    settings = ObjectiveSettings()
    assert settings == ObjectiveSettings.model_validate({})
    found = make_loss(settings, kind="softmax")(Pairs(**naive.leaves(4, 4)))  # type: ignore[arg-type]
    assert set(found.parts) == {"contrast"}
    assert torch.equal(found.parts["contrast"], found.total.detach())
    assert not found.parts["contrast"].requires_grad


def test_the_kind_follows_the_model_unless_the_recipe_says() -> None:
    assert ObjectiveSettings().kind_for(has_bias=True) == "sigmoid"
    assert ObjectiveSettings().kind_for(has_bias=False) == "softmax"
    assert ObjectiveSettings(kind="softmax").kind_for(has_bias=True) == "softmax"


@pytest.mark.parametrize(
    "wrong",
    [
        {"chunksize": 64},
        {"hard_negatives": {"hardness": -1}},
        {"queue": {"size": -1}},
        {"distillation": {"alpha": 1.5}},
        {"kind": "sigmoid", "multi_positive": "in"},
        {"kind": "sigmoid", "label_smoothing": 0.1},
        {"multi_positive": "in", "label_smoothing": 0.1},
        {"label_smoothing": 1.0},
        {"label_smoothing": -0.1},
    ],
    ids=str,
)
def test_impossible_settings_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        ObjectiveSettings.model_validate(wrong)


def test_summed_probabilities_are_for_softmax_only() -> None:
    with pytest.raises(RecipeError, match="multi_positive"):
        make_loss(ObjectiveSettings(multi_positive="in"), kind="sigmoid")


def test_label_smoothing_is_for_softmax_only() -> None:
    with pytest.raises(RecipeError, match=r"label_smoothing in \[objective\] needs the softmax loss; leave it out"):
        make_loss(ObjectiveSettings(label_smoothing=0.1), kind="sigmoid")


def test_a_sigmoid_loss_needs_a_bias() -> None:
    with pytest.raises(ValueError, match="bias"):
        make_loss(ObjectiveSettings(), kind="sigmoid")(Pairs(**naive.leaves(3, 3)))  # type: ignore[arg-type]


def test_a_bias_of_no_effect_still_has_a_gradient() -> None:
    """Data parallel training waits for the gradient of every parameter (open_clip #1076)."""
    given = naive.leaves(6, 6, bias=-1.0)
    make_loss(ObjectiveSettings(chunk_size=16), kind="softmax")(Pairs(**given)).total.backward()  # type: ignore[arg-type]
    assert given["logit_bias"].grad is not None and float(given["logit_bias"].grad) == 0.0


@pytest.mark.parametrize("kind", ["softmax", "sigmoid"])
def test_scale_and_bias_may_be_vectors_of_one_number(kind: str) -> None:
    given = naive.leaves(6, 6, bias=-1.0)
    loss = make_loss(ObjectiveSettings(chunk_size=16), kind=kind)  # type: ignore[arg-type]
    plain = naive.value_and_gradients(loss, given)
    wide = given | {name: given[name].detach().reshape(1) for name in ("logit_scale", "logit_bias")}
    found = naive.value_and_gradients(loss, wide)
    assert found["loss"].shape == () and found["logit_scale"].shape == (1,)
    naive.assert_same({name: tensor.reshape(plain[name].shape) for name, tensor in found.items()}, plain, 1e-14)


def test_everything_at_once_has_finite_gradients() -> None:
    settings = ObjectiveSettings.model_validate(
        {
            "chunk_size": 16,
            "hard_negatives": {"hardness": 4.0, "guard_margin": 0.1, "guard_equal_texts": True},
            "distillation": {"alpha": 0.4},
            "regularisers": {"diversity": 0.1, "modality_gap": 0.1, "covariance_gap": 0.1},
            "adversary": {"strength": 0.1},
        }
    )
    given = naive.leaves(20, 30, bias=-3.0, dtype=torch.float32)
    teacher = naive.leaves(20, 30, dtype=torch.float32, seed=9)
    generator = torch.Generator().manual_seed(1)
    mask = (torch.rand(20, 30, generator=generator) < 0.1) | torch.eye(20, 30, dtype=torch.bool)
    for kind in ("softmax", "sigmoid"):
        loss = make_loss(settings, kind=kind, dim=16)
        found = naive.value_and_gradients(
            loss,
            given,
            positives=mask,
            weights=torch.rand(20, 30, generator=generator),
            teacher_images=teacher["images"],
            teacher_texts=teacher["texts"],
            teacher_logit_scale=teacher["logit_scale"],
            text_ids=torch.randint(0, 9, (30,), generator=generator),
            extra_texts=naive.unit_rows(7, 16, 3, torch.float32),
            extra_images=naive.unit_rows(7, 16, 4, torch.float32),
            extra_ids=torch.arange(7),
        )
        assert all(bool(tensor.isfinite().all()) for tensor in found.values())
        assert float(found["images"].abs().max()) > 0


@pytest.mark.parametrize(
    "change",
    [
        {"texts": torch.zeros(2, 16)},
        {"texts": torch.zeros(3, 8)},
        {"images": torch.zeros(0, 16)},
        {"positives": torch.ones(3, 2, dtype=torch.bool)},
        {"weights": torch.ones(2, 3)},
        {"teacher_images": torch.zeros(3, 16)},
        {
            "teacher_images": torch.zeros(3, 16),
            "teacher_texts": torch.zeros(2, 16),
            "teacher_logit_scale": torch.ones(()),
        },
        {"text_ids": torch.zeros(2, dtype=torch.int64)},
    ],
    ids=lambda change: " ".join(change),
)
def test_shapes_that_do_not_fit_are_refused(change: dict[str, torch.Tensor]) -> None:
    fitting = {"images": torch.zeros(3, 16), "texts": torch.zeros(3, 16), "logit_scale": torch.ones(())}
    with pytest.raises(ValueError, match=r"must|gives"):
        Pairs(**(fitting | change))  # type: ignore[arg-type]


def test_equal_texts_have_equal_numbers() -> None:
    tokens = torch.tensor([[1, 2, 3, 0], [1, 3, 2, 0], [1, 2, 3, 0], [0, 1, 2, 3], [0, 0, 0, 0]])
    ids = text_ids(tokens)
    assert ids[0] == ids[2]
    assert len(set(ids.tolist())) == 4
    assert torch.equal(text_ids(tokens[2:]), ids[2:])  # whatever else is in the batch


def test_numbers_of_many_texts_differ() -> None:
    generator = torch.Generator().manual_seed(0)
    tokens = torch.unique(torch.randint(0, 40, (50_000, 6), generator=generator), dim=0)
    assert len(torch.unique(text_ids(tokens))) == len(tokens)


def test_a_recipe_can_set_the_temperature() -> None:
    settings = ObjectiveSettings.model_validate({"temperature": {"mode": "fixed", "initial_scale": 20}})
    assert settings.temperature == TemperatureSettings(mode="fixed", initial_scale=20)


@pytest.mark.parametrize("kind", ["softmax", "sigmoid"])
def test_a_large_matrix_goes_in_blocks_unasked(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    given = naive.leaves(20, 20, bias=-3.0)
    plain = naive.value_and_gradients(make_loss(ObjectiveSettings(), kind=kind), given)  # type: ignore[arg-type]
    monkeypatch.setitem(compose.WHOLE_UP_TO, "cpu", 399)
    monkeypatch.setitem(compose.CHUNK_SIZE, "cpu", 7)
    large = make_loss(ObjectiveSettings(), kind=kind)  # type: ignore[arg-type]
    monkeypatch.setattr(large, "plain", None)  # calling it would fail
    naive.assert_same(naive.value_and_gradients(large, given), plain, 1e-12)
