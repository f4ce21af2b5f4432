"""A map on text vectors is trained, and its base's collection is taken over with every picture's vector as it was."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from sightline.collection import open_collection
from tests.e2e.running import command
from tests.pictures import encoded, textured

RECIPE = """
name = "mapped"

[model]
encoder = "{base}"

[data.negatives]
per_image = 1
kinds = ["attributes", "relations", "colours"]

[adapters]
text_map = true

[training]
num_steps = 4
batch_size = 8
learning_rate = 0.05
cache_features = true
precision = "fp32"
"""


def test_a_collection_is_taken_over_without_encoding_a_picture(tiny_bundle: Path, tmp_path: Path) -> None:
    pictures, photos, mapped = tmp_path / "pictures", tmp_path / "photos", tmp_path / "mapped"
    pictures.mkdir()
    for number in range(12):
        (pictures / f"{number:02d}.png").write_bytes(encoded(textured((40, 30), number)))
        (pictures / f"{number:02d}.txt").write_text(f"a red ball {number} left of a blue cube")
    build = ("--source", pictures, "--near-duplicates", "off", "--precision", "fp32", "--json")
    assert command("index", "build", "--encoder", tiny_bundle, "--out", photos, *build).code == 0
    before = open_collection(photos)

    (tmp_path / "mapped.toml").write_text(RECIPE.format(base=tiny_bundle))
    trained = command("train", tmp_path / "mapped.toml", "--data", pictures, "--out", mapped, "--json")
    assert trained.code == 0, trained.err
    assert [stage["num_trained"] for stage in trained.json["stages"]] == [32 * 32]

    refused = command("search", "--collection", photos, "--encoder", mapped, "a ball", "--json")
    assert refused.code == 78
    taken = command("index", "sync", "--collection", photos, "--encoder", mapped, *build)
    assert taken.code == 0, taken.err
    assert taken.json["changes"] == {
        **dict.fromkeys(("added", "deleted", "changed", "renamed", "described"), 0), "unchanged": 12
    }  # fmt: skip
    after = open_collection(photos)
    assert after.manifest.encoder.fingerprint == trained.json["fingerprint"]
    assert np.array_equal(after.image_vectors(), before.image_vectors())
    assert np.abs(after.caption_vectors().astype(np.float32) - before.caption_vectors()).max() > 0.01
    found = command(
        "search", "--collection", photos, "a red ball 3 left of a blue cube", "--captions", "-k", "1", "--json"
    )
    assert found.json["results"][0]["caption"] == "a red ball 3 left of a blue cube"
