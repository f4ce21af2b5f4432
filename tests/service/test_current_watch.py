"""What CURRENT comes to name is served, once, and a rollback is not undone."""

from __future__ import annotations

from pathlib import Path

import pytest

from service.current_watch import CurrentWatch
from tests.service.generations import MakeServed, make_served, photos, reloads, truncate

__all__ = ["make_served", "photos"]

WAIT_SECONDS = 10.0


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def look(watch: CurrentWatch, clock: Clock) -> None:
    """One look, and the end of what it began."""
    clock.now += 1.0
    watch.look()
    if watch._change is not None:
        watch._change.exception(WAIT_SECONDS)


def point(photos: Path, name: str) -> None:
    (photos / "CURRENT").write_text(f"{name}\n")


def test_a_published_generation_is_served_unasked(make_served: MakeServed, photos: Path) -> None:
    point(photos, "gen-000001")
    served, clock = make_served(), Clock()
    watch = CurrentWatch(served, 1.0, clock)
    look(watch, clock)
    assert served.snapshot.generation.generation == "gen-000001"
    point(photos, "gen-000002")
    look(watch, clock)
    assert served.snapshot.generation.generation == "gen-000002"
    served.rollback()
    look(watch, clock)
    assert served.snapshot.generation.generation == "gen-000001", "a rollback is not undone"


def test_a_bad_generation_is_tried_once(make_served: MakeServed, photos: Path) -> None:
    point(photos, "gen-000001")
    served, clock = make_served(), Clock()
    watch = CurrentWatch(served, 1.0, clock)
    good = (photos / "gen-000002" / "img_emb" / "img_emb_0.npy").read_bytes()
    truncate(0.5)(photos / "gen-000002")
    point(photos, "gen-000002")
    for _ in range(3):
        look(watch, clock)
    assert reloads(served, "refused") == 1
    (photos / "gen-000002" / "img_emb" / "img_emb_0.npy").write_bytes(good)
    point(photos, "gen-000001")
    look(watch, clock)
    point(photos, "gen-000002")
    look(watch, clock)
    assert served.snapshot.generation.generation == "gen-000002"


def test_watching_is_off_unless_asked_for(make_served: MakeServed, photos: Path) -> None:
    point(photos, "gen-000001")
    served, clock = make_served(), Clock()
    watch = CurrentWatch(served, 0.0, clock)
    point(photos, "gen-000002")
    look(watch, clock)
    assert served.snapshot.generation.generation == "gen-000001"


@pytest.mark.parametrize("name", ["CURRENT", "gen-000002/manifest.json"])
def test_a_current_that_cannot_be_read_changes_nothing(make_served: MakeServed, photos: Path, name: str) -> None:
    served, clock = make_served(), Clock()
    watch = CurrentWatch(served, 1.0, clock)
    (photos / name).unlink()
    look(watch, clock)
    assert served.snapshot.generation.generation == "gen-000001"
