from __future__ import annotations

import json
from pathlib import Path

import pytest

from sightline.command.root import main
from tests.training.conftest import TINY_RECIPE


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    try:
        main(list(arguments))
        code = 0
    except SystemExit as stop:
        code = int(stop.code or 0)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_draw_train_evaluate(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "tiny.toml").write_text(TINY_RECIPE)
    world, bundle = str(tmp_path / "world"), str(tmp_path / "bundle")
    code, out, _ = run(capsys, "world", "draw", "--out", world, "--num-train", "20", "--num-held-out", "0", "--json")
    assert code == 0 and json.loads(out)["shards"] == ["train-00000.tar"]
    code, out, err = run(capsys, "train", str(tmp_path / "tiny.toml"), "--data", world, "--out", bundle, "--json")
    trained = json.loads(out)
    assert code == 0 and trained["num_steps"] == 8 and "Training tiny" in err
    (stage,) = trained["stages"]
    assert stage["name"] == "all" and stage["num_frozen"] == 0
    assert f"Stage all: 8 steps train {stage['num_trained']:,} parameters (image, text" in err
    assert "step 8 of 8: loss" in err and "pairs/s" in err
    code, out, _ = run(capsys, "evaluate", "--encoder", bundle, "--data", world, "--split", "train", "--json")
    figures = json.loads(out)
    assert code == 0 and figures["fingerprint"] == trained["fingerprint"]
    assert 0 <= figures["text_to_image_recall_at_10"] <= 1
    code, out, _ = run(capsys, "evaluate", "--encoder", bundle, "--data", f"{world}/train-00000.tar")
    assert code == 0 and "text_to_image_recall_at_1 " in out


def test_bad_input_is_one_sentence_and_exit_code_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = tmp_path / "bad.toml"
    recipe.write_text(TINY_RECIPE.replace("seed", "sede"))
    code, _, err = run(capsys, "train", str(recipe), "--data", "nowhere", "--out", str(tmp_path / "b"))
    assert code == 2 and "did you mean 'seed'?" in err and "Traceback" not in err
    code, _, err = run(capsys, "train", "drawn-wrold", "--data", "nowhere", "--out", str(tmp_path / "b"))
    assert code == 2 and "drawn-world" in err


@pytest.mark.parametrize(("local_rank", "held_back"), [("0", []), ("1", [10.0])])
def test_the_first_process_of_a_machine_says_an_error_first(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    local_rank: str,
    held_back: list[float],
) -> None:
    slept: list[float] = []
    monkeypatch.setattr("training.commands.time.sleep", slept.append)
    monkeypatch.setenv("LOCAL_RANK", local_rank)
    code, _, err = run(capsys, "train", "drawn-wrold", "--data", "nowhere", "--out", str(tmp_path / "b"))
    assert code == 2 and "drawn-world" in err
    assert slept == held_back
