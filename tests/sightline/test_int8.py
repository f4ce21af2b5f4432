"""An encoder in int8 is another encoder: near the original, with a name and a fingerprint of its own."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest

from sightline.bundle import read_manifest, verify_bundle
from sightline.encoder import load_encoder
from sightline.encoder.export import write_int8_bundle
from sightline.encoder.int8 import IR_NAME
from sightline.errors import BundleCorrupt, DependencyMissing, EncoderUnsuitable
from sightline.images import Pixels
from tests.pictures import textured
from tests.tiny import tiny_checkpoint

pytest.importorskip("openvino")


def pictures(first: int, number: int) -> Pixels:
    return np.stack([np.asarray(textured((32, 32), seed)) for seed in range(first, first + number)])


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("int8") / "bundle"
    write_int8_bundle(tiny_checkpoint(), out, pictures(0, 24), pictures(100, 8), min_cosine=0.9)
    return out


def test_its_vectors_are_near_the_originals_and_its_fingerprint_is_not(bundle: Path, tiny_bundle: Path) -> None:
    encoder = load_encoder(str(bundle), device="cpu")
    original = load_encoder(str(tiny_bundle), device="cpu", precision="fp32")
    pixels = pictures(200, 6)
    cosines = (encoder.encode_pixels(pixels) * original.encode_pixels(pixels)).sum(axis=1)
    assert 0.9 < cosines.min() < 1.0 - 1e-6
    assert encoder.fingerprint != original.fingerprint
    assert encoder.fingerprint == verify_bundle(bundle).fingerprint
    assert read_manifest(bundle).provenance["original_fingerprint"] == original.fingerprint
    assert encoder.identity.precision == "int8 image tower"
    np.testing.assert_array_equal(encoder.encode_texts(["a dog"]), original.encode_texts(["a dog"]))


def test_a_vector_does_not_depend_on_its_batch_or_thread(bundle: Path) -> None:
    encoder = load_encoder(str(bundle), device="cpu")
    pixels = pictures(300, 8)
    together = encoder.encode_pixels(pixels)
    found: dict[int, Pixels] = {}

    def alone(row: int) -> None:
        found[row] = encoder.encode_pixels(pixels[row : row + 1])[0]

    threads = [threading.Thread(target=alone, args=(row,)) for row in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    np.testing.assert_allclose(np.stack([found[row] for row in range(8)]), together, atol=1e-2)


def test_a_changed_tower_is_refused(bundle: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in bundle.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    weights = (copy / IR_NAME).with_suffix(".bin")
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x00")
    with pytest.raises(BundleCorrupt, match=weights.name):
        load_encoder(str(copy), device="cpu")


def test_what_is_too_far_from_the_original_is_not_written(tmp_path: Path) -> None:
    out = tmp_path / "bundle"
    with pytest.raises(EncoderUnsuitable, match="mean cosine"):
        write_int8_bundle(tiny_checkpoint(), out, pictures(0, 4), pictures(100, 8), min_cosine=1.0)
    with pytest.raises(EncoderUnsuitable, match="at least 8"):
        write_int8_bundle(tiny_checkpoint(), out, pictures(0, 4), pictures(100, 2), min_cosine=0.9)
    assert list(tmp_path.iterdir()) == []


def test_without_openvino_the_sentence_says_what_to_install(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "openvino", None)
    with pytest.raises(DependencyMissing, match=r"sightline\[int8\]"):
        load_encoder(str(bundle), device="cpu")
