from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from sightline.bundle import verify_bundle
from sightline.command.root import main
from sightline.encoder import write_bundle
from sightline.encoder.checkpoint import Checkpoint
from sightline.errors import EncoderUnsuitable, SettingError
from tests.training.towers import checkpoint_of, move
from training.interpolation import interpolate, sweep


def pair(kind: str = "resnet") -> tuple[Checkpoint, Checkpoint]:
    base, tuned = checkpoint_of(kind), checkpoint_of(kind)
    move(list(tuned.model.parameters()))
    for name, buffer in tuned.model.named_buffers():
        if name.endswith("num_batches_tracked"):
            buffer.fill_(100)
        elif name.endswith("running_mean"):
            buffer.add_(0.5)
    tuned.name = "tuned"
    return base, tuned


def test_the_ends_are_the_two_encoders_bit_for_bit() -> None:
    base, tuned = pair()
    for alpha, end in ((0.0, base), (1.0, tuned)):
        between = interpolate(base, tuned, alpha).model.state_dict()
        expected = end.model.state_dict()
        assert list(between) == list(expected)
        assert all(torch.equal(between[name], tensor) for name, tensor in expected.items())


def test_in_between_every_weight_is_on_the_line() -> None:
    base, tuned = pair()
    start, end = base.model.state_dict(), tuned.model.state_dict()
    for alpha in (0.25, 0.7):
        found = interpolate(base, tuned, alpha)
        for name, tensor in found.model.state_dict().items():
            if name.endswith("num_batches_tracked"):
                assert int(tensor) == (0 if alpha < 0.5 else 100)
            else:
                line = (1 - alpha) * start[name].double() + alpha * end[name].double()
                assert torch.allclose(tensor.double(), line, rtol=0, atol=1e-6), name
    assert all(torch.equal(tensor, start[name]) for name, tensor in base.model.state_dict().items())
    assert found.provenance["interpolated"] == {"alpha": 0.7, "base": "resnet", "tuned": "tuned"}


def test_what_has_nothing_in_between_is_refused() -> None:
    base, tuned = pair("vit")
    with pytest.raises(EncoderUnsuitable, match="differ in their weights, so there is nothing between them"):
        interpolate(checkpoint_of("resnet"), tuned, 0.5)
    plain = checkpoint_of("vit")
    plain.model_cfg = {**plain.model_cfg, "quick_gelu": False}
    with pytest.raises(EncoderUnsuitable, match="differ in their activation"):
        interpolate(plain, tuned, 0.5)
    with pytest.raises(SettingError, match=r"alpha is 1.5; give a number from 0 \(the base\) to 1"):
        interpolate(base, tuned, 1.5)


def test_a_licence_that_forbids_is_kept() -> None:
    base, tuned = pair("vit")
    base.licence, tuned.licence = "apple-amlr", "mit"
    assert interpolate(base, tuned, 0.9).licence == "apple-amlr"
    base.licence = "apache-2.0"
    assert interpolate(base, tuned, 0.1).licence == "mit"


def scale_of(checkpoint: Checkpoint) -> float:
    return float(checkpoint.model.logit_scale)  # type: ignore[arg-type]


def test_a_sweep_takes_the_best_mean_over_the_data_sets() -> None:
    base, tuned = pair("vit")
    scale = {}
    for name, checkpoint in (("base", base), ("tuned", tuned)):
        scale[name] = scale_of(checkpoint)

    def place(checkpoint: Checkpoint) -> float:
        return (scale_of(checkpoint) - scale["base"]) / (scale["tuned"] - scale["base"])

    measures = {
        "mine": lambda checkpoint: {"recall": place(checkpoint), "other": 0.0},  # tuning gains
        "shifted": lambda checkpoint: {"recall": 1 - place(checkpoint) ** 2, "other": 1.0},  # and forgets
    }
    found = sweep(base, tuned, [1.0, 0.0, 0.5, 0.25, 0.75, 0.5], measures, metric="recall")
    assert [point.alpha for point in found.points] == [0.0, 0.25, 0.5, 0.75, 1.0]
    assert found.best.alpha == 0.5
    assert found.best.mean == pytest.approx(0.625, abs=1e-5)
    table = json.loads(json.dumps(found.table()))
    assert table["best_alpha"] == 0.5
    assert table["points"][1]["mine"]["recall"] == pytest.approx(0.25, abs=1e-5)
    assert sweep(base, tuned, [0.2, 0.4], measures, metric="other").best.alpha == 0.2  # nearer to the base
    with pytest.raises(SettingError, match="There is no figure 'recal' for mine; it has: other, recall"):
        sweep(base, tuned, [0.5], measures, metric="recal")


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundles")
    for name, checkpoint in zip(("base", "tuned"), pair("vit"), strict=True):
        write_bundle(checkpoint, folder / name)
    return folder


def run(*arguments: object) -> None:
    main([str(argument) for argument in arguments])


def test_the_command_writes_the_encoder_in_between(
    bundles: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        run(
            "encoder",
            "interpolate",
            bundles / "base",
            bundles / "tuned",
            "--alpha",
            0.25,
            "--out",
            tmp_path / "b",
            "--json",
        )
    assert not ended.value.code
    said = json.loads(capsys.readouterr().out)
    assert said["alpha"] == 0.25
    assert verify_bundle(tmp_path / "b").fingerprint == said["fingerprint"]
    assert verify_bundle(tmp_path / "b").name == "tuned at 0.25"


def test_the_command_sweeps_over_data_and_writes_the_table(
    bundles: Path, world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["encoder", "interpolate", bundles / "base", bundles / "tuned", "--out", tmp_path / "b", "--json"]
    with pytest.raises(SystemExit) as ended:
        run(*arguments, "--data", world, "--alpha", 0, "--alpha", 0.5, "--table", tmp_path / "table.json")
    assert not ended.value.code
    said = json.loads(capsys.readouterr().out)
    table = json.loads((tmp_path / "table.json").read_text())
    assert said["sweep"] == table
    assert [point["alpha"] for point in table["points"]] == [0.0, 0.5]
    assert said["alpha"] == table["best_alpha"]
    assert table["points"][0][str(world)]["num_images"] == 24


def test_several_points_without_data_are_refused(
    bundles: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        run(
            *("encoder", "interpolate", bundles / "base", bundles / "tuned"),
            *("--alpha", 0.1, "--alpha", 0.2, "--out", tmp_path / "b"),
        )
    assert ended.value.code == 78
    assert "give --data, or one --alpha" in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "b").exists()
