"""What a recipe can ask of a run, on the smallest models and data."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from sightline.encoder import load_encoder
from sightline.errors import RecipeError
from tests.training.conftest import TINY_RECIPE
from training.loop import StageBegun, Step, step_seed
from training.recipe import Recipe, parse_recipe
from training.run import Finished, train_bundle

QUIET = "\n[watch]\ncanary_pairs = 0\ntrace_pairs = 0\nfigures_every_steps = 1000\n"
STAGED = """
[[stages]]
name = "heads"
num_steps = 4
train = ["image-head", "text-head", "logit-scale"]

[[stages]]
name = "all"
num_steps = 5
train = ["image", "text", "image-head", "text-head", "logit-scale"]
learning_rate_factor = 0.5
factors = { text = 0.1 }
"""


class Cut(Exception):
    """Stands for a power cut."""


def recipe(tables: str = "", **training: Any) -> Recipe:
    """The tiny recipe with further keys in [training] and further tables."""
    keys = "".join(f"{key} = {json.dumps(value)}\n" for key, value in training.items())
    text = TINY_RECIPE.replace("[training]\n", f"[training]\n{keys}")
    if "[[stages]]" in tables:
        text = text.replace("num_steps = 8\n", "")
    return parse_recipe(text + tables + ("" if "[watch]" in tables else QUIET), "tiny.toml")


def run(chosen: Recipe, world: Path, out: Path, **options: Any) -> Finished:
    return train_bundle(chosen, str(world), out, device="cpu", num_threads=1, **options)


def weights(bundle: Path) -> dict[str, torch.Tensor]:
    return load_encoder(str(bundle), device="cpu", precision="fp32").checkpoint.model.state_dict()


def log_of(finished: Finished) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (finished.folder / "log.jsonl").read_text().splitlines()]


def cut_at(step: int) -> Any:
    def cut(done: Step) -> None:
        if done.step == step:
            raise Cut

    return cut


EVERYTHING = (
    STAGED
    + """
[objective]
queue = { size = 12, max_age_steps = 4 }
distillation = { alpha = 0.4, ramp_steps = 6, teacher = "ema", ema_decay = 0.9 }
adversary = { strength = 0.1, width = 8 }
regularisers = { diversity = 0.1 }
hard_negatives = { hardness = 1.0, guard_equal_texts = true }

[data]
augmentation = { crop_scale = [0.8, 1.0], mirror = 0.5 }
equal_captions_are_positives = true

[export]
weights = "ema"
"""
)


@pytest.mark.parametrize("cut_after", [4, 5, 7])
def test_resume_is_bit_equal_with_everything_on(world: Path, tmp_path: Path, cut_after: int) -> None:
    """Dropout (of patches), queue, teacher, running mean, adversary, micro-batches, and a stage that ends at step 4,
    which is also where the last checkpoint is from."""
    chosen = recipe(EVERYTHING, ema_decay=0.8, micro_batch_size=3)
    chosen = chosen.model_copy(
        update={"training": chosen.training.model_copy(update={"checkpoint_every_steps": 4, "warmup_steps": 1})}
    )
    whole = run(chosen, world, tmp_path / "whole")
    with pytest.raises(Cut):
        run(chosen, world, tmp_path / "cut", on_step=cut_at(cut_after))
    seen: list[int] = []
    resumed = run(chosen, world, tmp_path / "cut", resume=True, on_step=lambda step: seen.append(step.step))
    assert seen == list(range(5, 10))
    one, other = weights(tmp_path / "whole"), weights(tmp_path / "cut")
    assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())
    left_out = {"seconds"}
    for before, after in zip(log_of(whole), log_of(resumed), strict=True):
        assert {k: v for k, v in before.items() if k not in left_out} == {
            k: v for k, v in after.items() if k not in left_out
        }


def test_an_interrupt_keeps_the_last_step(world: Path, tmp_path: Path) -> None:
    def interrupt(step: Step) -> None:
        if step.step == 5:
            os.kill(os.getpid(), signal.SIGINT)

    chosen = recipe()
    whole = run(chosen, world, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(chosen, world, tmp_path / "cut", on_step=interrupt)
    seen: list[int] = []
    run(chosen, world, tmp_path / "cut", resume=True, on_step=lambda step: seen.append(step.step))
    assert seen == [6, 7, 8]
    assert whole.last.loss == log_of(whole)[-1]["loss"]
    one, other = weights(tmp_path / "whole"), weights(tmp_path / "cut")
    assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def test_stages_train_what_they_say(world: Path, tmp_path: Path) -> None:
    from training.model import build_checkpoint

    chosen = recipe(STAGED)
    start = {name: tensor.clone() for name, tensor in build_checkpoint(chosen).model.state_dict().items()}
    begun: list[StageBegun] = []
    with pytest.raises(Cut):
        run(chosen, world, tmp_path / "b", on_step=cut_at(4), on_stage=begun.append)
    assert [(stage.number, stage.settings.name) for stage in begun] == [(0, "heads")]
    assert begun[0].num_trained == 16 * 16 + 16 * 16 + 1 and begun[0].num_frozen > 4000
    finished = run(chosen, world, tmp_path / "c", on_stage=begun.append)
    assert [stage.settings.name for stage in finished.stages] == ["heads", "all"]
    assert finished.stages[1].num_frozen == 0
    log = log_of(finished)
    assert [line["stage"] for line in log] == ["heads"] * 4 + ["all"] * 5
    assert log[4]["learning_rate"] == pytest.approx(0.5 * 3e-3 / 2)  # its own warm-up, at half the rate
    end = weights(tmp_path / "c")
    assert not torch.equal(start["visual.conv1.weight"], end["visual.conv1.weight"])


def test_a_stage_leaves_the_rest_alone(world: Path, tmp_path: Path) -> None:
    from training.model import build_checkpoint

    only_heads = STAGED.split("[[stages]]")[1]
    chosen = recipe("[[stages]]" + only_heads)
    start = build_checkpoint(chosen).model.state_dict()
    run(chosen, world, tmp_path / "b")
    end = weights(tmp_path / "b")
    moved = {name for name, tensor in start.items() if not torch.equal(tensor, end[name])}
    assert moved == {"visual.proj", "text_projection", "logit_scale"}


def test_micro_batches_train_the_same_encoder(world: Path, tmp_path: Path) -> None:
    plain = recipe().model_copy(update={"model": recipe().model.model_copy(update={"vision": _without_dropout()})})
    small = plain.model_copy(update={"training": plain.training.model_copy(update={"micro_batch_size": 3})})
    one, other = run(plain, world, tmp_path / "a"), run(small, world, tmp_path / "b")
    losses = [[line["loss"] for line in log_of(finished)] for finished in (one, other)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def _without_dropout() -> dict[str, Any]:
    return {key: value for key, value in recipe().model.vision.items() if key != "patch_dropout"}


def test_the_running_mean_can_be_exported(world: Path, tmp_path: Path) -> None:
    decay = 0.5
    last = recipe(ema_decay=decay, ema_warm_up=False)
    mean = recipe('\n[export]\nweights = "ema"\n', ema_decay=decay, ema_warm_up=False)
    run(last, world, tmp_path / "last")
    run(mean, world, tmp_path / "mean")
    one, other = weights(tmp_path / "last"), weights(tmp_path / "mean")
    assert not torch.equal(one["visual.proj"], other["visual.proj"])
    assert torch.allclose(one["visual.proj"], other["visual.proj"], atol=0.02)  # near, because the last steps are small


def test_adapters_their_running_mean_and_their_teacher_go_together(world: Path, tmp_path: Path) -> None:
    from training.model import build_checkpoint

    tables = '\n[adapters.lora]\nrank = 2\n\n[objective.distillation]\nalpha = 0.3\n\n[export]\nweights = "ema"\n'
    chosen = recipe(tables, ema_decay=0.5, micro_batch_size=4)
    start = build_checkpoint(chosen).model.state_dict()
    with pytest.raises(Cut):
        run(chosen, world, tmp_path / "b", on_step=cut_at(5))
    finished = run(chosen, world, tmp_path / "b", resume=True)
    (stage,) = finished.stages
    assert stage.settings.train == ("adapters",) and 0 < stage.num_trained < stage.num_frozen
    end = weights(tmp_path / "b")
    assert end.keys() == start.keys()  # merged: an ordinary open_clip model
    moved = {name for name, tensor in start.items() if not torch.allclose(tensor, end[name], rtol=0, atol=1e-7)}
    assert "visual.transformer.resblocks.0.attn.in_proj_weight" in moved
    assert not any("ln_" in name or "embedding" in name for name in moved)


def test_gradient_checkpointing_trains_the_same_encoder(world: Path, tmp_path: Path) -> None:
    run(recipe(), world, tmp_path / "a")
    run(recipe(gradient_checkpointing=True), world, tmp_path / "b")
    one, other = weights(tmp_path / "a"), weights(tmp_path / "b")
    for name, tensor in one.items():
        assert torch.allclose(tensor, other[name], rtol=0, atol=1e-6), name


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ('mode = "fixed", initial_scale = 20', [20.0] * 8),
        ('mode = "scheduled", initial_scale = 10, final_scale = 40', [10 * 4 ** (step / 7) for step in range(8)]),
    ],
)
def test_the_temperature_can_be_held_or_moved(world: Path, tmp_path: Path, mode: str, expected: list[float]) -> None:
    finished = run(recipe(f"\n[objective]\ntemperature = {{ {mode} }}\n"), world, tmp_path / "b")
    assert [line["logit_scale"] for line in log_of(finished)] == pytest.approx(expected, rel=1e-5)


def test_the_sigmoid_loss_brings_its_bias(world: Path, tmp_path: Path) -> None:
    finished = run(recipe('\n[objective]\nkind = "sigmoid"\n'), world, tmp_path / "b")
    assert finished.manifest.score_scale.kind == "sigmoid"
    assert weights(tmp_path / "b")["logit_bias"].item() == pytest.approx(-1.9459, abs=0.05)  # -ln 7
    tuned = recipe('\n[objective]\nkind = "softmax"\n')
    tuned = tuned.model_copy(update={"model": tuned.model.model_validate({"encoder": str(tmp_path / "b")})})
    again = run(tuned, world, tmp_path / "c")
    assert again.manifest.score_scale.kind == "softmax"


def test_a_frozen_encoder_teaches(world: Path, tmp_path: Path) -> None:
    run(recipe(), world, tmp_path / "teacher")
    table = f'\n[objective.distillation]\nalpha = 0.5\nteacher = "{tmp_path / "teacher"}"\n'
    finished = run(recipe(table), world, tmp_path / "b")
    assert all(line["loss_distillation"] > 0 for line in log_of(finished))


def test_a_teacher_that_sees_other_pictures_is_refused(world: Path, tmp_path: Path) -> None:
    run(recipe(), world, tmp_path / "teacher")
    table = f'\n[objective.distillation]\nalpha = 0.5\nteacher = "{tmp_path / "teacher"}"\n'
    chosen = recipe(table)
    larger = {**chosen.model.vision, "image_size": 24}
    chosen = chosen.model_copy(update={"model": chosen.model.model_copy(update={"vision": larger})})
    with pytest.raises(RecipeError, match="16 x 16 px and the student of 24 x 24; choose a teacher"):
        run(chosen, world, tmp_path / "b")


def test_a_locked_tower_can_be_encoded_once(world: Path, tmp_path: Path) -> None:
    text_only = '[[stages]]\nname = "text"\nnum_steps = 4\ntrain = ["text", "text-head", "logit-scale"]\n'
    run(recipe(text_only), world, tmp_path / "a")
    finished = run(recipe(text_only, cache_features=True), world, tmp_path / "b")
    assert list(finished.folder.glob("features-*.npy"))
    one, other = weights(tmp_path / "a"), weights(tmp_path / "b")
    for name, tensor in one.items():
        assert torch.allclose(tensor, other[name], rtol=0, atol=1e-5), name
    with pytest.raises(RecipeError, match="locked"):
        run(recipe(cache_features=True), world, tmp_path / "c")


def test_hard_neighbours_come_from_an_encoder(world: Path, tmp_path: Path) -> None:
    run(recipe(), world, tmp_path / "first")
    chosen = recipe(
        f'\n[data]\nmine_with = "{tmp_path / "first"}"\nmining = {{ group_size = 2, num_neighbours = 4 }}\n'
    )
    finished = run(chosen, world, tmp_path / "b")
    assert finished.last.step == 8


def test_several_captions_and_negatives_come_along(world: Path, tmp_path: Path) -> None:
    chosen = recipe("\n[data]\ncaptions_per_image = 2\nnegatives = { per_image = 1 }\n", micro_batch_size=5)
    assert run(chosen, world, tmp_path / "b").last.loss > 0


def test_each_step_has_random_numbers_of_its_own() -> None:
    assert step_seed(3, 7) == step_seed(3, 7)
    assert len({step_seed(seed, step) for seed in range(3) for step in range(3)}) == 9
