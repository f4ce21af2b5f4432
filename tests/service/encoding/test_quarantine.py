"""Content that the encoder failed on stays out for a while, unless it was the encoder's fault."""

from __future__ import annotations

from service.encoding.quarantine import Quarantine
from service.metrics import Metrics


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_failure_is_remembered_for_its_time() -> None:
    clock, metrics = Clock(), Metrics("0")
    quarantine = Quarantine(300, metrics, clock)
    quarantine.note_failure(b"bad")
    clock.now = 299.0
    refusal = quarantine.refusal(b"bad")
    assert refusal is not None
    assert (refusal.code, refusal.details["retry_in_seconds"]) == ("quarantined", 1)
    assert quarantine.refusal(b"good") is None
    assert metrics.registry.get_sample_value("sightline_quarantined_inputs") == 1
    clock.now = 300.0
    assert quarantine.refusal(b"bad") is None
    assert metrics.registry.get_sample_value("sightline_quarantined_inputs") == 0


def test_a_broken_encoder_quarantines_nothing() -> None:
    quarantine = Quarantine(300, Metrics("0"))
    contents = [bytes([n]) for n in range(50)]
    for content in contents:
        quarantine.note_failure(content)
    assert all(quarantine.refusal(content) is None for content in contents)
    quarantine.note_success(b"good")
    quarantine.note_failure(b"bad")
    assert quarantine.refusal(b"bad") is not None


def test_failures_among_successes_are_the_contents_fault() -> None:
    quarantine = Quarantine(300, Metrics("0"))
    contents = [bytes([n]) for n in range(50)]
    for content in contents:
        quarantine.note_failure(content)
        quarantine.note_success(b"good")
    assert all(quarantine.refusal(content) is not None for content in contents)


def test_the_number_of_entries_is_bounded() -> None:
    metrics = Metrics("0")
    quarantine = Quarantine(300, metrics)
    for number in range(10_010):
        quarantine.note_failure(number.to_bytes(4, "big"))
        quarantine.note_success(b"good")
    assert metrics.registry.get_sample_value("sightline_quarantined_inputs") == 10_000
    assert quarantine.refusal((0).to_bytes(4, "big")) is None


def test_zero_seconds_keep_nothing() -> None:
    quarantine = Quarantine(0, Metrics("0"))
    quarantine.note_failure(b"bad")
    assert quarantine.refusal(b"bad") is None


def test_content_over_which_the_thread_died_twice_is_taken_for_the_cause() -> None:
    quarantine = Quarantine(300, Metrics("0"))
    for content in (b"killer", b"bystander", b"another"):
        quarantine.note_death(content)
        assert quarantine.refusal(content) is None
    quarantine.note_success(b"bystander")
    quarantine.note_death(b"killer")
    quarantine.note_death(b"bystander")
    assert quarantine.refusal(b"killer") is not None
    assert quarantine.refusal(b"bystander") is None
