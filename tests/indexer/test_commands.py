from __future__ import annotations

import os
import signal
import threading

import pytest

from indexer.build import Shard
from indexer.build_commands import parse_near_duplicates, parse_shard
from indexer.interrupt import interruptible
from indexer.reading import _Room
from indexer.stages import StageTimes
from sightline.errors import QueryError


@pytest.mark.parametrize("text", ["2/2", "-1/2", "1", "a/b", "1/", "/2", "1/2/3", "²/3"])
def test_a_shard_is_a_number_of_a_number(text: str) -> None:
    assert parse_shard("3/4") == Shard(3, 4)
    with pytest.raises(QueryError, match="--shard takes I/N"):
        parse_shard(text)


@pytest.mark.parametrize("text", ["0", "1.5", "-0.3", "nan", "inf", "none", ""])
def test_near_duplicates_are_a_cosine_or_off(text: str) -> None:
    assert (parse_near_duplicates("off"), parse_near_duplicates("0.9"), parse_near_duplicates("1")) == (0.0, 0.9, 1.0)
    with pytest.raises(QueryError, match="--near-duplicates takes a cosine"):
        parse_near_duplicates(text)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_asks_for_a_stop_and_is_given_back_afterwards(number: signal.Signals, code: int) -> None:
    before = signal.getsignal(number)
    with interruptible() as interrupt:
        assert not interrupt.requested()
        os.kill(os.getpid(), number)
        assert interrupt.requested()
        assert interrupt.exit_code == code
        assert signal.getsignal(number) is before, "the second one ends the process"
    assert signal.getsignal(number) is before


def test_the_bounding_stage_is_the_one_that_is_busy_all_the_time() -> None:
    def times(**seconds: float) -> StageTimes:
        stages = dict.fromkeys(("read", "decode", "encode_images", "encode_texts", "write", "wait", "publish"), 0.0)
        return StageTimes(total=10.0, num_decode_threads=4, num_encoders=2, **{**stages, **seconds})

    assert times(decode=20.0, encode_images=15.0, encode_texts=4.0).bound_by == "encode"
    assert times(decode=38.0, encode_images=15.0).bound_by == "decode"
    assert times(read=9.5, decode=30.0, encode_images=15.0).bound_by == "read"
    assert times(write=9.9, decode=30.0, encode_images=15.0).bound_by == "write"


def test_bytes_wait_for_room_and_a_large_picture_goes_alone() -> None:
    room = _Room(100, threading.Event())
    room.take(60)
    passed = threading.Event()

    def take() -> None:
        room.take(500)
        passed.set()

    thread = threading.Thread(target=take)
    thread.start()
    assert not passed.wait(0.05)
    room.give(60)
    assert passed.wait(30)
    thread.join()
