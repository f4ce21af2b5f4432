from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from indexer.build import BuildInterrupted
from indexer.sync import Changes, SyncReport, sync_collection
from sightline.collection import open_collection, verify_collection
from sightline.errors import EncoderMismatch, InputError, SourceError
from sightline.sources import open_source
from tests.indexer.plain import CREATED, PlainEncoder, build_plain, digests, draw_folder, plain_options
from tests.pictures import encoded, textured

ONE_CHUNK: dict[str, Any] = {"near_duplicates": 0.0, "chunk_inputs": 64}
"""Captions of copies in other chunks are dropped when all is encoded, and so are not known to the next run."""


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return draw_folder(tmp_path / "pictures")


@pytest.fixture
def out(source: Path, tmp_path: Path) -> Path:
    build_plain(source, tmp_path / "out", **ONE_CHUNK)
    return tmp_path / "out"


def sync(
    source: Path, out: Path, encoder: PlainEncoder | None = None, chunk_inputs: int = 64, **keywords: Any
) -> SyncReport:
    return sync_collection(
        encoder or PlainEncoder(),  # type: ignore[arg-type]
        "plain", open_source(str(source), listing=out / "building" / "listing.db"), "pictures", out,
        plain_options(**{**ONE_CHUNK, "chunk_inputs": chunk_inputs}),
        clock=lambda: CREATED, **keywords,
    )  # fmt: skip


def change(source: Path) -> None:
    """One of each: 000 renamed, 001 gone, 002 another picture, 003 described anew, 900 new."""
    (source / "000.png").rename(source / "700.png")
    (source / "001.png").unlink()
    (source / "001.txt").unlink()
    (source / "006.png").unlink()  # the copy of 001
    (source / "002.png").write_bytes(encoded(textured((24, 18), 802)))
    (source / "003.txt").write_text("words that are new")
    (source / "900.png").write_bytes(encoded(textured((24, 18), 900)))


def test_nothing_changed_publishes_nothing_and_reads_no_picture(
    source: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = digests(out)
    encoder = PlainEncoder()
    report = sync(source, out, encoder)
    assert report == SyncReport(None, Changes(unchanged=open_collection(out).num_items))
    assert (encoder.num_pictures, encoder.num_texts) == (0, 0)
    assert digests(out) == before


def test_each_kind_of_change_is_brought_in_and_only_what_is_new_is_encoded(source: Path, out: Path) -> None:
    old = open_collection(out)
    change(source)
    encoder = PlainEncoder()
    report = sync(source, out, encoder)
    assert report.build is not None
    assert report.build.manifest.generation == "gen-000002"
    assert report.changes == Changes(added=1, deleted=1, changed=1, renamed=1, described=1, unchanged=old.num_items - 4)
    assert (encoder.num_pictures, encoder.num_texts) == (2, 3)  # 002's two captions and 003's new one
    new = verify_collection(out)
    uris = {new.item(row).uri: row for row in range(new.num_items)}
    assert {"001.png", "000.png"} & set(uris) == set()
    assert new.item(uris["700.png"]).item_id == old.item(0).item_id
    assert new.item(uris["003.png"]).captions == ("words that are new",)
    np.testing.assert_array_equal(new.image_vectors()[uris["700.png"]], old.image_vectors()[0])
    assert new.thumbnail(uris["700.png"]) == old.thumbnail(0)


def test_a_sync_gives_what_a_build_gives(source: Path, out: Path, tmp_path: Path) -> None:
    """But for vectors, which here tell how large the batch was that they came from."""
    change(source)
    sync(source, out)
    build_plain(source, tmp_path / "built", **ONE_CHUNK)
    made, built = open_collection(out), open_collection(tmp_path / "built")
    assert [made.item(row) for row in range(made.num_items)] == [built.item(row) for row in range(built.num_items)]
    pictures = ("seen", "indexed", "duplicates", "skipped", "failed")
    assert [getattr(made.manifest.counts, name) for name in pictures] == [
        getattr(built.manifest.counts, name) for name in pictures
    ]
    assert list(made.files()) == list(built.files())


def test_files_with_another_time_are_known_by_their_bytes(source: Path, out: Path) -> None:
    for path in source.iterdir():
        path.touch()
    encoder = PlainEncoder()
    report = sync(source, out, encoder)
    assert (encoder.num_pictures, encoder.num_texts) == (0, 0)
    assert report.changes == Changes(unchanged=open_collection(out).num_items)


def test_an_interrupted_sync_goes_on(source: Path, out: Path, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(out, tmp_path / "other")
    change(source)
    sync(source, tmp_path / "other", chunk_inputs=16)
    with pytest.raises(BuildInterrupted):
        sync(source, out, chunk_inputs=16, stopping=lambda: True)
    assert open_collection(out).generation == "gen-000001"
    with pytest.raises(InputError, match="brings gen-000001 up to date"):
        build_plain(source, out)
    report = sync(source, out, chunk_inputs=16)
    assert report.build is not None
    assert report.build.num_resumed > 0
    assert digests(out) == digests(tmp_path / "other")


def test_an_encoder_with_another_text_tower_takes_over_the_pictures(
    source: Path, out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = open_collection(out)
    mapped = PlainEncoder(name="mapped", same_images_as=("0" * 64, old.manifest.encoder.fingerprint))
    monkeypatch.setattr(mapped, "encode_texts", lambda texts: -PlainEncoder.encode_texts(mapped, texts))
    report = sync(source, out, mapped)
    assert report.build is not None
    assert mapped.num_pictures == 0
    assert mapped.num_texts > 0
    new = verify_collection(out)
    assert new.manifest.encoder.fingerprint == mapped.fingerprint
    np.testing.assert_array_equal(new.image_vectors(), old.image_vectors())
    np.testing.assert_allclose(new.caption_vectors(), -old.caption_vectors(), atol=0.05)  # other batches
    assert sync(source, out, mapped).build is None
    change(source)
    assert sync(source, out, mapped).changes.added == 1
    with pytest.raises(EncoderMismatch, match="was built by mapped"):
        sync(source, out)  # the way back is not the mapped encoder's to promise


def test_another_encoder_or_no_collection_is_refused(source: Path, out: Path, tmp_path: Path) -> None:
    with pytest.raises(EncoderMismatch, match="was built by plain"):
        sync(source, out, PlainEncoder(name="another"))
    with pytest.raises(SourceError, match="is not a collection"):
        sync(source, tmp_path / "nothing")
