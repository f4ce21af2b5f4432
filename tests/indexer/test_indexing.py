"""Another plan for a published collection: a new generation that shares its shards, verified before FAISS reads it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from typer.testing import CliRunner

from indexer.indexing import IndexOptions, optimise
from service.index_figures import describe_indexes
from service.metrics import Metrics
from service.snapshot import index_generation
from sightline.collection import (
    Counts,
    EncoderRecord,
    GenerationWriter,
    NewItem,
    needed_bytes,
    open_collection,
    verify_collection,
)
from sightline.command.root import build_app
from sightline.errors import IndexUnusable, ManifestInvalid, QueryError
from sightline.index.approximate import ApproximateIndex
from sightline.index.exact import VectorIndex
from sightline.index.opening import open_index
from sightline.index.record import record_of

ROWS, DIM = 3_000, 32
Vectors = npt.NDArray[np.float32]


def unit(rows: int, seed: int, shift: float = 0.0) -> Vectors:
    vectors = np.random.default_rng(seed).standard_normal((rows, DIM)) + shift
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), dtype=np.float32)


def collection(path: Path, captions: bool = True) -> Path:
    images, texts = unit(ROWS, 0), unit(ROWS, 1, 0.4)
    record = EncoderRecord(
        spec="fake", name="fake", fingerprint="f" * 64, dim=DIM, precision="fp32", licence="", untrained=False
    )
    with GenerationWriter(path, record, rows_per_shard=1_000) as writer:
        for row in range(ROWS):
            own: dict[str, object] = {"captions": (f"number {row}",), "caption_vectors": texts[row : row + 1]}
            writer.add(
                NewItem(item_id=f"{row:05d}", uri=f"{row}.png", sha256=f"{row:064d}", width_px=8, height_px=8,
                        vector=images[row], **(own if captions else {}))  # type: ignore[arg-type]
            )  # fmt: skip
        told = ROWS if captions else 0
        counts = Counts(seen=ROWS, indexed=ROWS, duplicates=0, skipped=0, failed=0, captions_seen=told,
                        captions_indexed=told, captions_skipped=0, reasons={})  # fmt: skip
        writer.publish(counts, source="fake", index={"dtype": "float16", "recall_at_10": {"text_queries": 1.0}})
    return path


@pytest.fixture(scope="module")
def untuned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A collection with one generation, searched exactly. Not to be changed."""
    return collection(tmp_path_factory.mktemp("untuned") / "photos")


@pytest.fixture(scope="module")
def tuned(untuned: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A collection whose second generation has inverted lists. Not to be changed."""
    path = tmp_path_factory.mktemp("tuned") / "photos"
    shutil.copytree(untuned, path)
    optimise(path, IndexOptions(plan="ivf-sq8"))
    return path


@pytest.fixture
def photos(untuned: Path, tmp_path: Path) -> Path:
    """A copy of the collection with one generation, to be changed."""
    shutil.copytree(untuned, tmp_path / "photos")
    return tmp_path / "photos"


def test_the_new_generation_shares_its_shards_and_keeps_everything_else(tuned: Path) -> None:
    old, new = (open_collection(tuned, name) for name in ("gen-000001", "gen-000002"))
    assert (tuned / "CURRENT").read_text() == "gen-000002\n"
    for name in old.manifest.files:
        assert (old.directory / name).samefile(new.directory / name)
    assert set(new.manifest.files) - set(old.manifest.files) == {"index/images.faiss", "index/captions.faiss"}
    assert new.manifest.counts == old.manifest.counts
    assert new.manifest.index["recall_at_10"] == old.manifest.index["recall_at_10"]
    assert verify_collection(tuned).generation == "gen-000002"


def test_the_curve_is_recorded_by_kind_of_query(tuned: Path) -> None:
    manifest = open_collection(tuned).manifest
    images, captions = record_of(manifest.index, "images"), record_of(manifest.index, "captions")
    assert (images.plan, images.tuned_on, images.reached) == ("ivf-sq8", "text", True)
    assert captions.tuned_on == "image"  # captions are found with pictures
    assert images.chosen()["text"].recall_at_10 >= 0.95
    assert {point.queries for point in images.curve} == {"text", "image"}


def test_the_opened_index_is_the_plan_and_finds_what_exact_search_finds(tuned: Path) -> None:
    exact = open_index(open_collection(tuned, "gen-000001"), "images")
    index = open_index(open_collection(tuned), "images")
    assert isinstance(exact, VectorIndex) and isinstance(index, ApproximateIndex)
    queries = unit(50, 7, 0.4)
    ours, truth = index.search(queries, 10).rows, exact.search(queries, 10).rows
    assert np.mean([len(set(a) & set(b)) for a, b in zip(ours.tolist(), truth.tolist(), strict=True)]) >= 9
    allowed = np.arange(ROWS) % 100 == 3
    np.testing.assert_array_equal(index.search(queries, 10, allowed).rows, exact.search(queries, 10, allowed).rows)


def test_a_service_takes_it(tuned: Path) -> None:
    snapshot = index_generation(open_collection(tuned), "f" * 64)
    assert snapshot.search_images(unit(1, 3), 5, None).rows.shape == (1, 5)
    metrics = Metrics("1")
    describe_indexes(metrics, snapshot.generation.manifest)
    text = metrics.render().decode()
    assert 'sightline_index_plan_info{kind="image",plan="ivf-sq8"} 1.0' in text
    recall = next(
        line for line in text.splitlines() if line.startswith('sightline_index_recall{kind="image",queries="text"}')
    )
    assert float(recall.split()[-1]) >= 0.95
    assert 'sightline_index_curve_seconds{kind="image",queries="text",setting=' in text
    describe_indexes(metrics, open_collection(tuned, "gen-000001").manifest)
    text = metrics.render().decode()
    assert "ivf-sq8" not in text and "curve_recall{" not in text
    assert 'sightline_index_recall{kind="image",queries="text"} 1.0' in text


def test_memory_is_counted_by_plan(tuned: Path) -> None:
    generations = [open_collection(tuned, name) for name in ("gen-000001", "gen-000002")]
    exact, lists = (needed_bytes(g.directory, g.manifest) for g in generations)
    assert lists < exact


def test_damage_is_found_before_faiss_reads_it(photos: Path) -> None:
    optimise(photos, IndexOptions(plan="codes"))
    file = photos / "gen-000002" / "index" / "images.faiss"
    whole = file.read_bytes()
    generator = np.random.default_rng(0)
    for place in [*range(0, 64), *generator.integers(0, len(whole), 64).tolist(), len(whole) - 1]:
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(IndexUnusable, match="sightline index optimise"):
            open_index(open_collection(photos, verify=False), "images")
    file.write_bytes(whole[:-1])
    with pytest.raises(IndexUnusable, match="changed"):
        open_index(open_collection(photos), "images")
    file.unlink()
    with pytest.raises(IndexUnusable, match="missing"):
        open_index(open_collection(photos), "images")
    with pytest.raises(IndexUnusable, match="sightline index optimise"):
        verify_collection(photos)
    assert optimise(photos, IndexOptions(plan="codes")).generation == "gen-000003"  # as the sentence says
    verify_collection(photos)


def test_the_index_of_other_vectors_is_refused(tmp_path: Path, tuned: Path) -> None:
    generation = open_collection(tuned)
    index = dict(generation.manifest.index)
    index["images"] = {**index["images"], "plan": "who-knows"}
    with pytest.raises(ManifestInvalid, match="does not know"):
        record_of(index, "images")
    index["images"] = {"plan": "exact", "surprise": 1}
    with pytest.raises(ManifestInvalid, match="damaged"):
        record_of(index, "images")


def test_plans_for_a_gpu_work_without_one(photos: Path) -> None:
    optimise(photos, IndexOptions(plan="gpu-ivf"))
    optimise(photos, IndexOptions(plan="gpu-exact"))
    lists, exact = (open_index(open_collection(photos, name), "images") for name in ("gen-000002", "gen-000003"))
    assert not lists.capabilities.exact and exact.capabilities.exact
    query = unit(1, 4)
    allowed = np.arange(ROWS) % 7 == 0
    np.testing.assert_array_equal(lists.search(query, 5, allowed).rows, exact.search(query, 5, allowed).rows)


def test_a_gpu_without_room_leaves_it_to_the_cpu(tuned: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object) -> None:
        raise RuntimeError("out of memory")

    generation = open_collection(tuned)
    images = {**generation.manifest.index["images"], "plan": "gpu-ivf"}
    generation.manifest = generation.manifest.model_copy(update={"index": {"images": images}})
    monkeypatch.setattr("sightline.index.opening.has_faiss_gpu", lambda: True)
    monkeypatch.setattr("sightline.index.opening.GpuLists", refuse)
    assert type(open_index(generation, "images")) is ApproximateIndex


def test_lists_on_disk_are_mapped_and_answer_alike(photos: Path) -> None:
    assert record_of(optimise(photos, IndexOptions(plan="ivf-disk")).index, "images").plan == "ivf-disk"
    index, exact = (open_index(open_collection(photos, name), "images") for name in ("gen-000002", "gen-000001"))
    assert isinstance(index, ApproximateIndex)
    queries = unit(20, 8, 0.4)
    found, truth = index.search(queries, 10).rows.tolist(), exact.search(queries, 10).rows.tolist()
    assert np.mean([len(set(ours) & set(theirs)) for ours, theirs in zip(found, truth, strict=True)]) >= 9


def test_without_captions_pictures_are_the_queries_and_it_says_so(tmp_path: Path) -> None:
    path = collection(tmp_path / "photos", captions=False)
    said: list[str] = []
    manifest = optimise(path, IndexOptions(plan="ivf-sq8"), said.append)
    images = record_of(manifest.index, "images")
    assert (images.tuned_on, images.reason) == ("image", "asked for")
    assert "there are no others" in said[-1]
    assert record_of(manifest.index, "captions").plan == "exact"
    assert open_index(open_collection(path), "captions").num_rows == 0


def test_auto_stays_exact_where_exact_is_fast(photos: Path) -> None:
    said: list[str] = []
    manifest = optimise(photos, IndexOptions(), said.append)
    assert record_of(manifest.index, "images").plan == "exact"
    assert "fast enough" in record_of(manifest.index, "images").reason
    manifest = optimise(photos, IndexOptions(target_ms=20), said.append)
    assert "within the target" in record_of(manifest.index, "images").reason  # now it was measured
    assert not said and not (photos / "gen-000003" / "index").exists()


def test_bad_wishes_are_refused_and_leave_nothing(photos: Path) -> None:
    for options, words in (
        (IndexOptions(plan="magic"), "choose one of"),
        (IndexOptions(recall_target=1.5), "at most 1"),
    ):
        with pytest.raises(QueryError, match=words):
            optimise(photos, options)
    assert sorted(p.name for p in photos.iterdir()) == ["CURRENT", "gen-000001"]


def test_the_commands(tuned: Path) -> None:
    run = CliRunner()
    done = run.invoke(build_app(), ["index", "plan", "--count", "1000000", "--dim", "64", "--memory", "4GB", "--json"])
    assert done.exit_code == 0, done.output
    values = json.loads(done.stdout)
    assert values["machine"]["memory_bytes"] == 4 * 10**9
    assert values["chosen"] in {candidate["plan"] for candidate in values["candidates"]}
    done = run.invoke(build_app(), ["index", "plan", "--collection", str(tuned)])
    assert done.exit_code == 0 and "Choose exact" in done.stdout and "3,000 vectors of 32" in done.stdout
