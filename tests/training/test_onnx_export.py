from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sightline.command.root import main
from sightline.encoder.load import wrap_checkpoint
from sightline.errors import BundleCorrupt, DependencyMissing
from tests.training.towers import checkpoint_of
from training import onnx_export
from training.onnx_export import ABOUT_NAME, IMAGE_NAME, MAX_DIFFERENCE, TEXT_NAME, export_onnx

onnxruntime: Any = pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")
pytest.importorskip("onnxscript", reason="the extra onnx is not installed")


@pytest.mark.parametrize("kind", ["vit", "sigmoid"])
def test_both_graphs_give_the_encoders_vectors(kind: str, tmp_path: Path) -> None:
    checkpoint = checkpoint_of(kind)
    about = export_onnx(checkpoint, tmp_path / "onnx")
    assert sorted(file.name for file in (tmp_path / "onnx").iterdir()) == sorted([ABOUT_NAME, IMAGE_NAME, TEXT_NAME])
    assert json.loads((tmp_path / "onnx" / ABOUT_NAME).read_text()) == about
    assert max(about["max_difference"].values()) <= MAX_DIFFERENCE
    encoder = wrap_checkpoint(checkpoint, device="cpu", precision="fp32")
    assert about["fingerprint"] == encoder.fingerprint
    pixels = np.random.default_rng(7).integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)
    tokens = encoder.tokenize(["one", "a red circle", "two dogs on a long beach", "!", "a b c d e f g"])
    for name, key, values, expected in (
        (IMAGE_NAME, "pixels", pixels, encoder.encode_pixels(pixels)),
        (TEXT_NAME, "tokens", tokens, encoder.encode_tokens(tokens)),
    ):
        session = onnxruntime.InferenceSession(str(tmp_path / "onnx" / name), providers=["CPUExecutionProvider"])
        for count in (1, 5):
            found = session.run(["vectors"], {key: values[:count]})[0]
            assert found.dtype == np.float32
            assert np.abs(found - expected[:count]).max() <= MAX_DIFFERENCE


def test_the_command_exports_any_encoder(tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["encoder", "onnx", str(tiny_bundle), "--out", str(tmp_path / "onnx"), "--json"])
    assert not ended.value.code
    said = json.loads(capsys.readouterr().out)
    assert said == {"out": str(tmp_path / "onnx"), **json.loads((tmp_path / "onnx" / ABOUT_NAME).read_text())}


def test_a_graph_with_other_vectors_is_not_published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ordinary = onnx_export._run
    monkeypatch.setattr(onnx_export, "_run", lambda *given: ordinary(*given) + 0.001)
    with pytest.raises(BundleCorrupt, match=r"image\.onnx gives other vectors than the encoder"):
        export_onnx(checkpoint_of("vit"), tmp_path / "onnx")
    assert not (tmp_path / "onnx").exists()


def test_what_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ordinary = importlib.util.find_spec
    monkeypatch.setattr(
        onnx_export, "find_spec", lambda name: None if name in ("onnx", "onnxscript") else ordinary(name)
    )
    with pytest.raises(DependencyMissing, match=r"needs onnx, onnxscript; run: pip install sightline\[onnx\]"):
        export_onnx(checkpoint_of("vit"), tmp_path / "onnx")
    assert not (tmp_path / "onnx").exists()
