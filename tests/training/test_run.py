from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sightline.bundle import verify_bundle
from sightline.encoder import load_encoder
from sightline.errors import SettingError, SourceError, StorageError, TrainingStopped
from training.data import read_captioned, split_source
from training.loop import Step
from training.model import build_checkpoint
from training.recipe import Recipe
from training.run import Finished, train_bundle
from training.watching import WatchSettings


class Cut(Exception):
    """Stands for a power cut."""


def log_of(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def weights(bundle: Path) -> dict[str, torch.Tensor]:
    return load_encoder(str(bundle), device="cpu", precision="fp32").checkpoint.model.state_dict()


@pytest.fixture(scope="module")
def finished(world: Path, tiny: Recipe, tmp_path_factory: pytest.TempPathFactory) -> tuple[Finished, Path]:
    out = tmp_path_factory.mktemp("run") / "bundle"
    return train_bundle(tiny, str(world), out, device="cpu", num_threads=1), out


def test_a_run_publishes_a_verified_bundle_with_provenance(finished: tuple[Finished, Path]) -> None:
    result, out = finished
    manifest = verify_bundle(out)
    assert manifest == result.manifest
    assert manifest.name == "tiny"
    assert manifest.provenance["recipe"]["seed"] == 3
    assert manifest.provenance["data"]["num_pictures"] == result.num_pictures == 40
    assert result.rejected == {}
    assert not list(result.folder.glob("*.pt"))


def test_every_step_is_logged(finished: tuple[Finished, Path]) -> None:
    result, _ = finished
    log = log_of(result.folder)
    assert [entry["step"] for entry in log] == list(range(1, 9))
    assert [entry["epoch"] for entry in log] == [0] * 5 + [1] * 3
    assert log[-1]["loss"] == result.last.loss
    assert log[0]["logit_scale"] == pytest.approx(1 / 0.07, rel=0.01)


def test_the_bundle_reads_captions_at_its_own_length(finished: tuple[Finished, Path], world: Path) -> None:
    encoder = load_encoder(str(finished[1]), device="cpu", precision="fp32")
    data = read_captioned(split_source(str(world), "held-out"), encoder.identity.pixels)
    vectors = encoder.encode_pixels(data.pixels)
    assert vectors.shape == (24, 16)
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(np.ones(24), abs=1e-5)
    assert encoder.tokenize(["a red circle"]).shape == (1, 32)


def test_loss_falls(world: Path, tiny: Recipe, tmp_path: Path) -> None:
    longer = tiny.training.model_copy(update={"num_steps": 80, "learning_rate": 3e-3})
    train_bundle(tiny.model_copy(update={"training": longer}), str(world), tmp_path / "b", device="cpu", num_threads=1)
    losses = [entry["loss"] for entry in log_of(tmp_path / "b.training")]
    assert np.mean(losses[-10:]) < np.mean(losses[:10]) - 0.3


def test_a_run_cut_off_and_resumed_is_bit_equal(
    finished: tuple[Finished, Path], world: Path, tiny: Recipe, tmp_path: Path
) -> None:
    def cut(step: Step) -> None:
        if step.step == 5:  # two steps after the last checkpoint
            raise Cut

    out = tmp_path / "bundle"
    with pytest.raises(Cut):
        train_bundle(tiny, str(world), out, device="cpu", num_threads=1, on_step=cut)
    assert not out.exists()
    torch.manual_seed(99)  # another process would not have this state either
    again = train_bundle(tiny, str(world), out, device="cpu", num_threads=1, resume=True)
    assert again.manifest.fingerprint == finished[0].manifest.fingerprint
    expected = weights(finished[1])
    assert all(torch.equal(tensor, expected[name]) for name, tensor in weights(out).items())
    assert [(e["step"], e["loss"]) for e in log_of(again.folder)] == [
        (e["step"], e["loss"]) for e in log_of(finished[0].folder)
    ]


def test_an_interrupt_leaves_a_checkpoint_to_resume_from(
    finished: tuple[Finished, Path], world: Path, tiny: Recipe, tmp_path: Path
) -> None:
    def interrupt(step: Step) -> None:
        if step.step == 4:
            raise KeyboardInterrupt

    out = tmp_path / "bundle"
    with pytest.raises(KeyboardInterrupt):
        train_bundle(tiny, str(world), out, device="cpu", num_threads=1, on_step=interrupt)
    seen: list[int] = []
    again = train_bundle(
        tiny, str(world), out, device="cpu", num_threads=1, resume=True, on_step=lambda s: seen.append(s.step)
    )
    assert seen == [5, 6, 7, 8]
    assert again.manifest.fingerprint == finished[0].manifest.fingerprint


def test_only_the_used_embeddings_move_and_exactly_as_in_the_full_table(
    finished: tuple[Finished, Path], world: Path, tiny: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training.preparation.narrow", lambda model, tokens: None)
    train_bundle(tiny, str(world), tmp_path / "full", device="cpu", num_threads=1)
    narrow, full = weights(finished[1]), weights(tmp_path / "full")
    assert narrow["token_embedding.weight"].shape == (49408, 16)
    for name, tensor in full.items():
        assert torch.allclose(tensor, narrow[name], rtol=0, atol=1e-6), name
    start = build_checkpoint(tiny).model.state_dict()["token_embedding.weight"]
    moved = (start != narrow["token_embedding.weight"]).any(dim=1)
    assert 20 < int(moved.sum()) < 80


def test_nothing_to_resume_is_said(world: Path, tiny: Recipe, tmp_path: Path) -> None:
    with pytest.raises(TrainingStopped, match="nothing to resume"):
        train_bundle(tiny, str(world), tmp_path / "b", device="cpu", resume=True)


def test_starting_again_keeps_the_unfinished_run(world: Path, tiny: Recipe, tmp_path: Path) -> None:
    def cut(step: Step) -> None:
        if step.step == 4:
            raise Cut

    for _ in range(2):
        with pytest.raises(Cut):
            train_bundle(tiny, str(world), tmp_path / "b", device="cpu", on_step=cut)
    assert (tmp_path / "b.training.old" / "checkpoint.pt").is_file()
    assert len(log_of(tmp_path / "b.training")) == 4


def test_a_device_that_is_not_there_is_said(world: Path, tiny: Recipe, tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="no device 'tpu' that torch can use"):
        train_bundle(tiny, str(world), tmp_path / "b", device="tpu")


def test_another_recipe_does_not_continue_a_run(world: Path, tiny: Recipe, tmp_path: Path) -> None:
    def cut(step: Step) -> None:
        if step.step == 4:
            raise Cut

    with pytest.raises(Cut):
        train_bundle(tiny, str(world), tmp_path / "b", device="cpu", on_step=cut)
    other = tiny.model_copy(update={"training": tiny.training.model_copy(update={"learning_rate": 1e-4})})
    with pytest.raises(TrainingStopped, match="another recipe"):
        train_bundle(other, str(world), tmp_path / "b", device="cpu", resume=True)


def test_a_damaged_checkpoint_is_said(world: Path, tiny: Recipe, tmp_path: Path) -> None:
    folder = tmp_path / "b.training"
    folder.mkdir()
    (folder / "checkpoint.pt").write_bytes(b"not a checkpoint")
    with pytest.raises(TrainingStopped, match="damaged"):
        train_bundle(tiny, str(world), tmp_path / "b", device="cpu", resume=True)


def test_a_diverging_run_stops_with_the_reason_and_publishes_nothing(world: Path, tiny: Recipe, tmp_path: Path) -> None:
    wild = tiny.training.model_copy(update={"learning_rate": 1e30, "warmup_steps": 0})
    with pytest.raises(TrainingStopped, match=r"step \d+: the .* not a number.*; lower learning_rate"):
        train_bundle(tiny.model_copy(update={"training": wild}), str(world), tmp_path / "b", device="cpu")
    assert not (tmp_path / "b").exists()


def test_what_is_wrong_is_said_before_the_first_step(world: Path, tiny: Recipe, tmp_path: Path) -> None:
    def never(step: Step) -> None:
        raise AssertionError

    big = tiny.model_copy(update={"training": tiny.training.model_copy(update={"batch_size": 64})})
    with pytest.raises(SourceError, match="batch of 64 cannot be drawn from 40 pictures; lower batch_size"):
        train_bundle(big, str(world), tmp_path / "b", device="cpu", on_step=never)
    with pytest.raises(SourceError, match="nothing at"):
        train_bundle(tiny, str(tmp_path / "none"), tmp_path / "b", device="cpu", on_step=never)
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file").touch()
    with pytest.raises(StorageError, match="not empty"):
        train_bundle(tiny, str(world), tmp_path / "taken", device="cpu", on_step=never)


def test_an_encoder_can_be_fine_tuned_and_keeps_its_licence(
    finished: tuple[Finished, Path], world: Path, tiny: Recipe, tmp_path: Path
) -> None:
    model = tiny.model.model_validate({"encoder": str(finished[1])})
    result = train_bundle(
        tiny.model_copy(update={"name": "tuned", "model": model}), str(world), tmp_path / "b", device="cpu"
    )
    assert result.manifest.name == "tuned"
    assert result.manifest.licence == finished[0].manifest.licence
    assert result.manifest.fingerprint != finished[0].manifest.fingerprint
    assert result.manifest.pixels == finished[0].manifest.pixels


def test_a_run_without_held_out_pictures_says_so(world: Path, tiny: Recipe, tmp_path: Path) -> None:
    warned: list[str] = []
    train_only = str(world / "train-00000.tar")

    def run(out: str, data: str, **more: Any) -> None:
        train_bundle(tiny.model_copy(update=more), data, tmp_path / out, device="cpu", warn=warned.append)

    run("a", str(world))
    run("b", train_only, watch=WatchSettings(canary_pairs=0, trace_pairs=0))
    assert not [sentence for sentence in warned if "held-out" in sentence]
    run("c", train_only)
    (sentence,) = [sentence for sentence in warned if "no held-out pictures" in sentence]
    assert "name some with --held-out" in sentence and sentence.endswith(".")


def test_muon_learns_and_resumes_bit_equal(world: Path, tiny: Recipe, tmp_path: Path) -> None:
    def cut(step: Step) -> None:
        if step.step == 5:
            raise Cut

    recipe = tiny.model_copy(update={"training": tiny.training.model_copy(update={"optimizer": "muon"})})
    whole = train_bundle(recipe, str(world), tmp_path / "a", device="cpu", num_threads=1)
    with pytest.raises(Cut):
        train_bundle(recipe, str(world), tmp_path / "b", device="cpu", num_threads=1, on_step=cut)
    again = train_bundle(recipe, str(world), tmp_path / "b", device="cpu", num_threads=1, resume=True)
    assert again.manifest.fingerprint == whole.manifest.fingerprint
    start = build_checkpoint(recipe).model.state_dict()
    assert not torch.equal(
        weights(tmp_path / "a")["transformer.resblocks.0.mlp.c_fc.weight"],
        start["transformer.resblocks.0.mlp.c_fc.weight"],
    )
