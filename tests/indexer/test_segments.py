from __future__ import annotations

from pathlib import Path

import pytest

from indexer.encoding import EncodedBatch
from indexer.segments import SegmentStore
from sightline.sources import Rejected


def store(tmp_path: Path, *spans: tuple[int, int], end: int | None = None) -> SegmentStore:
    """Empty segments of chunks of 10; the one that ends at ``end`` ends the source."""
    made = SegmentStore(tmp_path / "segments", chunk_inputs=10, dim=4)
    for start, stop in spans:
        made.commit([EncodedBatch(start, stop, ends_source=stop == end)])
    return made


def test_what_is_missing_is_what_no_chain_of_segments_covers(tmp_path: Path) -> None:
    progress = store(tmp_path, (0, 4), (4, 10), (20, 23)).progress()
    assert progress.missing == [(1, 10), (2, 23)]
    assert progress.missing_chunks() == [1, 2, 3]
    assert progress.spans() == [(10, 20), (23, None)]
    assert (progress.num_done, progress.complete) == (13, False)


def test_the_end_of_the_source_ends_the_search(tmp_path: Path) -> None:
    progress = store(tmp_path, (0, 10), (10, 17), end=17).progress()
    assert (progress.complete, progress.spans(), progress.missing_chunks()) == (True, [], [])
    assert store(tmp_path / "full", (0, 10), (10, 10), end=10).progress().chunks.keys() == {0, 1}


def test_a_mark_beyond_the_end_says_only_that_there_is_no_more(tmp_path: Path) -> None:
    progress = store(tmp_path, (0, 10), (20, 20), end=20).progress()
    assert progress.spans() == [(10, 20)]
    assert progress.missing_chunks() == [1]


def test_overlapping_segments_of_two_workers_are_joined_up_where_they_fit(tmp_path: Path) -> None:
    made = store(tmp_path, (0, 3), (0, 5), (3, 7), (7, 10))
    chain = made.progress().chunks[0]
    assert [(one.start, one.stop) for one in chain] == [(0, 3), (3, 7), (7, 10)]
    assert made.end_of(0) == 10


def test_nothing_done_is_everything_missing(tmp_path: Path) -> None:
    progress = SegmentStore(tmp_path / "nowhere", 10, 4).progress()
    assert (progress.spans(), progress.missing_chunks(), progress.num_done) == ([(0, None)], [0], 0)


@pytest.mark.parametrize("uri", ["ü\ud800.png", 'quo"te.png', "line\nbreak.png"])
def test_names_of_any_kind_survive(tmp_path: Path, uri: str) -> None:
    from indexer.encoding import LeftOut

    made = SegmentStore(tmp_path, 10, 4)
    segment = made.commit([EncodedBatch(0, 1, left_out=(LeftOut(0, Rejected(uri, "failed", "image_corrupt", "cut")),))])
    assert [one.rejected.uri for one in segment.left_out()] == [uri]
