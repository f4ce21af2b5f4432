from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sightline.command.root import main
from training.watching.trace import TraceWriter


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    try:
        main(["evaluate", *arguments])
        code = 0
    except SystemExit as stop:
        code = int(stop.code or 0)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_everything_at_once(tiny_bundle: Path, world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "pairs.json").write_text(
        json.dumps([{"filename": "a.png", "caption": "a red star", "negative_caption": "a blue star"}])
    )
    page = tmp_path / "reports" / "report.html"
    code, out, err = run(
        capsys, "--encoder", str(tiny_bundle), "--data", str(world), "--typographic", "--base", str(tiny_bundle),
        "--pairs", str(tmp_path / "pairs.json"), "--report", str(page), "--bootstrap", "50", "--json",
    )  # fmt: skip
    assert code == 0, err
    figures = json.loads(out)
    assert 0 <= figures["image_to_text_map"] <= 1 and figures["num_images"] == 24
    low, high = figures["intervals"]["text_to_image_recall_at_10"]
    assert low <= figures["text_to_image_recall_at_10"] <= high
    assert set(figures["per_class"]) == {"colour", "shape"}
    assert figures["pairs_pairs_text_cosine"] <= 1 and "pairs_pairs" not in figures
    assert figures["neighbour_overlap_at_10"] == 1 and figures["num_typographic"] == figures["num_single"]
    assert "without --pairs-images only its texts are compared" in err
    assert figures["report"] == str(page) and "Matched and unmatched pairs" in page.read_text()
    assert "alignment-explorer" not in page.read_text()


def test_labelled_pictures_of_their_own(
    tiny_bundle: Path, world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(4):
        Image.new("RGB", (40, 40), (60 * number, 0, 0)).save(tmp_path / f"{number}.png")
        (tmp_path / f"{number}.json").write_text(json.dumps({"label": ["dog", "cat", "cow", None][number]}))
    (tmp_path / "classes.txt").write_text('{"classes": ["dog", "cat", "cow"]}')
    usual = ["--encoder", str(tiny_bundle), "--data", str(world), "--classes-data", str(tmp_path), "--json"]
    code, out, err = run(capsys, *usual, "--classes", str(tmp_path / "classes.txt"), "--typographic")
    assert code == 0, err
    figures = json.loads(out)
    assert figures["num_labelled"] == figures["num_typographic"] == 3 and figures["num_images"] == 24
    assert set(figures["per_class"]["class"]) == {"dog", "cat", "cow"}
    assert "without a known class or unreadable: 1." in " ".join(err.split())
    code, _, err = run(capsys, *usual)
    assert code == 2


def test_the_explorer_of_the_run_is_in_the_report(
    tiny_bundle: Path, world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run").mkdir()
    vectors = np.eye(4, dtype=np.float32)
    writer = TraceWriter(tmp_path / "run", ["a", "b", "c", "d"], [])
    writer.add(vectors, vectors[::-1], step=0, epoch=0, loss=None, recall_at_1=0.25)
    writer.add(vectors, vectors, step=9, epoch=1, loss=0.5, recall_at_1=1.0)
    page = tmp_path / "report.html"
    usual = ["--encoder", str(tiny_bundle), "--data", str(world), "--report", str(page)]
    code, _, err = run(capsys, *usual, "--trace", str(tmp_path / "run"))
    assert code == 0, err
    assert "alignment-explorer" in page.read_text()
    code, _, err = run(capsys, *usual, "--trace", str(tmp_path / "nowhere"))
    assert code == 2 and "give the folder BUNDLE.training of a run" in err


def test_the_text_for_people_has_intervals(tiny_bundle: Path, world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    usual = ["--encoder", str(tiny_bundle), "--data", str(world)]
    code, out, _ = run(capsys, *usual)
    line = next(line for line in out.splitlines() if line.startswith("image_to_text_recall_at_1 "))
    assert code == 0 and line.rstrip().endswith("]")
    code, out, _ = run(capsys, *usual, "--bootstrap", "0")
    assert code == 0 and "[" not in out


@pytest.mark.parametrize(
    ("option", "text", "sentence"),
    [
        ("--classes", '{"classes": ["dog", "cat"]}', "No picture has a known class under the metadata key 'label'"),
        ("--classes", "no json", "cannot be read as JSON"),
        ("--pairs", "{}", "holds no text pairs"),
    ],
)
def test_bad_input_is_one_sentence(
    tiny_bundle: Path,
    world: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    option: str,
    text: str,
    sentence: str,
) -> None:
    (tmp_path / "file.json").write_text(text)
    code, _, err = run(capsys, "--encoder", str(tiny_bundle), "--data", str(world), option, str(tmp_path / "file.json"))
    assert code == 2 and sentence in " ".join(err.split()) and "Traceback" not in err
