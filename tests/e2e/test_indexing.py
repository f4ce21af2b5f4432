"""Building, interrupting and syncing with the real command, under a service that runs."""

from __future__ import annotations

import signal
import subprocess
import time
from pathlib import Path

import httpx
import pytest

from tests.e2e.running import command, serving
from tests.indexer.plain import digests
from tests.pictures import encoded, textured
from tests.program import program


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(12):
        (folder / f"{number:02d}.jpg").write_bytes(encoded(textured((120, 90), number), "JPEG"))
        (folder / f"{number:02d}.txt").write_text(f"picture number {number}")
    return folder


def test_a_terminated_build_says_how_to_go_on_and_does(tiny_bundle: Path, tmp_path: Path) -> None:
    folder, out = tmp_path / "many", tmp_path / "photos"
    folder.mkdir()
    picture = textured((400, 300))
    for number in range(300):
        picture.putpixel((0, 0), (number % 256, number // 256, 0))  # no two alike
        (folder / f"{number:03d}.png").write_bytes(encoded(picture, compress_level=0))
    arguments = ["index", "build", "--encoder", str(tiny_bundle), "--source", str(folder), "--out", str(out)]
    arguments += ["--near-duplicates", "off", "--batch-size", "4"]
    process = subprocess.Popen([program(), *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while not (out / "building" / "job.json").exists():
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 143
    assert "the same command goes on from there" in said
    assert not (out / "CURRENT").exists()
    refused = command(*arguments, "--thumbnail-px", "64")
    assert (refused.code, "--restart" in refused.err) == (2, True)
    finished = command(*arguments, "--json")
    assert finished.code == 0, finished.err
    assert "Going on with the unfinished build" in finished.err
    assert finished.json["counts"]["indexed"] == 300
    assert 0 < finished.json["resumed_inputs"] < 300
    assert finished.json["bound_by"] in {"read", "decode", "encode", "write"}
    assert {"read", "decode", "encode_images", "encode_texts", "write", "wait", "publish"} <= set(
        finished.json["seconds"]
    )


def test_shards_of_the_command_give_what_one_run_gives(tiny_bundle: Path, pictures: Path, tmp_path: Path) -> None:
    build = ["index", "build", "--encoder", str(tiny_bundle), "--source", str(pictures), "--out"]
    assert command(*build, tmp_path / "whole").code == 0
    early = command(*build, tmp_path / "parts", "--shard", "1/2")
    assert early.code == 0, early.err
    missing = command("index", "publish", "--out", tmp_path / "parts")
    assert (missing.code, "lacks" in missing.err) == (2, True)
    assert command(*build, tmp_path / "parts", "--shard", "0/2").code == 0
    published = command("index", "publish", "--out", tmp_path / "parts", "--json")
    assert published.code == 0, published.err
    parts, whole = (digests(tmp_path / name / "gen-000001") for name in ("parts", "whole"))
    for name in ("manifest.json", "manifest.sha256"):  # they say when each was begun
        del parts[name], whole[name]
    assert parts == whole


def test_a_served_collection_takes_a_sync_by_itself(tiny_bundle: Path, pictures: Path, tmp_path: Path) -> None:
    out = tmp_path / "photos"
    assert command("index", "build", "--encoder", tiny_bundle, "--source", pictures, "--out", out).code == 0
    with serving(out, "--set", "watch_collection_seconds=0.1") as url:
        nothing = command("index", "sync", "--collection", out, "--source", pictures, "--json")
        assert nothing.code == 0, nothing.err
        assert (nothing.json["published"], nothing.json["changes"]["unchanged"]) == (False, 12)
        (pictures / "00.jpg").rename(pictures / "50.jpg")
        (pictures / "01.jpg").unlink()
        (pictures / "60.jpg").write_bytes(encoded(textured((120, 90), 60), "JPEG"))
        synced = command("index", "sync", "--collection", out, "--source", pictures, "--json")
        assert synced.code == 0, synced.err
        changes = synced.json["changes"]
        assert (changes["added"], changes["deleted"], changes["renamed"], changes["unchanged"]) == (1, 1, 1, 10)
        deadline = time.monotonic() + 60
        while httpx.get(f"{url}/v1/collections").json()["collections"][0]["generation"] != "gen-000002":
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert httpx.get(f"{url}/v1/collections").json()["collections"][0]["num_items"] == 12
