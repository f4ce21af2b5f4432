"""The demo's figures, on the whole drawn world: about five minutes on two cores (``make test-slow``)."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from tests.e2e.running import command, serving


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
