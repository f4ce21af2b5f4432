"""What the commands see of live changes that no generation contains yet: the same as the service."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sightline.collection.live_log import LiveChange, LiveLog, open_live_log
from sightline.command import collection_findings
from sightline.command.root import main
from tests.fakes import FINGERPRINT, FakeEncoder, build_fake_collection


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    build_fake_collection(tmp_path / "photos", ("red", "green", "blue"))
    monkeypatch.setattr("sightline.encoder.load_encoder", lambda spec, **options: FakeEncoder())
    return tmp_path / "photos"


@pytest.fixture
def log(photos: Path) -> LiveLog:
    """Red is gone, green has become magenta, and there is a yellow one."""
    log = open_live_log(photos, writable=True)
    assert log is not None
    log.append(
        [LiveChange("000-red", "delete", FINGERPRINT, "gen-000001", ""), put("001-green", "magenta"),
         put("new", "yellow")]
    )  # fmt: skip
    return log


def put(item_id: str, colour: str) -> LiveChange:
    vectors = FakeEncoder().encode_texts([colour]).astype(np.float16)
    return LiveChange(
        item_id, "put", FINGERPRINT, "gen-000001", "", uri=f"{colour}.png", captions=(f"all {colour}",),
        metadata={"colour": colour}, vector=vectors[0], caption_vectors=vectors, thumbnail=b"RIFF....WEBP",
    )  # fmt: skip


def run(capsys: pytest.CaptureFixture[str], code: int, *arguments: object) -> Any:
    with pytest.raises(SystemExit) as ended:
        main([*map(str, arguments), "--json"])
    assert (ended.value.code or 0) == code
    return json.loads(capsys.readouterr().out)


def test_search_finds_what_was_put_and_nothing_that_was_taken_out(
    capsys: pytest.CaptureFixture[str], photos: Path, log: LiveLog
) -> None:
    found = run(capsys, 0, "search", "--collection", photos, "yellow")["results"]
    assert (found[0]["id"], found[0]["caption"], found[0]["metadata"]) == ("new", "all yellow", {"colour": "yellow"})
    assert found[0]["score"] == pytest.approx(1, abs=1e-3)
    assert sorted(one["id"] for one in found) == ["001-green", "002-blue", "new"]
    captions = run(capsys, 0, "search", "--collection", photos, "magenta", "--captions")["results"]
    assert (captions[0]["caption"], captions[0]["id"]) == ("all magenta", "001-green")
    assert {one["caption"] for one in captions} == {"all magenta", "all yellow", "a blue picture"}


def test_verify_and_the_doctor_prove_the_log_too(
    capsys: pytest.CaptureFixture[str], photos: Path, log: LiveLog
) -> None:
    assert run(capsys, 0, "index", "verify", photos)["num_live_changes"] == 3
    (found,) = collection_findings.collection(photos, "fake:colours")[3:-1]
    assert (found.about, found.level, found.facts) == ("live changes", "ok", {"num_changes": 3})
    with sqlite3.connect(photos / "live.db") as file:
        file.execute("UPDATE changes SET thumbnail = x'00' WHERE item_id = 'new'")
    assert run(capsys, 5, "index", "verify", photos)["error"]["code"] == "live_log_damaged"
    assert run(capsys, 0, "index", "verify", "--no-live", photos)["verified"] is True
    (found,) = collection_findings.collection(photos, "fake:colours")[3:-1]
    assert (found.about, found.level, found.exit_code) == ("live changes", "wrong", 5)


def test_verify_misses_changes_that_were_pruned_too_early(
    capsys: pytest.CaptureFixture[str], photos: Path, log: LiveLog
) -> None:
    log.prune(2)
    assert run(capsys, 5, "index", "verify", photos)["error"]["code"] == "live_changes_missing"
