from __future__ import annotations

import pytest

from training.watching.collapse import GRACE_STEPS, Collapse, CollapseDetector
from training.watching.settings import WatchSettings


def figures(image: float = 0.8, text: float = 0.8, image_rank: float = 30, text_rank: float = 30) -> dict[str, float]:
    return {
        "image_spread": image,
        "text_spread": text,
        "image_effective_rank": image_rank,
        "text_effective_rank": text_rank,
    }


def run(detector: CollapseDetector, steps: range, values: dict[str, float], num_rows: int = 64) -> Collapse | None:
    for step in steps:
        found = detector.see(step, values, num_rows=num_rows)
        if found is not None:
            return found
    return None


SETTINGS = WatchSettings(patience_steps=20)


def test_a_healthy_run_is_left_alone() -> None:
    assert run(CollapseDetector(SETTINGS), range(1, 1000), figures()) is None


def test_a_tower_that_was_healthy_and_is_not_any_more_ends_the_run() -> None:
    detector = CollapseDetector(SETTINGS, warmup_steps=10_000)
    assert run(detector, range(1, 101), figures()) is None
    assert run(detector, range(101, 200), figures(text=0.1)) == Collapse("text", "spread", 0.1, 0.25, since=101)


def test_a_fresh_tower_may_be_a_narrow_cone_while_the_rate_warms_up() -> None:
    detector = CollapseDetector(SETTINGS, warmup_steps=500)
    assert run(detector, range(1, 501 + GRACE_STEPS), figures(image=0.05, image_rank=1.2)) is None
    assert run(detector, range(501 + GRACE_STEPS, 1000), figures()) is None


def test_a_tower_that_never_leaves_the_cone_ends_the_run_within_fifty_steps_of_warm_up() -> None:
    detector = CollapseDetector(SETTINGS, warmup_steps=5)
    for step in range(1, 100):
        found = detector.see(step, figures(image=0.05), num_rows=64)
        if found is not None:
            break
    assert found is not None
    assert step <= 5 + 50
    assert found.tower == "image"


def test_one_narrow_batch_does_not_end_a_run() -> None:
    detector = CollapseDetector(SETTINGS)
    for step in range(1, 400):
        values = figures(text=0.1) if step % 19 else figures()
        assert detector.see(step, values, num_rows=64) is None


def test_collapse_to_a_line_is_seen_by_rank_alone() -> None:
    detector = CollapseDetector(SETTINGS)
    run(detector, range(1, 50), figures())
    found = run(detector, range(50, 200), figures(image_rank=1.3))
    assert found is not None
    assert (found.tower, found.kind, found.value) == ("image", "effective_rank", 1.3)
    assert "few directions" in found.sentence()


def test_figures_may_come_every_few_steps() -> None:
    detector = CollapseDetector(SETTINGS)
    run(detector, range(5, 105, 5), figures())
    found = run(detector, range(105, 205, 5), figures(text=0.0))
    assert found is not None
    assert found.since == 105


def test_a_handful_of_pairs_says_nothing() -> None:
    detector = CollapseDetector(SETTINGS)
    assert run(detector, range(1, 500), figures(0.0, 0.0, 1.0, 1.0), num_rows=4) is None


def test_zero_switches_a_rule_off() -> None:
    detector = CollapseDetector(WatchSettings(min_spread=0, min_effective_rank=0))
    assert run(detector, range(1, 500), figures(0.0, 0.0, 1.0, 1.0)) is None


@pytest.mark.parametrize("cut", [55, 60, 65])
def test_a_resumed_run_stops_at_the_same_step(cut: int) -> None:
    def stop(detector: CollapseDetector, steps: range) -> int | None:
        for step in steps:
            if detector.see(step, figures() if step < 50 else figures(text=0.1), num_rows=64):
                return step
        return None

    whole = stop(CollapseDetector(SETTINGS), range(1, 100))
    first, again = CollapseDetector(SETTINGS), CollapseDetector(SETTINGS)
    assert stop(first, range(1, cut)) is None
    again.load_state_dict(first.state_dict())
    assert whole is not None
    assert stop(again, range(cut, 100)) == whole
