"""Vectors from other tools in, and ours out, without loss and with every bad row accounted for."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from indexer.exporting import export_parquet
from indexer.importing import CheckPictures, ImportReport, import_collection
from indexer.vector_sources import BLOCK_ROWS, open_vectors
from sightline.collection import EncoderRecord, Generation, open_collection, verify_collection
from sightline.errors import EncoderMismatch, FileChanged, SourceError, StorageError
from tests.fakes import COLOURS, DIM, FINGERPRINT, FakeEncoder, build_fake_collection, picture_bytes

RECORD = EncoderRecord(
    spec="fake", name="fake", fingerprint=FINGERPRINT, dim=DIM, precision="fp32", licence="Apache-2.0", untrained=False
)


def bring_in(source: Path, out: Path, **options: Any) -> ImportReport:
    return import_collection(open_vectors(source), "theirs", RECORD, out, **options)


def unit(count: int, seed: int = 0) -> np.ndarray[Any, Any]:
    vectors = np.random.default_rng(seed).normal(size=(count, DIM)).astype(np.float32)
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))


def clip_folder(root: Path, sizes: tuple[int, ...], *, texts: bool = True, metadata: bool = True) -> Path:
    """What ``clip-retrieval inference`` writes; shard numbers padded as it pads them."""
    width = 2 if len(sizes) > 9 else 1
    for number, count in enumerate(sizes):
        for kind, seed in (("img_emb", number), ("text_emb", 100 + number))[: 1 + texts]:
            (root / kind).mkdir(parents=True, exist_ok=True)
            np.save(root / kind / f"{kind}_{number:0{width}d}.npy", unit(count, seed).astype(np.float16))
        if metadata:
            (root / "metadata").mkdir(exist_ok=True)
            rows = range(count)
            table = pa.table(
                {
                    "image_path": [f"{number}/{row}.jpg" for row in rows],
                    "caption": [f"caption {number} {row}" for row in rows],
                    "NSFW": ["UNLIKELY" for _ in rows],
                    "similarity": [row / 7 for row in rows],
                    "width": [10 + row for row in rows],
                }
            )
            pq.write_table(table, root / "metadata" / f"metadata_{number:0{width}d}.parquet", row_group_size=700)
    return root


def same(one: Generation, other: Generation) -> bool:
    """Whether two generations hold the same but for thumbnails."""
    return (
        np.array_equal(one.image_vectors(), other.image_vectors())
        and np.array_equal(one.caption_vectors(), other.caption_vectors())
        and np.array_equal(one.caption_items(), other.caption_items())
        and [one.item(row) for row in range(one.num_items)] == [other.item(row) for row in range(other.num_items)]
        and [one.caption(row) for row in range(one.num_captions)]
        == [other.caption(row) for row in range(other.num_captions)]
    )


def test_clip_retrievals_folder_becomes_a_collection(tmp_path: Path) -> None:
    sizes = (BLOCK_ROWS + 300, 5, *[1] * 9)  # eleven shards: numbers are padded, and the order is theirs
    source = clip_folder(tmp_path / "theirs", sizes)
    report = bring_in(source, tmp_path / "out")
    generation = verify_collection(tmp_path / "out")
    assert generation.num_items == generation.num_captions == sum(sizes)
    row = BLOCK_ROWS + 302
    item = generation.item(row)
    assert (item.uri, item.captions, item.width_px) == ("1/2.jpg", ("caption 1 2",), 12)
    assert item.metadata == {"NSFW": "UNLIKELY", "similarity": 2 / 7, "width": 12}
    np.testing.assert_array_equal(generation.image_vectors()[row], unit(5, 1)[2].astype(np.float16))
    np.testing.assert_array_equal(generation.caption_vectors()[row], unit(5, 101)[2].astype(np.float16))
    assert (report.num_normalised, report.num_checked) == (0, 0)
    assert report.manifest.index["recall_at_10"]["text_queries"] == 1.0


def test_vectors_alone_are_enough(tmp_path: Path) -> None:
    bring_in(clip_folder(tmp_path / "theirs", (3, 2), texts=False, metadata=False), tmp_path / "out")
    generation = open_collection(tmp_path / "out")
    assert [generation.item(row).uri for row in range(5)] == [
        *(f"img_emb_0.npy:{row}" for row in (1, 2, 3)), *(f"img_emb_1.npy:{row}" for row in (1, 2)),
    ]  # fmt: skip
    assert generation.num_captions == 0


def test_rows_that_cannot_be_used_are_in_the_ledger(tmp_path: Path) -> None:
    source = clip_folder(tmp_path / "theirs", (8,))
    images, texts = 3 * unit(8), unit(8, 100)
    images[1], images[2, 3], images[3, 0] = 0, np.nan, np.inf
    texts[0], texts[4] = np.nan, 2 * texts[4]
    np.save(source / "img_emb" / "img_emb_0.npy", images)
    np.save(source / "text_emb" / "text_emb_0.npy", texts)
    table = pq.read_table(source / "metadata" / "metadata_0.parquet")
    paths = ["a", "b", "c", "d", "e", "a", "f", "g"]
    captions = ["x"] * 6 + [None, "x"]
    table = table.set_column(0, "image_path", [paths]).set_column(1, "caption", [captions])
    pq.write_table(table, source / "metadata" / "metadata_0.parquet")
    report = bring_in(source, tmp_path / "out")
    counts = report.manifest.counts
    assert (counts.seen, counts.indexed, counts.duplicates, counts.failed) == (8, 4, 1, 3)
    assert counts.reasons == {
        "bad_vector": 4, "caption_of_rejected": 4, "duplicate_id": 1, "vector_without_caption": 1,
    }  # fmt: skip
    assert report.num_normalised == 6
    generation = verify_collection(tmp_path / "out")
    assert [generation.item(row).uri for row in range(4)] == ["a", "e", "f", "g"]
    assert [generation.caption(row)[1] for row in range(generation.num_captions)] == [1, 3]
    ledger = [json.loads(line) for line in (tmp_path / "out" / "gen-000001" / "ledger.jsonl").read_text().splitlines()]
    assert [entry["uri"] for entry in ledger] == ["b", "c", "d", "a"]


@pytest.mark.parametrize("damage", ["rows", "texts", "missing", "twice", "dim", "pickle", "cut", "columns", "ints",
                                    "footer", "huge_header", "text"])  # fmt: skip
def test_folders_that_are_not_whole_are_refused_before_anything_is_written(damage: str, tmp_path: Path) -> None:
    source = clip_folder(tmp_path / "theirs", (4, 4))
    image, table = source / "img_emb" / "img_emb_1.npy", source / "metadata" / "metadata_1.parquet"
    if damage == "rows":
        pq.write_table(pq.read_table(table).slice(1), table)
    elif damage == "texts":
        np.save(source / "text_emb" / "text_emb_1.npy", unit(5))
    elif damage == "missing":
        table.unlink()
    elif damage == "twice":
        np.save(source / "img_emb" / "img_emb_01.npy", unit(4))
    elif damage == "dim":
        np.save(image, unit(4)[:, :4])
    elif damage == "pickle":
        np.save(image, np.array([[{"a": 1}] * DIM] * 4, dtype=object), allow_pickle=True)
    elif damage == "cut":
        image.write_bytes(image.read_bytes()[:-5])
    elif damage == "columns":
        np.save(image, np.asfortranarray(unit(4)))
    elif damage == "ints":
        np.save(image, np.ones((4, DIM), np.int64))
    elif damage == "footer":
        table.write_bytes(table.read_bytes()[:-9] + b"PARQUETX")
    elif damage == "huge_header":
        image.write_bytes(b"\x93NUMPY\x02\0" + (2**31).to_bytes(4, "little") + b"{" * 1000)
    else:
        image.write_bytes(pickle.dumps([1, 2]))
    with pytest.raises(SourceError, match=r"\.$"):
        bring_in(source, tmp_path / "out")
    assert not (tmp_path / "out").exists() or not any((tmp_path / "out").iterdir())


def test_the_dimension_must_be_the_encoders(tmp_path: Path) -> None:
    (tmp_path / "img_emb").mkdir()
    np.save(tmp_path / "img_emb" / "img_emb_0.npy", np.ones((3, 5), np.float32))
    with pytest.raises(SourceError, match="5 dimensions and fake makes 8"):
        bring_in(tmp_path, tmp_path / "out")
    with pytest.raises(SourceError, match="no ready vectors"):
        bring_in(tmp_path / "img_emb", tmp_path / "out")


@pytest.mark.parametrize("kind", [pa.list_(pa.float32(), DIM), pa.list_(pa.float16(), DIM), pa.list_(pa.float32()),
                                  pa.large_list(pa.float64())])  # fmt: skip
def test_parquet_with_a_column_of_vectors(kind: pa.DataType, tmp_path: Path) -> None:
    count = BLOCK_ROWS + 20
    cells: list[Any] = [list(map(np.float16, row)) if kind.value_type == pa.float16() else row.tolist()
                        for row in unit(count)]  # fmt: skip
    cells[3] = None
    if not pa.types.is_fixed_size_list(kind):
        cells[4] = cells[4][:3]
    names = [f"{row}.jpg" for row in range(count)]
    table = pa.table({"id": names, "url": names, "embedding": pa.array(cells, kind), "caption": ["a"] * count})
    pq.write_table(table, tmp_path / "t.parquet", row_group_size=500)
    counts = bring_in(tmp_path / "t.parquet", tmp_path / "out").manifest.counts
    bad = 1 if pa.types.is_fixed_size_list(kind) else 2
    assert (counts.indexed, counts.failed, counts.reasons) == (count - bad, bad, {"bad_vector": bad})
    generation = verify_collection(tmp_path / "out")
    last = generation.item(generation.num_items - 1)
    assert (last.uri, last.item_id, last.metadata) == (names[-1], names[-1], {"caption": "a"})
    np.testing.assert_allclose(generation.image_vectors()[-1], unit(count)[-1], atol=1e-3)


@pytest.mark.parametrize("columns", [{"vec": [[1.0] * DIM]}, {"embedding": ["a"]}, {"embedding": [None]}])
def test_parquet_without_vectors_is_refused(columns: dict[str, Any], tmp_path: Path) -> None:
    pq.write_table(pa.table(columns), tmp_path / "t.parquet")
    with pytest.raises(SourceError, match=r"\.$"):
        bring_in(tmp_path, tmp_path / "out")


def test_our_collections_come_back_as_they_were(tmp_path: Path) -> None:
    colours = [*COLOURS] * 3
    ours = build_fake_collection(tmp_path / "ours", colours, captions_per_item=3, thumbnails=False)
    bring_in(tmp_path / "ours", tmp_path / "directly")
    assert same(ours, verify_collection(tmp_path / "directly"))
    files = export_parquet(tmp_path / "ours", tmp_path / "parquet")
    assert [path.name for path in files] == ["part-00000.parquet"]
    bring_in(tmp_path / "parquet", tmp_path / "through")
    assert same(ours, verify_collection(tmp_path / "through"))
    with pytest.raises(StorageError, match="exists already"):
        export_parquet(tmp_path / "ours", tmp_path / "parquet")


def test_a_damaged_collection_is_not_exported(tmp_path: Path) -> None:
    generation = build_fake_collection(tmp_path / "ours")
    path = generation.directory / "img_emb" / "img_emb_0.npy"
    path.write_bytes(path.read_bytes()[:-1] + b"\x7f")
    with pytest.raises(FileChanged):
        export_parquet(tmp_path / "ours", tmp_path / "parquet")
    assert not (tmp_path / "parquet").exists()


def test_pictures_can_tell_whether_this_encoder_made_the_vectors(tmp_path: Path) -> None:
    build_fake_collection(tmp_path / "ours")
    encoder = FakeEncoder()
    for number, colour in enumerate(COLOURS):
        (tmp_path / "p" / colour).mkdir(parents=True)
        (tmp_path / "p" / colour / f"{number:03d}.png").write_bytes(picture_bytes(colour))
    report = bring_in(tmp_path / "ours", tmp_path / "out", check=CheckPictures(encoder, tmp_path / "p", 5))
    assert report.num_checked == 5
    assert report.min_cosine is not None and report.min_cosine > 0.999
    nowhere = bring_in(tmp_path / "ours", tmp_path / "out", check=CheckPictures(encoder, tmp_path / "none", 5))
    assert (nowhere.num_checked, nowhere.min_cosine) == (0, None)
    (tmp_path / "p" / "green" / "001.png").write_bytes(picture_bytes("magenta"))
    with pytest.raises(EncoderMismatch, match="cosine"):
        bring_in(tmp_path / "ours", tmp_path / "out", check=CheckPictures(encoder, tmp_path / "p", 5))
    assert open_collection(tmp_path / "out").generation == "gen-000002"
