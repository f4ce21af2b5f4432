"""What an export may never lose: activation (D5), offline loading (D6), preprocessing (D7)."""

from __future__ import annotations

import json
from pathlib import Path

import open_clip
import pytest
import torch
from open_clip.transformer import QuickGELU
from torch import nn

from sightline.bundle import CONFIG_NAME, WEIGHTS_NAME, read_manifest
from sightline.encoder import load_encoder, write_bundle
from sightline.encoder.checkpoint import load_checkpoint
from sightline.encoder.spec import parse_spec
from sightline.errors import BundleCorrupt, DependencyMissing, EncoderUnsuitable
from tests.training.towers import checkpoint_of, move, vectors_of
from training.adapters import LoraSettings, is_text_map
from training.adapters.lora import attach_lora
from training.adapters.text_map import attach_text_map
from training.export import ONNX_FOLDER, export_bundle, same_images_as
from training.export_settings import ExportSettings
from training.loop import Step
from training.recipe import Recipe

LAST = Step(step=1, epoch=0, stage="all", loss=1.0, learning_rate=0.0, gradient_norm=1.0, logit_scale=1.0, seconds=0.1)


def recipe(encoder: Path | None) -> Recipe:
    model = (
        {"encoder": str(encoder)}
        if encoder
        else {"embed_dim": 16, "vision": {"image_size": 32}, "text": {"context_length": 16}}
    )
    training = {"num_steps": 1, "batch_size": 2, "learning_rate": 1e-3}
    return Recipe.model_validate({"name": "one", "model": model, "training": training})


def test_quick_gelu_survives_the_export_and_its_loss_is_an_error(tmp_path: Path) -> None:
    checkpoint = checkpoint_of("vit")
    assert checkpoint.model_cfg["quick_gelu"]
    expected = vectors_of(checkpoint)
    export_bundle(checkpoint, tmp_path / "b", recipe=recipe(None), data_sha256="d", num_pictures=2, last=LAST)
    checkpoint.model = open_clip.create_model(f"local-dir:{tmp_path / 'b'}").eval()
    assert any(isinstance(module, QuickGELU) for module in checkpoint.model.modules())
    assert not any(type(module) is nn.GELU for module in checkpoint.model.modules())
    assert all(torch.equal(a, b) for a, b in zip(expected, vectors_of(checkpoint), strict=True))
    # The weights alone do not say it: open_clip builds plain GELU from a changed config without a word, we refuse.
    config = json.loads((tmp_path / "b" / CONFIG_NAME).read_text())
    config["model_cfg"]["quick_gelu"] = False
    (tmp_path / "b" / CONFIG_NAME).write_text(json.dumps(config))
    checkpoint.model = open_clip.create_model(f"local-dir:{tmp_path / 'b'}").eval()
    assert not torch.equal(expected[0], vectors_of(checkpoint)[0])
    with pytest.raises(BundleCorrupt, match="has changed since it was written"):
        load_encoder(str(tmp_path / "b"), device="cpu")


def test_weights_beside_a_config_with_another_activation_are_refused(tmp_path: Path) -> None:
    config = {"model_cfg": {"quick_gelu": True}, "preprocess_cfg": {}}
    (tmp_path / CONFIG_NAME).write_text(json.dumps(config))
    (tmp_path / WEIGHTS_NAME).write_bytes(b"")
    with pytest.raises(EncoderUnsuitable, match="disagree on QuickGELU"):
        load_checkpoint(parse_spec(f"ViT-B-32:{tmp_path / WEIGHTS_NAME}"))


def test_open_clips_own_export_needs_a_tokenizer_that_can_be_saved_and_ours_does_not(tmp_path: Path) -> None:
    from open_clip.push_to_hf_hub import save_for_hf

    checkpoint = checkpoint_of("vit")
    tokenizer = open_clip.SimpleTokenizer(context_length=16)
    with pytest.raises(AttributeError, match="save_pretrained"):
        save_for_hf(
            checkpoint.model, tokenizer=tokenizer, model_config=checkpoint.model_cfg, save_directory=tmp_path / "a"
        )
    write_bundle(checkpoint, tmp_path / "b")
    again = open_clip.get_tokenizer(f"local-dir:{tmp_path / 'b'}", context_length=16)
    assert torch.equal(again(["A red dog"]), tokenizer(["A red dog"]))


def test_the_preprocessing_travels_with_the_weights(tmp_path: Path) -> None:
    checkpoint = checkpoint_of("vit")
    write_bundle(checkpoint, tmp_path / "b")
    loaded = open_clip.create_model(f"local-dir:{tmp_path / 'b'}").visual.preprocess_cfg
    assert tuple(loaded["mean"]) == checkpoint.pixels.mean
    assert tuple(loaded["std"]) == checkpoint.pixels.std
    other = checkpoint_of("vit")
    other.pixels = checkpoint.pixels.__class__(32, 32, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    write_bundle(other, tmp_path / "other")
    assert read_manifest(tmp_path / "b").fingerprint != read_manifest(tmp_path / "other").fingerprint


def test_adapters_are_folded_in(tmp_path: Path) -> None:
    checkpoint = checkpoint_of("vit")
    attach_lora(checkpoint.model, LoraSettings(rank=2))
    move(list(checkpoint.model.parameters()))
    expected = vectors_of(checkpoint)
    export_bundle(checkpoint, tmp_path / "b", recipe=recipe(None), data_sha256="d", num_pictures=2, last=LAST)
    checkpoint.model = open_clip.create_model(f"local-dir:{tmp_path / 'b'}").eval()
    assert all(float((a - b).abs().max()) <= 1e-6 for a, b in zip(expected, vectors_of(checkpoint), strict=True))


def test_an_encoder_whose_images_stayed_names_all_that_share_them(tmp_path: Path) -> None:
    write_bundle(checkpoint_of("vit"), tmp_path / "base")
    named: list[tuple[str, ...] | None] = []
    for number, (before, after) in enumerate([("base", "mapped"), ("mapped", "again")]):
        checkpoint = load_checkpoint(parse_spec(str(tmp_path / before)))
        attach_text_map(checkpoint.model)
        move([p for name, p in checkpoint.model.named_parameters() if is_text_map(name)], seed=number)
        manifest = export_bundle(
            checkpoint, tmp_path / after, recipe=recipe(tmp_path / before), data_sha256="d", num_pictures=2, last=LAST
        )
        named.append(manifest.same_images_as)
    base, mapped = (read_manifest(tmp_path / name).fingerprint for name in ("base", "mapped"))
    assert named == [(base,), (mapped, base)]
    moved = load_checkpoint(parse_spec(str(tmp_path / "base")))
    move([moved.model.visual.proj])  # type: ignore[union-attr,list-item]
    assert same_images_as(moved, str(tmp_path / "base")) == ()
    assert same_images_as(moved, None) == ()
    other = load_checkpoint(parse_spec(str(tmp_path / "base")))
    other.pixels = other.pixels.__class__(32, 32, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    assert same_images_as(other, str(tmp_path / "base")) == ()


def test_onnx_can_be_part_of_the_bundle(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")
    pytest.importorskip("onnxscript", reason="the extra onnx is not installed")
    settings = ExportSettings(onnx=True)
    settings.require()
    manifest = export_bundle(
        checkpoint_of("vit"),
        tmp_path / "b",
        recipe=recipe(None),
        data_sha256="d",
        num_pictures=2,
        last=LAST,
        settings=settings,
    )
    assert {f"{ONNX_FOLDER}/image.onnx", f"{ONNX_FOLDER}/text.onnx", f"{ONNX_FOLDER}/onnx.json"} <= set(manifest.files)
    about = json.loads((tmp_path / "b" / ONNX_FOLDER / "onnx.json").read_text())
    assert about["fingerprint"] == manifest.fingerprint


def test_a_missing_extra_is_said_before_training(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.onnx_export.find_spec", lambda name: None)
    ExportSettings().require()
    with pytest.raises(DependencyMissing, match="ONNX export needs onnx, onnxruntime, onnxscript"):
        ExportSettings(onnx=True).require()
