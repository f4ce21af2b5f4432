"""The small drawn world, its batches and measures, and how shapes are judged."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.training.world.batches import DrawnBatches
from benchmarks.training.world.experiments import EXPERIMENTS
from benchmarks.training.world.experiments.collapse import COLLAPSE
from benchmarks.training.world.experiments.swaps import SWAPS
from benchmarks.training.world.experiments.temperature import SCALES, TEMPERATURE
from benchmarks.training.world.fit import fit
from benchmarks.training.world.lab import QUICK, Lab
from benchmarks.training.world.measure import measure, vectors_of
from benchmarks.training.world.report import page, verdicts_of
from benchmarks.training.world.results import Finished, Results
from benchmarks.training.world.scenes import PLAIN, SHIFTED, STYLES, exchange, tell, told
from benchmarks.training.world.shapes import Experiment, Figures, Shape
from training.world.compose import core_of, split_of


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    return Lab(0, tmp_path_factory.mktemp("lab"), QUICK)


def words(text: str) -> list[str]:
    return sorted(text.replace(",", "").split())


def test_held_out_scenes_tell_different_things_and_none_that_training_tells() -> None:
    train, held_out = told(0, PLAIN, "train", 200), told(0, PLAIN, "held-out", 60)
    cores = [core_of(scene) for scene in held_out.scenes]
    assert len(set(cores)) == 60
    assert not {text for several in train.captions for text in several} & {
        text for several in held_out.captions for text in several
    }
    assert all(split_of(scene) == "train" for scene in train.scenes)


def test_a_swap_has_the_same_words_and_belongs_to_the_same_split() -> None:
    for style in STYLES:
        drawn = told(1, style, "held-out", 40)
        for scene, captions, swaps in zip(drawn.scenes, drawn.captions, drawn.swaps, strict=True):
            if swaps is None:
                assert scene.relation == "alone"
                continue
            for caption, swap in zip(captions, swaps, strict=True):
                assert caption != swap and words(caption) == words(swap)
            swapped = exchange(scene)
            assert swapped is not None and split_of(swapped) == "held-out"


def test_the_styles_share_no_colour_and_no_background() -> None:
    scene = told(0, PLAIN, "train", 1).scenes[0]
    colours = {thing.colour for thing in scene.things}
    assert not any(colour in caption for caption in tell(scene, SHIFTED) for colour in colours)
    assert not set(PLAIN.backgrounds) & set(SHIFTED.backgrounds)


def test_pictures_are_the_same_for_the_same_seed() -> None:
    drawn = told(0, PLAIN, "train", 5)
    pixels = drawn.paint(0)
    assert pixels.shape == (5, 32, 32, 3) and pixels.dtype == np.uint8
    assert np.array_equal(pixels, drawn.paint(0)) and not np.array_equal(pixels, drawn.paint(1))


def test_batches_are_a_function_of_the_step_and_negatives_follow_the_captions(lab: Lab) -> None:
    batches = DrawnBatches(lab.train, batch_size=16, seed=0, negatives=True)
    first, again = batches.at(3), DrawnBatches(lab.train, batch_size=16, seed=0, negatives=True).at(3)
    assert np.array_equal(first.tokens, again.tokens) and np.array_equal(first.rows, again.rows)
    swapped = lab.train.has_swap[first.rows]
    assert first.pixels is not None and len(first.tokens) == 16 + swapped.sum()
    own, negatives = first.tokens[:16][swapped], first.tokens[16:]
    assert np.array_equal(np.sort(own), np.sort(negatives)) and not np.array_equal(own, negatives)
    seen = np.concatenate([batches.at(step).rows for step in range(batches.steps_per_epoch)])
    assert len(set(seen)) == len(seen)


def test_wrong_captions_are_those_of_other_pictures(lab: Lab) -> None:
    noisy = lab.train.with_wrong_captions(0.3, seed=0)
    moved = (noisy.captions != lab.train.captions).any(axis=(1, 2))
    assert 0.25 < moved.mean() <= 0.31  # two pictures may have the same captions, and 0.3 of 256 is 76.8
    assert np.array_equal(noisy.pixels, lab.train.pixels)


def test_training_lowers_the_loss_and_moves_only_what_it_is_told_to(lab: Lab) -> None:
    checkpoint = lab.fresh()
    visual = {name: tensor.clone() for name, tensor in checkpoint.model.visual.state_dict().items()}  # type: ignore[union-attr]
    training = lab.training(12, scaled=False, batch_size=32)
    short = lab.training(1, scaled=False, batch_size=32)
    before = fit(lab.fresh(), lab.batches(lab.train, short), short, seed=0)
    after = fit(checkpoint, lab.batches(lab.train, training), training, seed=0, parts=("text", "text-head"))
    assert after.loss < before.loss and after.steps == 12
    for name, tensor in checkpoint.model.visual.state_dict().items():  # type: ignore[union-attr]
        assert torch.equal(tensor, visual[name])
    assert 0 < after.num_trained < before.num_trained


def test_measures_of_a_model_that_knows_everything_are_one(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    num = len(lab.held_out)
    images = np.eye(num, 2 * num, dtype=np.float32)
    captions = np.repeat(images, lab.held_out.captions.shape[1], axis=0)
    monkeypatch.setattr(
        "benchmarks.training.world.measure.vectors_of",
        lambda model, data: (images, captions, np.roll(captions, num, axis=1)),
    )
    found = measure(torch.nn.Identity(), lab.held_out)
    assert (found.text_to_image, found.image_to_text, found.swaps_right, found.gap) == (1.0, 1.0, 1.0, 0.0)


def test_the_base_is_trained_once_and_copied(lab: Lab) -> None:
    first, figures = lab.base()
    second, _ = lab.base()
    assert figures["steps"] == QUICK.base_steps
    one, two = vectors_of(first.model, lab.held_out)[0], vectors_of(second.model, lab.held_out)[0]
    assert np.array_equal(one, two)
    first.model.logit_scale.data.fill_(0.0)  # type: ignore[operator]
    assert float(second.model.logit_scale.detach()) > 0  # type: ignore[operator]


@pytest.mark.parametrize("experiment", [SWAPS, COLLAPSE], ids=lambda experiment: experiment.name)
def test_an_experiment_gives_every_figure_that_its_shapes_ask_for(lab: Lab, experiment: Experiment) -> None:
    found = {variant: experiment.run(lab, variant) for variant in experiment.variants}
    for shape in experiment.shapes:
        assert not math.isnan(shape.of(found))
    if experiment is SWAPS:
        assert found["map"]["image_vectors_moved"] == 0.0
        assert found["full"]["image_vectors_moved"] > 0.0


def test_every_experiment_has_a_name_of_its_own_and_a_source_for_each_shape() -> None:
    assert len({experiment.name for experiment in EXPERIMENTS}) == len(EXPERIMENTS)
    assert all(shape.published for experiment in EXPERIMENTS for shape in experiment.shapes)


def test_the_shapes_of_the_temperature_sweep() -> None:
    gaps, recalls = [0.24, 0.30, 0.55, 0.64, 0.80, 1.0], [0.02, 0.19, 0.18, 0.20, 0.21, 0.18]
    published: dict[str, Figures] = {
        scale: {"gap": gap, "text_to_image_recall_at_1": recall}
        for scale, gap, recall in zip(SCALES, gaps, recalls, strict=True)
    }
    smallest, share, interior = (shape.of(published) for shape in TEMPERATURE.shapes)
    assert smallest == pytest.approx(0.06) and share == pytest.approx(0.02 / 0.21) and interior == 1.0


def test_verdicts_are_medians_over_whole_seeds(tmp_path: Path) -> None:
    def value(found: Mapping[str, Figures]) -> float:
        return found["b"]["x"] - found["a"]["x"]

    experiment = Experiment(
        "e", "?", ("a", "b"), lambda lab, variant: {}, (Shape("rise", "source", value, 0.5),), ("x",)
    )
    results = Results(tmp_path / "runs.jsonl")
    for seed, rise in enumerate((1.0, 0.6, 0.1)):
        results.add(Finished("e", "a", seed, 1.0, {"x": 0.0}))
        results.add(Finished("e", "b", seed, 1.0, {"x": rise}))
    results.add(Finished("e", "a", 9, 1.0, {"x": 0.0}))  # cut off: its b is missing
    with (tmp_path / "runs.jsonl").open("a") as file:
        file.write('{"experiment": "e", "va')
    (verdict,) = verdicts_of(experiment, results)
    assert verdict.values == (1.0, 0.6, 0.1) and verdict.num_within == 2 and verdict.bar.met
    text = page([experiment], results, [verdict], "Machine: x.")
    assert "| 2 of 3 | came out | source |" in text
    failed = Experiment("e", "?", ("a", "b"), lambda lab, variant: {}, (Shape("rise", "source", value, 0.9),), ("x",))
    assert "did not come out" in page([failed], results, verdicts_of(failed, results), "Machine: x.")
