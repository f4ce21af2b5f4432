"""Live changes become a generation: the same items, the same bytes of vectors, and never half of it."""

from __future__ import annotations

import functools
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sightline.collection import Generation, GenerationWriter, current_name, open_collection, verify_collection
from sightline.collection.compaction import compact_collection, live_sequences, remove_compacted
from sightline.collection.live_log import LiveChange, LiveLog, open_live_log
from sightline.errors import FileChanged, LiveChangesMissing, StorageError
from tests.fakes import DIM, FINGERPRINT, build_fake_collection

COLOURS = ("red", "green", "blue", "yellow")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    build_fake_collection(tmp_path / "photos", COLOURS, captions_per_item=2)
    return tmp_path / "photos"


@pytest.fixture
def log(photos: Path) -> LiveLog:
    made = open_live_log(photos, writable=True)
    assert made is not None
    return made


def unit(seed: int, rows: int) -> Any:
    vectors = np.random.default_rng(seed).standard_normal((rows, DIM))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16)


def put(item_id: str, seed: int = 0, num_captions: int = 1) -> LiveChange:
    return LiveChange(
        item_id, "put", FINGERPRINT, "gen-000001", "2026-01-31", uri=f"live/{item_id}", sha256=f"{seed:064x}",
        captions=tuple(f"live {one}" for one in range(num_captions)), metadata={"seed": seed}, width_px=3, height_px=2,
        vector=unit(seed, 1)[0], caption_vectors=unit(seed + 1, num_captions),
        thumbnail=b"RIFF\0\0\0\0WEBP" + bytes([seed]),
    )  # fmt: skip


def delete(item_id: str) -> LiveChange:
    return LiveChange(item_id, "delete", FINGERPRINT, "gen-000001", "2026-01-31")


def contents(generation: Generation) -> dict[str, object]:
    images, texts = generation.image_vectors(), generation.caption_vectors()
    owners = generation.caption_items()
    found: dict[str, object] = {}
    for row in range(generation.num_items):
        item = generation.item(row)
        own = texts[owners == row]
        found[item.item_id] = (
            item.uri, item.captions, item.metadata, item.width_px, images[row].tobytes(), own.tobytes(),
            generation.thumbnail(row),
        )  # fmt: skip
    return found


def test_what_stays_is_copied_and_what_changed_is_changed(photos: Path, log: LiveLog) -> None:
    before = contents(open_collection(photos))
    log.append([put("new", 1, 2), put("001-green", 2, 0), delete("002-blue"), put("brief", 3), delete("brief")])
    done = compact_collection(photos, log)
    assert done is not None
    assert (done.before, done.now, done.sequence) == ("gen-000001", "gen-000002", 5)
    assert (done.num_items, done.num_captions, done.num_put, done.num_deleted) == (4, 6, 2, 2)
    generation = verify_collection(photos)
    assert (generation.generation, generation.manifest.live_sequence) == ("gen-000002", 5)
    after = contents(generation)
    assert list(after) == ["000-red", "003-yellow", "new", "001-green"]
    for item_id in ("000-red", "003-yellow"):
        assert after[item_id] == before[item_id]
    assert after["new"] == (
        "live/new", ("live 0", "live 1"), {"seed": 1}, 3, unit(1, 1).tobytes(), unit(2, 2).tobytes(),
        put("new", 1).thumbnail,
    )  # fmt: skip
    assert generation.manifest.counts.add_up()


def test_nothing_to_do(photos: Path, log: LiveLog) -> None:
    assert compact_collection(photos, log) is None
    log.append([put("new")])
    assert compact_collection(photos, log) is not None
    assert compact_collection(photos, log) is None
    assert current_name(photos) == "gen-000002"


def test_compacting_again_applies_what_came_later_once(photos: Path, log: LiveLog) -> None:
    log.append([put("one", 1), put("two", 2)])
    compact_collection(photos, log)
    log.append([put("one", 3), delete("000-red")])
    done = compact_collection(photos, log)
    assert done is not None and (done.before, done.num_put, done.num_deleted) == ("gen-000002", 1, 1)
    items = contents(open_collection(photos))
    assert sorted(items) == ["001-green", "002-blue", "003-yellow", "one", "two"]
    assert items["one"][2] == {"seed": 3}  # type: ignore[index]


def test_an_older_generation_and_the_whole_log_give_the_same(photos: Path, log: LiveLog) -> None:
    """Rolling back before a compaction, and compacting again from there, loses nothing."""
    log.append([put("one", 1), delete("000-red")])
    compact_collection(photos, log)
    log.append([put("two", 2)])
    compact_collection(photos, log)
    expected = contents(open_collection(photos))
    (photos / "CURRENT").write_text("gen-000001\n")
    done = compact_collection(photos, log)
    assert done is not None and done.now == "gen-000004"
    assert contents(open_collection(photos)) == expected


def test_damage_is_not_copied(photos: Path, log: LiveLog) -> None:
    log.append([put("one")])
    path = photos / "gen-000001" / "img_emb" / "img_emb_0.npy"
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")
    with pytest.raises(FileChanged):
        compact_collection(photos, log)
    assert current_name(photos) == "gen-000001"
    assert not list(photos.glob("*gen-000002*"))


def test_pruned_changes_are_missed(photos: Path, log: LiveLog) -> None:
    log.append([put("one"), put("two")])
    log.prune(1)
    with pytest.raises(LiveChangesMissing, match="lacks live changes"):
        compact_collection(photos, log)


def test_somebody_else_publishes_meanwhile(photos: Path, log: LiveLog) -> None:
    log.append([put("one")])
    with pytest.raises(StorageError, match="compact again"):
        compact_collection(photos, log, base="gen-000009")


def test_old_compactions_are_removed_and_builds_stay(photos: Path, log: LiveLog) -> None:
    for number in range(4):
        log.append([put("one", number)])
        compact_collection(photos, log)
    assert live_sequences(photos) == {
        "gen-000001": 0, "gen-000002": 1, "gen-000003": 2, "gen-000004": 3, "gen-000005": 4,
    }  # fmt: skip
    assert remove_compacted(photos, keep=0, protected=[]) == []
    assert remove_compacted(photos, keep=2, protected=["gen-000002"]) == ["gen-000003"]
    assert sorted(live_sequences(photos)) == ["gen-000001", "gen-000002", "gen-000004", "gen-000005"]


def test_as_a_program(photos: Path, log: LiveLog) -> None:
    log.append([put("one")])
    command = [sys.executable, "-m", "sightline.compact", str(photos)]
    done = subprocess.run([*command, "gen-000001"], capture_output=True, check=True, text=True)
    assert json.loads(done.stdout)["now"] == "gen-000002"
    nothing = subprocess.run([*command, "gen-000002"], capture_output=True, check=True, text=True)
    assert json.loads(nothing.stdout) is None
    refused = subprocess.run([*command, "gen-000001"], capture_output=True, text=True)
    assert (refused.returncode, json.loads(refused.stdout)["error"]["code"]) == (1, "storage")


def test_all_deleted(photos: Path, log: LiveLog) -> None:
    log.append([delete(f"{number:03d}-{colour}") for number, colour in enumerate(COLOURS)])
    compact_collection(photos, log)
    generation = verify_collection(photos)
    assert (generation.num_items, generation.num_captions) == (0, 0)


def test_several_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = functools.partial(GenerationWriter, rows_per_shard=3)
    monkeypatch.setattr("sightline.collection.compaction.GenerationWriter", small)
    monkeypatch.setattr("tests.fakes.GenerationWriter", small)
    path = tmp_path / "photos"
    before = contents(build_fake_collection(path, COLOURS * 2, captions_per_item=3))
    log = open_live_log(path, writable=True)
    assert log is not None
    log.append([delete("003-yellow"), put("new")])
    compact_collection(path, log)
    generation = verify_collection(path)
    assert generation.manifest.num_shards == 3
    after = contents(generation)
    assert {name: after[name] for name in after if name != "new"} == {
        name: before[name] for name in before if name != "003-yellow"
    }
    shutil.rmtree(path / "gen-000001")
