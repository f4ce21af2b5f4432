from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from training.watching.explorer import EXPLORER_NAME, explorer_html, explorer_page, write_explorer
from training.watching.held_out import Vectors
from training.watching.trace import Trace, TraceWriter

NUM = 6


def unit(seed: int) -> Vectors:
    vectors = np.random.default_rng(seed).normal(size=(NUM, 8)).astype(np.float32)
    unit: Vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return unit


@pytest.fixture
def trace(tmp_path: Path) -> Trace:
    captions = ["a plain caption", "quotes \" and ' and &", "</script><script>alert(1)</script>", "ünïcödé", "e", "f"]
    writer = TraceWriter(tmp_path, captions, ["QUJD"] * NUM)
    writer.add(unit(0), unit(1), step=0, epoch=0, loss=None, recall_at_1=1 / NUM)
    writer.add(unit(0), unit(0), step=40, epoch=2, loss=0.5, recall_at_1=1.0)
    return writer.trace()


def data_of(html: str) -> dict[str, Any]:
    (text,) = re.findall(r'<script type="application/json" class="trace">(.*?)</script>', html, re.DOTALL)
    found: dict[str, Any] = json.loads(text)
    return found


def test_the_data_are_those_of_the_trace(trace: Trace) -> None:
    data = data_of(explorer_html(trace))
    assert data["captions"] == trace.captions
    assert data["thumbnails"] == trace.thumbnails
    first, last = data["moments"]
    assert (first["step"], first["loss"], last["step"], last["loss"], last["recall"]) == (0, None, 40, 0.5, 1.0)
    assert last["images"] == [value for position in trace.moments[1].images for value in position]
    assert last["similarity"] == [round(1000 * value) for row in trace.moments[1].similarity for value in row]


def test_nothing_is_fetched_from_anywhere(trace: Trace) -> None:
    page = explorer_page(trace)
    addresses = set(re.findall(r"(?:https?:)?//[a-z0-9.]+[^\s\"']*", page))
    assert addresses <= {"http://www.w3.org/2000/svg"}  # a name, never fetched
    assert not re.search(
        r"<link|<img|<iframe|@import|url\(|fetch\(|XMLHttpRequest|import\(|<[^>]*\b(?:src|href)=", page
    )


def test_a_caption_cannot_end_the_script(trace: Trace) -> None:
    html = explorer_html(trace)
    assert html.count("<script") == html.count("</script>") == 2
    assert "alert(1)</script>" not in html


def test_a_page_is_a_whole_document_with_an_escaped_title(trace: Trace) -> None:
    page = explorer_page(trace, title="a <b> & c")
    assert page.startswith("<!doctype html>")
    assert "<title>a &lt;b&gt; &amp; c</title>" in page
    assert page.count("<section") == page.count("</section>") == 1


def test_an_empty_trace_says_so() -> None:
    empty = Trace(captions=["a"], thumbnails=[], moments=[])
    assert "no moment yet" in explorer_html(empty)


def test_the_file_lies_beside_the_trace(trace: Trace, tmp_path: Path) -> None:
    assert write_explorer(tmp_path, trace).name == EXPLORER_NAME
    assert data_of((tmp_path / EXPLORER_NAME).read_text())["captions"] == trace.captions


def test_a_browser_runs_it(trace: Trace, tmp_path: Path) -> None:
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no Chromium is installed")
    path = write_explorer(tmp_path, trace)
    done = subprocess.run(
        [browser, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom", path.as_uri()],
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert "Step 40, epoch 2: 6 of 6 pictures are nearest to their own caption" in done.stdout
    assert done.stdout.count('<g class="pair') == NUM
    assert "<option" in done.stdout
