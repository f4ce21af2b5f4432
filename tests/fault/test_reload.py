"""Reloading a real process, again and again, while clients compare every answer with what it should be."""

from __future__ import annotations

import itertools
import os
import sys
import threading
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.fakes import picture_bytes
from tests.fault.life import COLOUR_NAMES, add_generation, colour_of, living

pytestmark = pytest.mark.fault

MIB = 2**20


class Askers:
    """Clients that compare every answer with what the generation that it names holds."""

    def __init__(self, url: str, num_items: int) -> None:
        self._url, self._num_items = url, num_items
        self._end = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=[1000 * seed]) for seed in range(4)]
        self.problems: list[str] = []
        self.answers = {"gen-000001": 0, "gen-000002": 0}

    def __enter__(self) -> Askers:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        for thread in self._threads:
            thread.join(30)

    def _ask(self, seed: int) -> None:
        with httpx.Client(base_url=self._url, timeout=30, trust_env=False) as client:
            for number in itertools.count(seed):
                if self._end.is_set():
                    return
                try:
                    self._ask_once(client, number, COLOUR_NAMES[number % len(COLOUR_NAMES)])
                except Exception as error:
                    self.problems.append(repr(error))

    def _ask_once(self, client: httpx.Client, number: int, colour: str) -> None:
        if number % 3 == 0:
            answer = client.post("/v1/text-to-image", json={"text": f"{colour} {number}", "k": 5})
        elif number % 3 == 1:
            answer = client.post("/v1/image-to-text?k=5", content=picture_bytes(colour))
        else:
            answer = client.get(f"/v1/items/item-{number % self._num_items}")
        assert answer.status_code == 200, answer.text
        told = answer.json()
        found = told["results"] if "results" in told else [told["item"]]
        self.answers[told["generation"]] += 1
        for one in found:
            self._check(one, told["generation"])
        assert "item" in told or found[0]["metadata"]["colour"] == colour, f"{colour} found {found[0]}"

    @staticmethod
    def _check(one: dict[str, Any], generation: str) -> None:
        number = int(one["id"].removeprefix("item-"))
        colour = colour_of(generation, number)
        captions = one["captions"] if "captions" in one else [one["caption"]]
        told = (one["metadata"], captions, one["uri"])
        expected = ({"colour": colour, "number": number}, [f"a {colour} picture"], f"{generation}/{number}.png")
        assert told == expected, f"{generation}: {one}"


def test_two_hundred_reloads_under_load_mix_nothing(tmp_path: Path) -> None:
    """R33 and R34: every answer fits the generation it names, a damaged one is refused, memory is bounded."""
    path, num_items, num_reloads = tmp_path / "photos", 20_000, int(os.environ.get("RELOADS", "200"))
    for _ in range(3):
        add_generation(path, num_items)
    damaged = path / "gen-000003" / "img_emb" / "img_emb_0.npy"
    damaged.write_bytes(damaged.read_bytes()[:-100])
    (path / "CURRENT").write_text("gen-000001\n")
    sizes: list[int] = []
    seconds: list[float] = []
    with living(path, tmp_path / "home", "drain_delay_seconds=0") as process:
        with Askers(process.ready().url, num_items) as askers:
            for round_ in range(num_reloads):
                name = f"gen-{2 - round_ % 2:06d}"
                answer = process.reload(name)
                assert (answer.status_code, answer.json().get("now")) == (200, name), answer.text
                seconds.append(answer.json()["seconds"])
                sizes.append(process.resident_bytes())
                if round_ % 20 == 10:
                    refused = process.reload("gen-000003")
                    assert (refused.status_code, refused.json()["code"]) == (422, "file_changed")
                assert process.status("/readyz") == 200
        series = process.client.get(f"{process.url}/metrics").text.count("\nsightline_index_generation_info{")
        process.term()
        assert process.wait(30) == 0
    warm = max(sizes[:20])
    sys.stdout.write(
        f"\n{num_reloads} reloads of {num_items:,} items, {sorted(seconds)[len(seconds) // 2]:.2f} s in the middle and "
        f"{max(seconds):.2f} s at most; answers {askers.answers}, problems {len(askers.problems)}; resident "
        f"{warm / MIB:.0f} MiB within 20 reloads, {max(sizes) / MIB:.0f} at most, {sizes[-1] / MIB:.0f} at the end\n"
    )
    assert askers.problems == []
    assert min(askers.answers.values()) > 50
    assert series == 1
    assert max(sizes) - warm < 32 * MIB
