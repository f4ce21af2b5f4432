"""Soft targets for every pairing of student and teacher."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from open_clip.loss import DistillClipLoss

from tests.training.objectives import naive
from training.objectives import Kind, ObjectiveSettings, Pairs, make_loss


def _teacher(num_images: int, num_texts: int, *, bias: float | None) -> dict[str, object]:
    own = naive.leaves(num_images, num_texts, dim=24, seed=50)  # another dimension than the student's
    found: dict[str, object] = {
        "teacher_images": own["images"].detach(),
        "teacher_texts": own["texts"].detach(),
        "teacher_logit_scale": torch.tensor(20.0, dtype=torch.float64),
    }
    if bias is not None:
        found["teacher_logit_bias"] = torch.tensor(bias, dtype=torch.float64)
    return found


def _settings(alpha: float, **more: object) -> ObjectiveSettings:
    return ObjectiveSettings.model_validate({"distillation": {"alpha": alpha, **more}})


@pytest.mark.parametrize("chunk_size", [None, 16])
@pytest.mark.parametrize("alpha", [0.4, 1.0])
def test_a_softmax_student_is_open_clips(chunk_size: int | None, alpha: float) -> None:
    given = naive.leaves(20, 20)
    teacher = _teacher(20, 20, bias=None)

    def open_clip(pairs: Pairs) -> torch.Tensor:
        contrast, taught = DistillClipLoss()(
            pairs.images,
            pairs.texts,
            pairs.logit_scale,
            pairs.teacher_images,
            pairs.teacher_texts,
            pairs.teacher_logit_scale,
        )
        mixed: torch.Tensor = (1 - alpha) * contrast + alpha * taught
        return mixed

    settings = _settings(alpha).model_copy(update={"chunk_size": chunk_size})
    found = naive.value_and_gradients(make_loss(settings, kind="softmax"), given, **teacher)
    naive.assert_same(found, naive.value_and_gradients(open_clip, given, **teacher), 1e-12)


def test_open_clips_distillation_cannot_take_a_sigmoid_student() -> None:
    with pytest.raises(TypeError, match="logit_bias"):
        DistillClipLoss()(
            *[torch.eye(3)] * 2, torch.tensor(1.0), *[torch.eye(3)] * 2, torch.tensor(1.0), logit_bias=torch.tensor(0.0)
        )


@pytest.mark.parametrize("chunk_size", [None, 16])
@pytest.mark.parametrize("teacher_bias", [None, -4.0], ids=["of-softmax", "of-sigmoid"])
def test_a_sigmoid_student_learns_probabilities(chunk_size: int | None, teacher_bias: float | None) -> None:
    given = naive.leaves(20, 20, scale=10.0, bias=-3.0)
    teacher = _teacher(20, 20, bias=teacher_bias)

    def formula(pairs: Pairs) -> torch.Tensor:
        assert pairs.logit_bias is not None
        said = naive.teacher(pairs)
        if teacher_bias is None:
            asked = 0.5 * (said.softmax(1) + said.softmax(0))
        else:
            asked = torch.sigmoid(said + teacher_bias)
        logits = pairs.logit_scale * pairs.images @ pairs.texts.T + pairs.logit_bias
        return F.binary_cross_entropy_with_logits(logits, asked, reduction="sum") / len(logits)

    settings = _settings(1.0).model_copy(update={"chunk_size": chunk_size})
    found = naive.value_and_gradients(make_loss(settings, kind="sigmoid"), given, **teacher)
    naive.assert_same(found, naive.value_and_gradients(formula, given, **teacher), 1e-12)


@pytest.mark.parametrize("kind", ["softmax", "sigmoid"])
def test_a_student_that_agrees_with_its_teacher_stays(kind: Kind) -> None:
    given = naive.leaves(10, 10, scale=8.0, bias=-3.0)
    own = {
        "teacher_images": given["images"].detach(),
        "teacher_texts": given["texts"].detach(),
        "teacher_logit_scale": given["logit_scale"].detach(),
        "teacher_logit_bias": given["logit_bias"].detach() if kind == "sigmoid" else None,
    }
    found = naive.value_and_gradients(make_loss(_settings(1.0), kind=kind), given, **own)
    for name in ("images", "texts", "logit_scale", "logit_bias"):
        assert float(found[name].abs().max()) < 1e-14, name


def test_supplied_negatives_ask_their_teacher_for_no_pictures() -> None:
    given = naive.leaves(6, 9)
    teacher = _teacher(6, 9, bias=None)

    def formula(pairs: Pairs) -> torch.Tensor:
        said, logits = naive.teacher(pairs), pairs.logit_scale * pairs.images @ pairs.texts.T
        rows = -(said.softmax(1) * logits.log_softmax(1)).sum(1).mean()
        columns = -(said.softmax(0) * logits.log_softmax(0)).sum(0)[:6].mean()
        return 0.5 * (rows + columns)

    found = naive.value_and_gradients(make_loss(_settings(1.0), kind="softmax"), given, **teacher)
    naive.assert_same(found, naive.value_and_gradients(formula, given, **teacher), 1e-12)


def test_the_teacher_comes_in_slowly() -> None:
    settings = _settings(0.4, ramp_steps=10).distillation
    assert [settings.alpha_at(step) for step in (0, 5, 10, 99, None)] == pytest.approx([0, 0.2, 0.4, 0.4, 0.4])
    given = naive.leaves(6, 6)
    loss, teacher = make_loss(_settings(0.4, ramp_steps=10), kind="softmax"), _teacher(6, 6, bias=None)
    plain = naive.value_and_gradients(make_loss(ObjectiveSettings(), kind="softmax"), given)
    naive.assert_same(naive.value_and_gradients(loss, given, step=0, **teacher), plain, 1e-12)
    parts = loss(Pairs(**given, step=5, **teacher))  # type: ignore[arg-type]
    mixed = 0.8 * parts.parts["contrast"] + 0.2 * parts.parts["distillation"]
    assert float(parts.total.detach()) == pytest.approx(float(mixed), rel=1e-12)


def test_no_gradient_reaches_the_teacher() -> None:
    given, teacher = naive.leaves(6, 6), _teacher(6, 6, bias=None)
    watched = {
        name: tensor.clone().requires_grad_() for name, tensor in teacher.items() if isinstance(tensor, torch.Tensor)
    }
    make_loss(_settings(0.5), kind="softmax")(Pairs(**given, **watched)).total.backward()  # type: ignore[arg-type]
    assert all(tensor.grad is None for tensor in watched.values())


def test_distillation_without_a_teacher_is_refused() -> None:
    with pytest.raises(ValueError, match="teacher"):
        make_loss(_settings(0.5), kind="softmax")(Pairs(**naive.leaves(3, 3)))  # type: ignore[arg-type]
