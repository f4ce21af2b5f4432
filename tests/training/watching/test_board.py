from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from sightline.errors import DependencyMissing
from training.watching.board import FOLDER_NAME, open_board


@pytest.fixture
def without_tensorboard(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)


def curves(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """What TensorBoard itself reads from a folder."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder))
    events.Reload()
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_tensorboard_reads_our_curves_also_after_a_resume(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    first = open_board("on", tmp_path)
    assert first is not None
    for step in (1, 2, 3):
        first.write({"step": step, "loss": float(step), "canary_recall": None, "gradient_norm_image": 0.5})
    first.close()
    again = open_board("auto", tmp_path, done=2)
    assert again is not None
    again.write({"step": 3, "loss": 9.0, "image_spread": float("nan")})
    again.close()
    found = curves(tmp_path / FOLDER_NAME)
    assert set(found) == {"loss/loss", "gradients/gradient_norm_image"}
    assert found["loss/loss"] == [(1, 1.0), (2, 2.0), (3, 9.0)]


def test_without_the_library_there_are_no_files_unless_they_are_required(
    tmp_path: Path, without_tensorboard: None
) -> None:
    assert open_board("auto", tmp_path) is None
    assert open_board("off", tmp_path) is None
    with pytest.raises(DependencyMissing, match=r"sightline\[tensorboard\]"):
        open_board("on", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_off_is_off(tmp_path: Path) -> None:
    assert open_board("off", tmp_path) is None
