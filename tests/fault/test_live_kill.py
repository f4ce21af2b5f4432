"""Killing a real service while it is written to: every acknowledged change is there afterwards, once and whole."""

from __future__ import annotations

import contextlib
import io
import json
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from sightline.collection import verify_collection
from sightline.collection.live_log import open_live_log

pytestmark = pytest.mark.fault

NUM_KILLS = int(os.environ.get("KILLS", "20"))
_SECONDS = 60.0
"""The longest that a service lives in these tests: it is killed after a number of changes, however slow it is."""


def picture(number: int) -> bytes:
    """A picture that no other number has, small so that the encoder is quick."""
    pixels = np.random.default_rng(number).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).resize((40, 40), Image.Resampling.NEAREST).save(buffer, "PNG")
    return buffer.getvalue()


@contextlib.contextmanager
def serving(collection: Path, log: Path, *settings: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """``sightline serve`` with live writes, killed at the end of the block."""
    options = [
        part
        for one in ("live_writes=true", "log_level=warning", "canary_interval_seconds=0", "encoder_workers=1",
                    "max_batch_texts=2", "max_batch_images=2", *settings)
        for part in ("--set", one)
    ]  # fmt: skip
    with log.open("a") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "sightline", "serve", "--collection", str(collection), "--port", "0", "--json",
             *options],
            stdout=subprocess.PIPE, stderr=errors, text=True,
            env={name: value for name, value in os.environ.items() if not name.startswith("SIGHTLINE_")},
        )  # fmt: skip
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, log.read_text()[-4000:]
        yield json.loads(line)["url"], process
    finally:
        process.kill()
        process.wait()


class Writer:
    """Puts and deletes the items of its own, one after the other, and remembers what was acknowledged.

    ``sure`` is what is known of each id: the number of its last picture, or None for deleted. ``open`` is the one
    change that was asked for and not answered: it may have happened or not.
    """

    def __init__(self, name: str, seed: int) -> None:
        self.name = name
        self.draw = random.Random(seed)
        self.number = 1000 * seed
        self.sure: dict[str, int | None] = {}
        self.open: tuple[str, int | None] | None = None
        self.num_acknowledged = 0
        self.problems: list[str] = []

    def run(self, url: str, end: threading.Event) -> None:
        with httpx.Client(base_url=url, timeout=30, trust_env=False) as client:
            while not end.is_set():
                item_id = f"{self.name}-{self.draw.randrange(12)}"
                try:
                    self._change(client, item_id)
                except httpx.TransportError:
                    return

    def _change(self, client: httpx.Client, item_id: str) -> None:
        if self.sure.get(item_id) is not None and self.draw.random() < 0.3:
            self.open = (item_id, None)
            answer = client.delete(f"/v1/items/{item_id}")
        else:
            self.number += 1
            self.open = (item_id, self.number)
            answer = client.put(
                f"/v1/items/{item_id}", params={"captions": f"number {self.number}"}, content=picture(self.number)
            )
        if answer.status_code in (200, 201):
            self.sure[item_id] = self.open[1]
            self.num_acknowledged += 1
        elif answer.status_code != 503:
            self.problems.append(f"{item_id}: {answer.status_code} {answer.text}")
        self.open = None

    def check(self, client: httpx.Client) -> None:
        """Compare what the service holds with what it acknowledged; what was open is settled by what it holds."""
        for item_id in {*self.sure, *([self.open[0]] if self.open else [])}:
            held = client.get(f"/v1/items/{item_id}")
            assert held.status_code in (200, 404), held.text
            captions = held.json()["item"]["captions"] if held.status_code == 200 else []
            number = int(captions[0].removeprefix("number ")) if captions else None
            allowed = {self.sure.get(item_id)}
            if self.open is not None and self.open[0] == item_id:
                allowed.add(self.open[1])
            assert number in allowed, (
                f"{item_id} holds {number}; acknowledged was {self.sure.get(item_id)}, {self.open}"
            )
            self.sure[item_id] = number
            if number is not None:
                results = client.post("/v1/image-to-image?k=1000", content=picture(number)).json()["results"]
                scores = {one["id"]: one["score"] for one in results}
                assert scores.get(item_id, 0.0) > 0.995, f"{item_id} is not found by its own picture: {scores}"
                assert client.get(f"/v1/items/{item_id}/thumbnail").status_code == 200
        self.open = None


class Reader:
    """Searches, and compares every answer with itself: an item is there once, with the caption of its picture."""

    def __init__(self) -> None:
        self.problems: list[str] = []
        self.num_answers = 0

    def run(self, url: str, end: threading.Event) -> None:
        with httpx.Client(base_url=url, timeout=30, trust_env=False) as client:
            while not end.is_set():
                try:
                    answer = client.post("/v1/text-to-image", json={"text": "number 7", "k": 1000})
                except httpx.TransportError:
                    return
                if answer.status_code != 200:
                    self.problems.append(answer.text)
                    continue
                self._check(answer.json()["results"])

    def _check(self, results: list[dict[str, Any]]) -> None:
        self.num_answers += 1
        ids = [one["id"] for one in results]
        if len(ids) != len(set(ids)):
            self.problems.append(f"an item is found twice: {sorted(ids)}")
        scores = [one["score"] for one in results]
        if scores != sorted(scores, reverse=True):
            self.problems.append("results are out of order")


@pytest.mark.timeout(3600)
def test_killed_while_writing_and_compacting(collection: Path, tmp_path: Path) -> None:
    """Two writers, a reader and a compaction now and then; kill -9 at a random instant, again and again."""
    import shutil

    photos = tmp_path / "photos"
    shutil.copytree(collection, photos)
    log, draw = tmp_path / "log", random.Random(7)
    writers = [Writer("a", 1), Writer("b", 2)]
    reader = Reader()
    runs = [*(writer.run for writer in writers), reader.run]
    num_in_compaction = 0
    for kill in range(NUM_KILLS):
        with serving(photos, log, "live_compact_changes=8") as (url, process):
            with httpx.Client(base_url=url, timeout=30, trust_env=False) as client:
                for writer in writers:
                    writer.check(client)
            end = threading.Event()
            threads = [threading.Thread(target=run, args=[url, end]) for run in runs]
            for thread in threads:
                thread.start()
            wanted = acknowledged(writers) + draw.randrange(40)
            until = time.monotonic() + _SECONDS
            while acknowledged(writers) < wanted and time.monotonic() < until:
                time.sleep(0.002)
            time.sleep(draw.random() * 0.05)
            process.kill()
            process.wait()
            num_in_compaction += bool(list(photos.glob(".gen-*.tmp")))
            end.set()
            for thread in threads:
                thread.join(30)
        verify_collection(photos)
        problems = [*reader.problems, *(problem for writer in writers for problem in writer.problems)]
        assert problems == [], f"kill {kill}: {problems[:3]}"
    with serving(photos, log) as (url, _), httpx.Client(base_url=url, timeout=60, trust_env=False) as client:
        for writer in writers:
            writer.check(client)
        before = held(client)
        compacted = client.post("/v1/admin/compact")
        assert compacted.status_code == 200, compacted.text
        assert held(client) == before
        for writer in writers:
            writer.check(client)
    last = open_live_log(photos)
    assert last is not None
    sys.stdout.write(
        f"\n{NUM_KILLS} kills, {sum(writer.num_acknowledged for writer in writers)} acknowledged changes, "
        f"{last.last_sequence()} written, {reader.num_answers} searches, {num_in_compaction} kills in a compaction, "
        f"{len(list(photos.glob('gen-*')))} generations at the end\n"
    )
    assert acknowledged(writers) > NUM_KILLS
    assert "Traceback" not in log.read_text()


def acknowledged(writers: list[Writer]) -> int:
    return sum(writer.num_acknowledged for writer in writers)


def held(client: httpx.Client) -> list[tuple[str, str | None]]:
    answer = client.post("/v1/text-to-image", json={"text": "anything", "k": 1000})
    return sorted((one["id"], one["caption"]) for one in answer.json()["results"])


def test_a_second_process_is_refused(collection: Path, tmp_path: Path) -> None:
    """In one sentence, with the exit code of a wrong set-up; what was killed holds no lock."""
    import shutil

    from tests.e2e.running import command

    photos = tmp_path / "photos"
    shutil.copytree(collection, photos)
    with serving(photos, tmp_path / "log"):
        second = command("serve", "--collection", photos, "--port", "0", "--set", "live_writes=true")
        assert second.code == 78
        assert "Another process writes the live changes" in second.err
        assert "Traceback" not in second.err
        refused = command("index", "compact", "--collection", photos)
        assert refused.code == 78
    again = command("index", "compact", "--collection", photos, "--json")
    assert (again.code, again.json["changed"]) == (0, False)
