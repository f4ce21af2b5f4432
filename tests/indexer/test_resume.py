from __future__ import annotations

import json
import multiprocessing
from pathlib import Path
from typing import Any

import pytest

from indexer.build import AlreadyPublished, BuildInterrupted, Shard, encode_shard, publish_collection
from indexer.indexing import IndexOptions
from indexer.job import Building, building_locked
from sightline.collection import open_collection, verify_collection
from sightline.errors import CollectionCorrupt, EncodingFailed, InputError, SourceError, StorageError
from sightline.sources import open_source
from tests.indexer.plain import CREATED, PlainEncoder, build_plain, digests, draw_folder, plain_options


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty pictures; not to be changed."""
    return draw_folder(tmp_path_factory.mktemp("source") / "pictures")


@pytest.fixture(scope="module")
def expected(source: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The bytes of an uninterrupted run."""
    out = tmp_path_factory.mktemp("expected") / "out"
    build_plain(source, out)
    return digests(out)


class Stop:
    """Asks for a stop after so many batches."""

    def __init__(self, batches: int) -> None:
        self.left = batches

    def __call__(self) -> bool:
        self.left -= 1
        return self.left < 0


def fail_at(number: int) -> Any:
    calls = iter(range(number))

    def before(modality: str, batch: Any) -> None:
        if next(calls, None) is None:
            raise EncodingFailed("broken")

    return before


@pytest.mark.parametrize("batches", [0, 1, 4, 9])
def test_an_interrupted_build_goes_on_and_gives_the_same_bytes(
    source: Path, expected: dict[str, str], tmp_path: Path, batches: int
) -> None:
    out = tmp_path / "out"
    with pytest.raises(BuildInterrupted) as stopped:
        build_plain(source, out, stopping=Stop(batches))
    assert not (out / "CURRENT").exists()
    done: list[int] = []
    encoder = PlainEncoder()
    report = build_plain(source, out, encoder, advance=done.append, created="2030-01-01T00:00:00+00:00")
    assert report.num_resumed == stopped.value.num_done == done[0] > 0
    assert sum(done) == 40
    assert encoder.num_pictures < 32
    assert digests(out) == expected


@pytest.mark.parametrize("batches", range(0, 22, 3))
def test_an_encoder_that_fails_loses_no_finished_batch(
    source: Path, expected: dict[str, str], tmp_path: Path, batches: int
) -> None:
    with pytest.raises(EncodingFailed):
        build_plain(source, tmp_path / "out", PlainEncoder(fail_at(batches)))
    build_plain(source, tmp_path / "out")
    assert digests(tmp_path / "out") == expected


def test_segments_after_every_batch_change_nothing(source: Path, expected: dict[str, str], tmp_path: Path) -> None:
    build_plain(source, tmp_path / "out", segment_seconds=0.0)
    assert digests(tmp_path / "out") == expected


def test_the_number_of_threads_changes_nothing(source: Path, expected: dict[str, str], tmp_path: Path) -> None:
    build_plain(source, tmp_path / "out", num_decode_threads=1, num_encoders=3)
    assert digests(tmp_path / "out") == expected


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_shards_give_the_bytes_of_a_local_run(
    source: Path, expected: dict[str, str], tmp_path: Path, count: int
) -> None:
    out = tmp_path / "out"
    for index in reversed(range(count)):
        if index:
            with pytest.raises(SourceError, match=r"no unfinished build|lacks"):
                publish_collection(out, 1.0, IndexOptions())
        opened = open_source(str(source), listing=out / "building" / "listing.db")
        encode_shard(
            PlainEncoder(), "plain", opened, "pictures", out, plain_options(), Shard(index, count),  # type: ignore[arg-type]
            clock=lambda: CREATED,
        )  # fmt: skip
    manifest, failure = publish_collection(out, 1.0, IndexOptions())
    assert (manifest.num_items, failure) == (open_collection(out).num_items, None)
    assert digests(out) == expected


def test_a_shard_after_the_publication_does_nothing(tmp_path: Path) -> None:
    source, out = draw_folder(tmp_path / "pictures", 20), tmp_path / "out"

    def encode(index: int) -> int:
        encoder = PlainEncoder()
        opened = open_source(str(source), listing=out / "building" / "listing.db")
        encode_shard(encoder, "plain", opened, "pictures", out, plain_options(), Shard(index, 2))  # type: ignore[arg-type]
        return encoder.num_pictures

    assert encode(0) and encode(1)
    publish_collection(out, 1.0, IndexOptions())
    before = digests(out)
    for late in (0, 1):
        with pytest.raises(AlreadyPublished, match="gen-000001"):
            encode(late)
        assert digests(out) == before and not (out / "building").exists()
    vectors = out / "gen-000001" / "img_emb" / "img_emb_0.npy"
    vectors.write_bytes(vectors.read_bytes()[:-1] + b"?")
    assert encode(0), "what is damaged is built again"
    Building(out).prepare(restart=True)
    (source / "000.png").write_bytes(b"no picture any more")
    assert encode(0), "another source gives another generation"


def test_missing_chunks_are_named(source: Path, tmp_path: Path) -> None:
    opened = open_source(str(source))
    encode_shard(PlainEncoder(), "plain", opened, "pictures", tmp_path / "out", plain_options(), Shard(1, 2))  # type: ignore[arg-type]
    with pytest.raises(SourceError, match=r"lacks 2 chunks \(0, 2\)"):
        publish_collection(tmp_path / "out", 1.0, IndexOptions())


def test_another_job_is_refused_in_one_sentence(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(BuildInterrupted):
        build_plain(source, out, stopping=Stop(2))
    with pytest.raises(InputError, match=r"has other options \(batch_size 3\); .* --restart"):
        build_plain(source, out, batch_size=4)
    with pytest.raises(InputError, match="uses the encoder plain in fp32"):
        build_plain(source, out, PlainEncoder(name="another"))
    other = draw_folder(tmp_path / "others", 5)
    (out / "building" / "listing.db").unlink()
    with pytest.raises(InputError, match="reads pictures as it was when it began"):
        build_plain(other, out)
    Building(out).prepare(restart=True)
    build_plain(other, out)
    assert open_collection(out).num_items == 5


def test_two_builders_of_one_collection_are_kept_apart(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with building_locked(out), pytest.raises(StorageError, match="Another process is building"):
        build_plain(source, out)
    with (
        building_locked(out, shard="0-of-2"),
        building_locked(out, shard="1-of-2"),
        pytest.raises(StorageError, match="Another process is building"),
        building_locked(out, shard="0-of-2"),
    ):
        pass
    build_plain(source, out)


def _hold(out: Path, held: Any) -> None:
    with building_locked(out):
        held.set()
        held.wait(60)
        while True:
            held.wait(1)


def test_a_killed_builder_holds_no_lock(source: Path, tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    held = context.Event()
    process = context.Process(target=_hold, args=(tmp_path / "out", held))
    process.start()
    assert held.wait(60)
    with pytest.raises(StorageError, match="Another process"):
        build_plain(source, tmp_path / "out")
    process.kill()
    process.join()
    build_plain(source, tmp_path / "out")


def test_a_damaged_segment_is_made_again(source: Path, expected: dict[str, str], tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(BuildInterrupted):
        build_plain(source, out, stopping=Stop(7))
    segment = min((out / "building" / "segments").iterdir())
    data = bytearray((segment / "images.npy").read_bytes())
    data[-1] ^= 1
    (segment / "images.npy").write_bytes(data)
    with pytest.raises(CollectionCorrupt, match="has been removed; run the same command again"):
        build_plain(source, out)
    build_plain(source, out)
    assert digests(out) == expected


@pytest.mark.parametrize("moment", ["before CURRENT", "after CURRENT"])
def test_a_publication_that_was_cut_off_is_finished(
    source: Path, expected: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    out = tmp_path / "out"

    def fail(*arguments: Any) -> None:
        raise RuntimeError("killed")

    if moment == "before CURRENT":
        monkeypatch.setattr("sightline.collection.writer.make_current", fail)
    else:
        monkeypatch.setattr(Building, "discard", fail)
    with pytest.raises(RuntimeError):
        build_plain(source, out)
    monkeypatch.undo()
    assert (out / "CURRENT").exists() == (moment == "after CURRENT")
    build_plain(source, out)
    assert digests(out) == expected
    verify_collection(out)


def test_an_unfinished_build_leaves_the_served_generation_alone(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    build_plain(source, out)
    before = digests(out)
    with pytest.raises(BuildInterrupted):
        build_plain(source, out, stopping=Stop(3))
    assert {name: digest for name, digest in digests(out).items() if not name.startswith("building/")} == before
    assert open_collection(out).generation == "gen-000001"
    build_plain(source, out)
    assert open_collection(out).generation == "gen-000002"


def test_a_build_without_an_end_known_beforehand_ends(tmp_path: Path) -> None:
    """32 inputs fill two chunks of 16 exactly: only reading on tells that nothing follows."""
    source = draw_folder(tmp_path / "pictures", 32)
    build_plain(source, tmp_path / "out")
    with pytest.raises(BuildInterrupted):
        build_plain(source, tmp_path / "again", stopping=Stop(6))
    build_plain(source, tmp_path / "again")
    assert digests(tmp_path / "again") == digests(tmp_path / "out")
    assert json.loads((tmp_path / "out" / "gen-000001" / "manifest.json").read_text())["counts"]["seen"] == 32
