"""The demo: on own pictures, and (``make test-slow``, minutes on two cores) its figures on the whole drawn world."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from tests.e2e.running import command, serving
from tests.pictures import COLOURS, flat


def test_the_demo_on_own_pictures(tiny_bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    for colour in COLOURS:
        (tmp_path / "pictures" / f"{colour}.png").write_bytes(flat(colour))
    own = ("demo", "--encoder", tiny_bundle, "--source", tmp_path / "pictures", "--workdir", tmp_path / "work")
    done = command(*own, "--no-serve", "--json")
    assert done.code == 0, done.err
    assert done.json["index"]["counts"]["indexed"] == len(COLOURS)
    assert f"$ sightline index build --encoder {tiny_bundle}" in done.err
    again = command(*own, "--no-serve", "--json")
    assert "index: done before" in again.err
    assert again.json == done.json


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_demo_reaches_its_figures_and_serves(tmp_path: Path) -> None:
    workdir = tmp_path / "demo"
    done = command("demo", "--workdir", workdir, "--no-serve", "--json")
    assert done.code == 0, done.err
    figures = done.json["evaluation"]
    assert figures["num_images"] == 1000
    assert figures["text_to_image_recall_at_1"] >= 0.75
    assert figures["text_to_image_recall_at_10"] >= 0.98
    assert done.json["seconds"]["train"] <= 180
    with serving(workdir / "collection") as url:
        found = httpx.post(f"{url}/v1/text-to-image", json={"text": "a red circle", "k": 5}).json()["results"]
        assert sum("red" in (result["caption"] or "") for result in found) >= 4
