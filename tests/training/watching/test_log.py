from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from sightline.errors import StorageError
from training.watching.log import Log, read_log


def test_each_line_is_there_when_write_returns(tmp_path: Path) -> None:
    with Log(tmp_path) as log:
        log.write({"step": 1, "loss": 2.5})
        assert read_log(tmp_path) == [{"step": 1, "loss": 2.5}]


def test_a_resumed_run_trains_the_later_steps_again(tmp_path: Path) -> None:
    with Log(tmp_path) as log:
        for step in range(1, 6):
            log.write({"step": step, "loss": float(step)})
    with Log(tmp_path, done=3) as log:
        log.write({"step": 4, "loss": 0.5})
    assert [(line["step"], line["loss"]) for line in read_log(tmp_path)] == [(1, 1), (2, 2), (3, 3), (4, 0.5)]


def test_a_new_run_begins_a_new_log(tmp_path: Path) -> None:
    with Log(tmp_path) as log:
        log.write({"step": 1})
    with Log(tmp_path):
        assert read_log(tmp_path) == []


def test_a_line_cut_off_by_a_power_cut_is_dropped(tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_text('{"step": 1}\n{"step": 2}\n{"ste')
    assert read_log(tmp_path) == [{"step": 1}, {"step": 2}]
    with Log(tmp_path, done=2) as log:
        log.write({"step": 3})
    assert [line["step"] for line in read_log(tmp_path)] == [1, 2, 3]


def test_what_is_not_a_number_is_null(tmp_path: Path) -> None:
    with Log(tmp_path) as log:
        log.write({"step": 1, "loss": math.nan, "gradient_norm": math.inf})
    text = (tmp_path / "log.jsonl").read_text()
    assert json.loads(text, parse_constant=pytest.fail) == {"step": 1, "loss": None, "gradient_norm": None}


def test_a_folder_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(StorageError):
        Log(tmp_path / "none")
