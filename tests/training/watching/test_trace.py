from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sightline.errors import SourceError
from training.watching.held_out import Vectors
from training.watching.trace import TRACE_NAME, VECTORS_NAME, Trace, TraceWriter, plane_of, read_trace

NUM, DIM = 12, 24
CAPTIONS = [f"caption {i}" for i in range(NUM)]


def unit(seed: int, num: int = NUM, dim: int = DIM) -> Vectors:
    vectors = np.random.default_rng(seed).normal(size=(num, dim)).astype(np.float32)
    unit: Vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return unit


def moving(step: int) -> tuple[Vectors, Vectors]:
    """Vectors that turn slowly from one arrangement to another."""
    share = step / 100
    images = (1 - share) * unit(0) + share * unit(1)
    texts = (1 - share) * unit(2) + share * unit(1)
    return (
        (images / np.linalg.norm(images, axis=1, keepdims=True)).astype(np.float32),
        (texts / np.linalg.norm(texts, axis=1, keepdims=True)).astype(np.float32),
    )


def add(writer: TraceWriter, step: int) -> None:
    images, texts = moving(step)
    writer.add(images, texts, step=step, epoch=step // 30, loss=None if step == 0 else 3 - step / 50, recall_at_1=0.5)


def written(folder: Path, steps: range) -> Trace:
    writer = TraceWriter(folder, CAPTIONS, [])
    for step in steps:
        add(writer, step)
    return read_trace(folder / TRACE_NAME)


def test_what_is_read_is_what_was_seen(tmp_path: Path) -> None:
    trace = written(tmp_path, range(0, 101, 10))
    assert trace.captions == CAPTIONS
    assert [moment.step for moment in trace.moments] == list(range(0, 101, 10))
    assert trace.moments[0].loss is None
    assert trace.moments[-1].loss == 1
    images, texts = moving(50)
    moment = trace.moments[5]
    assert np.abs(np.array(moment.similarity) - images @ texts.T).max() < 2e-3  # float16, three digits
    assert moment.modality_gap == pytest.approx(float(np.linalg.norm(images.mean(0) - texts.mean(0))), abs=2e-3)
    assert len(moment.images) == len(moment.texts) == NUM


def test_all_moments_lie_in_the_plane_of_the_last(tmp_path: Path) -> None:
    trace = written(tmp_path, range(0, 101, 10))
    images, texts = moving(100)
    plane = plane_of(images, texts)
    for moment in trace.moments:
        expected = moving(moment.step)[0] @ plane
        turn, _, back = np.linalg.svd(np.array(trace.moments[-1].images).T @ (images @ plane))
        assert np.abs(np.array(moment.images) @ (turn @ back) - expected).max() < 5e-3


def test_nothing_jumps_when_the_vectors_move_slowly(tmp_path: Path) -> None:
    trace = written(tmp_path, range(0, 101, 2))
    paths = np.array([moment.images for moment in trace.moments])  # [F, N, 2]
    moves = np.linalg.norm(np.diff(paths, axis=0), axis=2)
    assert moves.max() < 0.1


def test_a_reloaded_file_does_not_turn_over(tmp_path: Path) -> None:
    before = written(tmp_path, range(0, 91, 10))
    after = written(tmp_path, range(0, 101, 10))
    old, new = np.array(before.moments[-1].images), np.array(after.moments[-2].images)
    assert np.linalg.norm(old - new) < np.linalg.norm(old + new)


def test_the_plane_is_orthonormal_and_spans_what_differs_most() -> None:
    images = np.zeros((4, 5), np.float32)
    images[:, 3] = [1, -1, 1, -1]
    images[:, 1] = [0.5, 0.5, -0.5, -0.5]
    plane = plane_of(images, images)
    assert plane.T @ plane == pytest.approx(np.eye(2))
    assert np.abs(plane[[3, 1], [0, 1]]) == pytest.approx(np.ones(2))


def test_turning_onto_another_plane_stays_within_the_plane() -> None:
    images, texts = unit(3), unit(4)
    free, other = plane_of(images, texts), plane_of(unit(5), unit(6))
    turned = plane_of(images, texts, like=other)
    assert turned.T @ turned == pytest.approx(np.eye(2))
    assert turned @ turned.T == pytest.approx(free @ free.T)  # the same plane
    assert np.linalg.norm(turned - other) <= np.linalg.norm(free - other) + 1e-9


def test_two_pairs_are_enough() -> None:
    plane = plane_of(unit(0, num=2), unit(1, num=2))
    assert np.isfinite(plane).all()
    assert np.isfinite(plane_of(unit(0, num=2), unit(1, num=2), like=plane)).all()


def test_a_resumed_run_writes_the_same_trace(tmp_path: Path) -> None:
    (tmp_path / "whole").mkdir()
    (tmp_path / "cut").mkdir()
    whole = written(tmp_path / "whole", range(0, 101, 10))
    written(tmp_path / "cut", range(0, 71, 10))
    again = TraceWriter(tmp_path / "cut", CAPTIONS, [], done=45)  # moments 50 to 70 are trained again
    for step in range(50, 101, 10):
        add(again, step)
    resumed = read_trace(tmp_path / "cut" / TRACE_NAME)
    assert [moment.similarity for moment in resumed.moments] == [moment.similarity for moment in whole.moments]
    # The plane is the same; how it is turned depends on where it was turned from.
    ours, theirs = (np.array([m.images for m in trace.moments]).reshape(-1, 2) for trace in (resumed, whole))
    left, _, right = np.linalg.svd(ours.T @ theirs)
    assert np.abs(ours @ left @ right - theirs).max() < 5e-3


def test_other_pairs_or_missing_vectors_begin_a_new_trace(tmp_path: Path) -> None:
    written(tmp_path, range(0, 21, 10))
    other = TraceWriter(tmp_path, ["other"] * NUM, [], done=20)
    add(other, 30)
    assert [moment.step for moment in read_trace(tmp_path / TRACE_NAME).moments] == [30]
    (tmp_path / VECTORS_NAME).unlink()
    again = TraceWriter(tmp_path, ["other"] * NUM, [], done=30)
    add(again, 40)
    assert [moment.step for moment in read_trace(tmp_path / TRACE_NAME).moments] == [40]


def test_the_vectors_go_when_the_run_is_over(tmp_path: Path) -> None:
    writer = TraceWriter(tmp_path, CAPTIONS, [])
    add(writer, 0)
    assert (tmp_path / VECTORS_NAME).is_file()
    writer.finish()
    assert [path.name for path in tmp_path.iterdir()] == [TRACE_NAME]


@pytest.mark.parametrize("text", ["", "nonsense", '{"captions": []}\n{"step": 1}\n', '{"version": 1}'])
def test_a_damaged_trace_is_said(tmp_path: Path, text: str) -> None:
    (tmp_path / TRACE_NAME).write_text(text)
    with pytest.raises(SourceError, match="not a trace"):
        read_trace(tmp_path / TRACE_NAME)


def test_a_trace_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no readable trace"):
        read_trace(tmp_path / "none")
