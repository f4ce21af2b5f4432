"""Compaction of a collection with approximate indexes: they are built again, and find what is there now."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sightline.collection import Counts, GenerationWriter, NewItem, verify_collection
from sightline.collection.live_log import LiveChange, open_live_log
from sightline.collection.manifest import EncoderRecord
from sightline.compact import compact
from sightline.index.building import rebuild_indexes
from sightline.index.opening import open_index
from sightline.index.record import IndexRecord, record_of
from sightline.storage import record_files

DIM, NUM_ITEMS = 16, 1300


def vectors(seed: int, rows: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    drawn = np.random.default_rng(seed).standard_normal((rows, DIM)).astype(np.float32)
    return np.asarray(drawn / np.linalg.norm(drawn, axis=1, keepdims=True), np.float32)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A collection whose pictures have inverted lists and whose captions are searched exactly."""
    record = EncoderRecord(
        spec="fake:x", name="fake", fingerprint="e" * 64, dim=DIM, precision="fp32", licence="x", untrained=False
    )
    images = vectors(0, NUM_ITEMS)
    wanted = IndexRecord(plan="ivf-sq8", reason="asked for", setting=1, tuned_on="image", recall_target=0.9)
    with GenerationWriter(tmp_path / "photos", record) as writer:
        for number in range(NUM_ITEMS):
            writer.add(NewItem(f"item-{number}", f"{number}.png", f"{number:064x}", 1, 1, images[number]))
        counts = Counts(
            seen=NUM_ITEMS, indexed=NUM_ITEMS, duplicates=0, skipped=0, failed=0, captions_seen=0, captions_indexed=0,
            captions_skipped=0, reasons={},
        )  # fmt: skip
        writer.finish()
        index = {"images": wanted.model_dump(mode="json"), "kind": "ivf-sq8"}
        manifest = writer.publish(counts, source="fake", index=index)
    assert manifest.live_sequence == 0
    return tmp_path / "photos"


def test_the_index_is_built_again_by_its_plan(photos: Path) -> None:
    log = open_live_log(photos, writable=True)
    assert log is not None
    fresh = vectors(1, 1)[0]
    change = LiveChange("new", "put", "e" * 64, "gen-000001", "", uri="new", vector=fresh.astype(np.float16))
    log.append([change, LiveChange("item-7", "delete", "e" * 64, "gen-000001", "")])
    done = compact(photos, log)
    assert done is not None and done.num_items == NUM_ITEMS
    generation = verify_collection(photos)
    record = record_of(generation.manifest.index, "images")
    assert (record.plan, record.tuned_on, record.reached) == ("ivf-sq8", "image", True)
    assert record.curve
    assert "index/images.faiss" in generation.manifest.files
    hits = open_index(generation, "images").search(fresh[None], 1)
    assert generation.item(int(hits.rows[0, 0])).item_id == "new"
    gone = vectors(0, NUM_ITEMS)[7]
    found = open_index(generation, "images").search(gone[None], 5)
    assert "item-7" not in {generation.item(int(row)).item_id for row in found.rows[0]}


def test_too_few_rows_for_the_plan_are_searched_exactly(photos: Path) -> None:
    log = open_live_log(photos, writable=True)
    assert log is not None
    log.append([LiveChange(f"item-{n}", "delete", "e" * 64, "gen-000001", "") for n in range(NUM_ITEMS - 10)])
    compact(photos, log)
    generation = verify_collection(photos)
    record = record_of(generation.manifest.index, "images")
    assert (record.plan, generation.num_items, generation.manifest.index["kind"]) == ("exact", 10, "exact")
    assert not [name for name in generation.manifest.files if name.startswith("index/")]
    assert open_index(generation, "images").search(vectors(0, NUM_ITEMS)[-1:], 1).rows[0, 0] == 9


def test_nothing_is_built_for_exact_plans(photos: Path) -> None:
    directory = photos / "gen-000001"
    before = record_files(directory)
    manifest = verify_collection(photos).manifest.model_copy(update={"index": {"kind": "exact"}})
    assert rebuild_indexes(directory, manifest) == {"kind": "exact"}
    assert record_files(directory) == before
