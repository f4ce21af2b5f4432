from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from indexer.build import BuildOptions, BuildReport, build_collection
from sightline.collection import open_collection, verify_collection
from sightline.encoder import Encoder
from sightline.errors import EncodingFailed, SourceError
from sightline.images import ImageLimits, decode_image
from sightline.sources import open_source
from tests.pictures import encoded, flat, textured


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Five good pictures, two of them the same file, and one of each way to fail."""
    folder = tmp_path / "pictures"
    (folder / "sub").mkdir(parents=True)
    for number in range(4):
        (folder / f"{number}.jpg").write_bytes(encoded(textured((90, 60), number), "JPEG"))
        (folder / f"{number}.txt").write_text(f"picture {number}\nanother caption of {number}\n" + "x" * 3000)
    (folder / "sub" / "again.jpg").write_bytes((folder / "2.jpg").read_bytes())
    (folder / "sub" / "again.txt").write_text("the same once more")
    (folder / "png-called.jpg").write_bytes(flat("blue"))
    (folder / "cut.jpg").write_bytes(encoded(textured((90, 60)), "JPEG")[:400])
    (folder / "empty.png").write_bytes(b"")
    (folder / "words.jpg").write_text("no picture")
    (folder / "strip.png").write_bytes(flat("red", (1, 4000)))
    (folder / "scan.tiff").write_bytes(b"II*\0")
    return folder


def build(encoder: Encoder, source: Path, out: Path, **options: object) -> BuildReport:
    return build_collection(
        encoder,
        "tiny",
        open_source(str(source)),
        "pictures",
        out,
        BuildOptions(**options),  # type: ignore[arg-type]
    )


def test_counts_add_up_and_every_input_has_its_reason(tiny_encoder: Encoder, source: Path, tmp_path: Path) -> None:
    seen: list[int] = []
    out = tmp_path / "out"
    report = build_collection(
        tiny_encoder, "tiny", open_source(str(source)), "pictures", out, BuildOptions(batch_size=2), seen.append
    )
    counts = report.manifest.counts
    assert (counts.seen, counts.indexed, counts.duplicates, counts.skipped, counts.failed) == (11, 5, 1, 1, 4)
    assert sum(seen) == 11 == open_source(str(source)).num_inputs
    assert (counts.captions_seen, counts.captions_indexed, counts.captions_skipped) == (13, 13, 0)
    assert counts.reasons == {
        "image_corrupt": 2, "image_format": 1, "image_too_large": 1, "same_bytes": 1,
        "unsupported_format": 1,
    }  # fmt: skip
    ledger = [json.loads(line) for line in (out / "gen-000001" / "ledger.jsonl").read_text().splitlines()]
    assert {entry["uri"]: entry["reason"] for entry in ledger} == {
        "cut.jpg": "image_corrupt", "empty.png": "image_corrupt", "words.jpg": "image_format",
        "strip.png": "image_too_large", "scan.tiff": "unsupported_format", "sub/again.jpg": "same_bytes",
    }  # fmt: skip
    verify_collection(out)


def test_vectors_and_captions_are_those_of_the_encoder(tiny_encoder: Encoder, source: Path, tmp_path: Path) -> None:
    build(tiny_encoder, source, tmp_path / "out", batch_size=3)
    generation = open_collection(tmp_path / "out")
    by_uri = {generation.item(row).uri: row for row in range(generation.num_items)}
    picture = decode_image((source / "2.jpg").read_bytes(), ImageLimits())
    expected = tiny_encoder.encode_images([picture])[0]
    np.testing.assert_allclose(generation.image_vectors()[by_uri["2.jpg"]], expected, atol=1e-3)
    row = [generation.caption(j) for j in range(generation.num_captions)].index(("picture 2", by_uri["2.jpg"]))
    np.testing.assert_allclose(
        generation.caption_vectors()[row], tiny_encoder.encode_texts(["picture 2"])[0], atol=1e-3
    )
    item = generation.item(by_uri["2.jpg"])
    assert (item.width_px, item.height_px, len(item.captions)) == (90, 60, 4)
    assert item.captions[-1] == "the same once more", "what a later copy says is kept with the first"
    assert generation.thumbnail(by_uri["2.jpg"]) is not None


def test_the_result_does_not_depend_on_batch_size(tiny_encoder: Encoder, source: Path, tmp_path: Path) -> None:
    generations = []
    for size in (1, 3, 64):
        build(tiny_encoder, source, tmp_path / str(size), batch_size=size)
        generations.append(open_collection(tmp_path / str(size)))
    first = generations[0]
    for other in generations[1:]:
        ids = [[generation.item(row).item_id for row in range(5)] for generation in (first, other)]
        assert ids[0] == ids[1]
        np.testing.assert_allclose(first.image_vectors(), other.image_vectors(), atol=1e-3)


def test_the_manifest_names_the_encoder_and_its_recall(tiny_encoder: Encoder, source: Path, tmp_path: Path) -> None:
    manifest = build(tiny_encoder, source, tmp_path / "out").manifest
    assert manifest.encoder.fingerprint == tiny_encoder.fingerprint
    assert manifest.encoder.spec == "tiny"
    assert manifest.index["recall_at_10"]["text_queries"] == 1.0
    assert manifest.index["recall_at_10"]["image_queries"] == 1.0


def test_nothing_usable_publishes_nothing(tiny_encoder: Encoder, tmp_path: Path) -> None:
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "a.jpg").write_bytes(b"junk")
    with pytest.raises(SourceError, match="image_format 1"):
        build(tiny_encoder, tmp_path / "bad", tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_too_many_failures_are_reported_after_the_good_ones_are_safe(tiny_encoder: Encoder, tmp_path: Path) -> None:
    folder = tmp_path / "half"
    folder.mkdir()
    for number in range(60):
        (folder / f"{number:03d}-good.png").write_bytes(encoded(textured((20, 20), number)))
        (folder / f"{number:03d}-bad.png").write_bytes(b"junk")
    report = build(tiny_encoder, folder, tmp_path / "out", max_error_rate=0.4)
    assert report.failure is not None
    assert "60 of 120" in report.failure.message
    assert open_collection(tmp_path / "out").num_items == 60
    assert build(tiny_encoder, folder, tmp_path / "out", max_error_rate=0.5).failure is None


def test_an_encoder_that_fails_leaves_the_last_generation(
    tiny_encoder: Encoder, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build(tiny_encoder, source, tmp_path / "out")

    def fail(pixels: object) -> None:
        raise EncodingFailed("broken")

    monkeypatch.setattr(tiny_encoder, "encode_pixels", fail)
    with pytest.raises(EncodingFailed):
        build(tiny_encoder, source, tmp_path / "out")
    assert open_collection(tmp_path / "out").generation == "gen-000001"
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["CURRENT", "building", "gen-000001"]
    monkeypatch.undo()
    build(tiny_encoder, source, tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["CURRENT", "gen-000001", "gen-000002"]
