from __future__ import annotations

import json
import shutil
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
import pytest

from sightline.collection import (
    Counts,
    EncoderRecord,
    Generation,
    GenerationWriter,
    NewItem,
    open_collection,
    verify_collection,
)
from sightline.errors import CollectionCorrupt, NotFound, SourceError, StorageError

ENCODER = EncoderRecord(
    spec="tiny", name="tiny", fingerprint="f" * 64, dim=8, precision="fp32", licence="mit", untrained=False
)


def unit(rows: int, seed: int = 0) -> npt.NDArray[np.float32]:
    vectors = np.random.default_rng(seed).standard_normal((rows, 8)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors


def counts(items: int, captions: int, **others: Any) -> Counts:
    values = {"seen": items, "indexed": items, "duplicates": 0, "skipped": 0, "failed": 0, "reasons": {}}
    values |= {"captions_seen": captions, "captions_indexed": captions, "captions_skipped": 0}
    return Counts(**{**values, **others})


def thumbnail(row: int) -> bytes:
    return b"RIFF\0\0\0\0WEBP" + bytes([row]) * (row * 700)


def write(path: Path, items: int = 20, rows_per_shard: int = 7) -> Path:
    vectors, texts = unit(items), unit(2 * items, seed=1)
    with GenerationWriter(path, ENCODER, rows_per_shard=rows_per_shard) as writer:
        for row in range(items):
            own = slice(2 * row, 2 * row + row % 3)
            writer.add(
                NewItem(
                    f"id-{row}",
                    f"folder/{row}.jpg",
                    "ab" * 32,
                    30,
                    20,
                    vectors[row],
                    tuple(f"caption {n} of {row}" for n in range(row % 3)),
                    texts[own],
                    {"number": row},
                    thumbnail(row),
                )
            )
        writer.reject("broken.jpg", "failed", "image_corrupt", "cut off")
        captions = sum(row % 3 for row in range(items))
        writer.publish(
            counts(items, captions, seen=items + 1, failed=1, reasons={"image_corrupt": 1}), source="s", index={}
        )
    return path


@pytest.fixture
def generation(tmp_path: Path) -> Generation:
    return open_collection(write(tmp_path / "photos"))


def test_what_was_written_is_read_back_across_shards(generation: Generation) -> None:
    assert (generation.name, generation.generation, generation.num_items) == ("photos", "gen-000001", 20)
    np.testing.assert_allclose(generation.image_vectors(), unit(20), atol=1e-3)
    assert generation.image_vectors().dtype == np.float16
    item = generation.item(13)
    assert (item.item_id, item.uri, item.metadata) == ("id-13", "folder/13.jpg", {"number": 13})
    assert item.captions == ("caption 0 of 13",)
    for row in range(20):
        assert generation.thumbnail(row) == thumbnail(row)
        assert generation.row_of(f"id-{row}") == row
    expected = [(f"caption {n} of {row}", row) for row in range(20) for n in range(row % 3)]
    assert [generation.caption(row) for row in range(generation.num_captions)] == expected
    assert generation.caption_items().tolist() == [row for _, row in expected]
    assert generation.caption_vectors().shape == (generation.num_captions, 8)
    with pytest.raises(NotFound):
        generation.row_of("nobody")


def test_other_tools_read_the_files_as_they_are(generation: Generation) -> None:
    directory = generation.directory
    shards = sorted((directory / "img_emb").iterdir())
    assert [shard.name for shard in shards] == ["img_emb_0.npy", "img_emb_1.npy", "img_emb_2.npy"]
    assert np.concatenate([np.load(shard) for shard in shards]).shape == (20, 8)
    table = pq.read_table(directory / "metadata" / "metadata_0.parquet")
    assert {"image_path", "caption"} <= set(table.column_names)
    with tarfile.open(directory / "thumbnails" / "thumbnails_1.tar") as archive:
        assert archive.getnames()[0] == "id-7.webp"
    assert json.loads((directory / "ledger.jsonl").read_text())["reason"] == "image_corrupt"


def test_shard_numbers_are_padded_so_that_names_sort_in_row_order(tmp_path: Path) -> None:
    directory = open_collection(write(tmp_path / "many", items=12, rows_per_shard=1)).directory
    assert sorted(path.name for path in (directory / "img_emb").iterdir())[2] == "img_emb_02.npy"


def test_a_second_generation_leaves_the_first_alone(tmp_path: Path, generation: Generation) -> None:
    write(tmp_path / "photos", items=5)
    assert open_collection(tmp_path / "photos").generation == "gen-000002"
    assert generation.thumbnail(3) == thumbnail(3)
    (tmp_path / "photos" / "CURRENT").write_text("gen-000001\n")
    assert open_collection(tmp_path / "photos").num_items == 20


def test_a_failed_write_leaves_nothing(tmp_path: Path) -> None:
    path = write(tmp_path / "photos", items=3)
    with pytest.raises(RuntimeError), GenerationWriter(path, ENCODER) as writer:
        writer.add(NewItem("a", "a", "", 1, 1, unit(1)[0]))
        raise RuntimeError
    with GenerationWriter(path, ENCODER) as writer:
        writer.add(NewItem("a", "a", "", 1, 1, unit(1)[0]))
    assert sorted(p.name for p in path.iterdir()) == ["CURRENT", "gen-000001"]
    assert (path / "CURRENT").read_text() == "gen-000001\n"


def test_a_path_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(StorageError, match="write"):
        write(tmp_path / "file")


def test_what_is_no_collection_is_said(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="sightline index build"):
        open_collection(tmp_path)
    (tmp_path / "CURRENT").write_text("../../etc")
    with pytest.raises(CollectionCorrupt, match="names a generation that is not there"):
        open_collection(tmp_path)


@pytest.mark.parametrize(
    "name",
    ["img_emb/img_emb_1.npy", "text_emb/text_emb_0.npy", "metadata/metadata_2.parquet", "captions/captions_0.parquet",
     "thumbnails/thumbnails_2.tar", "ledger.jsonl"],
)  # fmt: skip
def test_any_changed_or_missing_file_is_found(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / "photos")
    file = path / "gen-000001" / name
    original = file.read_bytes()
    changed = bytearray(original)
    changed[len(changed) // 2] ^= 1
    file.write_bytes(bytes(changed))
    with pytest.raises(CollectionCorrupt, match=Path(name).name):
        open_collection(path)
    file.unlink()
    with pytest.raises(CollectionCorrupt, match="missing"):
        open_collection(path)
    file.write_bytes(original)
    verify_collection(path)


@pytest.mark.parametrize(
    ("field", "value"),
    [("schema_version", 99), ("num_items", 21), ("counts", {"seen": 1}), ("surprise", 1), ("generation", None)],
)
def test_a_manifest_that_does_not_hold_together_is_refused(tmp_path: Path, field: str, value: object) -> None:
    path = write(tmp_path / "photos")
    file = path / "gen-000001" / "manifest.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {field: value}))
    with pytest.raises(CollectionCorrupt):
        open_collection(path)


def test_vectors_that_are_not_of_length_one_are_found(tmp_path: Path) -> None:
    path = tmp_path / "photos"
    with GenerationWriter(path, ENCODER) as writer:
        writer.add(NewItem("a", "a", "", 1, 1, 2 * unit(1)[0]))
        writer.publish(counts(1, 0), source="s", index={})
    open_collection(path)
    with pytest.raises(CollectionCorrupt, match="length 1"):
        verify_collection(path)


def test_a_double_item_id_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "photos"
    with GenerationWriter(path, ENCODER) as writer:
        for vector in unit(2):
            writer.add(NewItem("same", "a", "", 1, 1, vector))
        writer.publish(counts(2, 0), source="s", index={})
    with pytest.raises(CollectionCorrupt, match="twice"):
        open_collection(path)


def test_an_open_generation_survives_its_removal(generation: Generation) -> None:
    shutil.rmtree(generation.directory)
    assert generation.thumbnail(9) == thumbnail(9)
    assert generation.item(9).item_id == "id-9"
