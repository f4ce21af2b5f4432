from __future__ import annotations

import pytest

from training.watching.collapse import GRACE_STEPS, Collapse, CollapseDetector
from training.watching.settings import WatchSettings


def figures(
    image: float = 0.8, text: float = 0.8, image_rank: float = 30, text_rank: float = 30, lead: float = 0.3
) -> dict[str, float]:
    return {
        "matched_cosine": 0.1 + lead,
        "unmatched_cosine": 0.1,
        "image_spread": image,
        "text_spread": text,
        "image_effective_rank": image_rank,
        "text_effective_rank": text_rank,
    }


def run(detector: CollapseDetector, steps: range, values: dict[str, float], num_rows: int = 64) -> Collapse | None:
    for step in steps:
        found = detector.see(step, values, num_rows=num_rows, logit_scale=20)
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
    assert run(detector, range(1, 501 + GRACE_STEPS), figures(image=0.04, image_rank=1.2, lead=0)) is None
    assert run(detector, range(501 + GRACE_STEPS, 1000), figures()) is None


def test_a_tower_that_never_leaves_the_cone_ends_the_run_within_fifty_steps_of_warm_up() -> None:
    detector = CollapseDetector(SETTINGS, warmup_steps=5)
    for step in range(1, 100):
        found = detector.see(step, figures(image=0.04, lead=0), num_rows=64)
        if found is not None:
            break
    assert found is not None
    assert step <= 5 + 50
    assert found.tower == "image"


def test_before_anything_is_learnt_only_a_fifth_of_the_limit_counts() -> None:
    detector = CollapseDetector(SETTINGS)
    assert run(detector, range(1, 30), figures(text=0.7, lead=0)) is None
    assert run(detector, range(30, 400), figures(text=0.06, lead=0)) is None  # a plateau that many runs come out of
    found = run(detector, range(400, 500), figures(text=0.04, lead=0))
    assert found == Collapse("text", "spread", 0.04, 0.05, since=400)


def test_what_was_learnt_once_counts_afterwards() -> None:
    detector = CollapseDetector(SETTINGS)
    run(detector, range(1, 30), figures())
    found = run(detector, range(30, 100), figures(text=0.2, lead=0))
    assert found == Collapse("text", "spread", 0.2, 0.25, since=30)


@pytest.mark.parametrize(("lead", "scale"), [(0.3, 2.0), (0.01, 1e4)])
def test_a_lead_that_is_small_in_logits_or_in_cosines_is_nothing_learnt(lead: float, scale: float) -> None:
    detector = CollapseDetector(SETTINGS)
    for step in range(1, 200):
        values = figures(lead=lead) if step < 30 else figures(text=0.2, lead=0)
        assert detector.see(step, values, num_rows=64, logit_scale=scale) is None


def test_a_dead_tower_has_no_time_to_wake_up() -> None:
    found = run(CollapseDetector(SETTINGS, warmup_steps=500), range(1, 50), figures(image=0.0, image_rank=1, lead=0))
    assert found is not None
    assert (found.tower, found.since) == ("image", 1)


def test_one_narrow_batch_does_not_end_a_run() -> None:
    detector = CollapseDetector(SETTINGS)
    for step in range(1, 400):
        values = figures(text=0.1) if step % 19 else figures()
        assert detector.see(step, values, num_rows=64, logit_scale=20) is None


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
            if detector.see(step, figures() if step < 50 else figures(text=0.1), num_rows=64, logit_scale=20):
                return step
        return None

    whole = stop(CollapseDetector(SETTINGS), range(1, 100))
    first, again = CollapseDetector(SETTINGS), CollapseDetector(SETTINGS)
    assert stop(first, range(1, cut)) is None
    again.load_state_dict(first.state_dict())
    assert whole is not None
    assert stop(again, range(cut, 100)) == whole
