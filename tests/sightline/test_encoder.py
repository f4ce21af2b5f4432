from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image

from sightline.bundle import MANIFEST_NAME, WEIGHTS_NAME, read_manifest, verify_bundle
from sightline.encoder import Encoder, load_encoder, write_bundle
from sightline.encoder.checkpoint import load_checkpoint
from sightline.encoder.load import wrap_checkpoint
from sightline.encoder.precision import bf16_copy, has_bf16_matrix_units, probe_images
from sightline.encoder.spec import parse_spec
from sightline.encoder.text_tower import encode_tokens, trimmable
from sightline.errors import (
    BundleCorrupt,
    EncoderUnknown,
    EncoderUnsuitable,
    EncodingFailed,
    HubUnreachable,
    LicenceRefused,
)
from tests.pictures import textured
from tests.tiny import tiny_checkpoint

TEXTS = ["a dog", "Two people walk along the beach at sunset, holding hands", "x", "RED circle!"]


def test_vectors_have_unit_length_and_the_promised_shape(tiny_encoder: Encoder) -> None:
    images = tiny_encoder.encode_images([textured((60, 40), seed) for seed in range(3)])
    texts = tiny_encoder.encode_texts(TEXTS)
    assert images.shape == (3, 32)
    assert texts.shape == (4, 32)
    assert images.dtype == texts.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(np.concatenate([images, texts]), axis=1), 1, atol=1e-6)


def test_a_vector_does_not_depend_on_its_batch(tiny_encoder: Encoder) -> None:
    pixels = np.stack([tiny_encoder.preprocess(textured((60, 40), seed)) for seed in range(40)])
    together = tiny_encoder.encode_pixels(pixels)
    alone = np.concatenate([tiny_encoder.encode_pixels(pixels[i : i + 1]) for i in range(40)])
    np.testing.assert_allclose(together, alone, atol=1e-5)
    many = [f"{word} " * (1 + i % 9) for i, word in enumerate(TEXTS * 20)]
    together = tiny_encoder.encode_texts(many)
    alone = np.concatenate([tiny_encoder.encode_texts([text]) for text in many])
    np.testing.assert_allclose(together, alone, atol=1e-5)


def test_vectors_equal_open_clip(tiny_bundle: Path, tiny_encoder: Encoder) -> None:
    model, _, transform = open_clip.create_model_and_transforms(f"local-dir:{tiny_bundle}")
    tokenizer = open_clip.get_tokenizer(f"local-dir:{tiny_bundle}")
    images = [textured((64, 48), seed) for seed in range(3)]
    with torch.inference_mode():
        expected_images = model.encode_image(torch.stack([transform(image) for image in images]), normalize=True)
        expected_texts = model.encode_text(tokenizer(TEXTS), normalize=True)
    assert (expected_images.numpy() * tiny_encoder.encode_images(images)).sum(1).min() > 0.9999
    np.testing.assert_allclose(expected_texts.numpy(), tiny_encoder.encode_texts(TEXTS), atol=1e-5)


@pytest.mark.parametrize(
    ("cfg", "expected"),
    [
        ({}, True),
        ({"no_causal_mask": True}, False),
        ({"pool_type": "last", "no_causal_mask": True}, False),
        ({"embed_cls": True, "pad_id": 0}, False),
    ],
)
def test_text_is_trimmed_only_where_that_is_exact(cfg: dict[str, object], expected: bool) -> None:
    text_cfg = {"context_length": 24, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2, **cfg}
    vision_cfg = {"image_size": 32, "layers": 1, "width": 32, "head_width": 32, "patch_size": 16}
    model = open_clip.CustomTextCLIP(32, vision_cfg, text_cfg).eval()
    tokens = open_clip.get_tokenizer("ViT-B-32", context_length=24)(TEXTS)
    assert trimmable(model) is expected
    with torch.inference_mode():
        torch.testing.assert_close(encode_tokens(model, tokens), model.encode_text(tokens), atol=1e-5, rtol=1e-5)


def test_a_bundle_keeps_the_fingerprint_and_every_value(tiny_bundle: Path, tiny_encoder: Encoder) -> None:
    original = wrap_checkpoint(tiny_checkpoint(), device="cpu", precision="fp32")
    manifest = verify_bundle(tiny_bundle)
    assert manifest.fingerprint == original.fingerprint == tiny_encoder.fingerprint
    assert manifest.score_scale.kind == "softmax"
    assert manifest.score_scale.scale == pytest.approx(1 / 0.07, rel=1e-5)
    np.testing.assert_array_equal(original.encode_texts(TEXTS), tiny_encoder.encode_texts(TEXTS))


@pytest.mark.parametrize("what", ["weights", "mean", "activation"])
def test_the_fingerprint_changes_with_whatever_changes_a_vector(tiny_encoder: Encoder, what: str) -> None:
    checkpoint = tiny_checkpoint(seed=1 if what == "weights" else 0)
    if what == "mean":
        checkpoint.pixels = tiny_encoder.identity.pixels.__class__(32, 32, (0.5, 0.5, 0.5), (0.27, 0.26, 0.28))
    if what == "activation":
        checkpoint.model_cfg = {**checkpoint.model_cfg, "quick_gelu": True}
    assert wrap_checkpoint(checkpoint, precision="fp32").fingerprint != tiny_encoder.fingerprint


def test_a_changed_byte_is_found(tiny_bundle: Path, tmp_path: Path) -> None:
    for name in (WEIGHTS_NAME, "open_clip_config.json"):
        copy = tmp_path / name
        shutil.copytree(tiny_bundle, copy)
        data = bytearray((copy / name).read_bytes())
        data[len(data) // 2] ^= 1
        (copy / name).write_bytes(data)
        with pytest.raises(BundleCorrupt, match=name):
            load_encoder(str(copy))


def test_a_missing_file_and_a_damaged_manifest_are_found(tiny_bundle: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(tiny_bundle, copy)
    (copy / WEIGHTS_NAME).unlink()
    with pytest.raises(BundleCorrupt, match="missing"):
        load_encoder(str(copy))
    (copy / MANIFEST_NAME).write_text("{}")
    with pytest.raises(BundleCorrupt, match="damaged"):
        read_manifest(copy)
    with pytest.raises(EncoderUnknown, match="not an encoder bundle"):
        load_encoder(str(tmp_path))


def test_an_export_never_leaves_a_part(tmp_path: Path) -> None:
    checkpoint = tiny_checkpoint()
    checkpoint.pixels = checkpoint.pixels.__class__(64, 64, (0, 0, 0), (1, 1, 1))  # not what the model takes
    with pytest.raises(Exception):  # noqa: B017 - whatever it is, nothing may be left behind
        write_bundle(checkpoint, tmp_path / "bundle")
    assert list(tmp_path.iterdir()) == []


def test_weights_from_a_file_load_and_misfits_are_errors(tiny_bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(EncoderUnsuitable, match="do not fit"):
        load_encoder(f"ViT-S-32-alt:{tiny_bundle / WEIGHTS_NAME}")
    with pytest.raises(EncoderUnknown, match="safetensors"):
        parse_spec(f"ViT-B-32:{tmp_path}/weights.pt")
    with pytest.raises(EncoderUnknown, match="no weights"):
        parse_spec(f"ViT-B-32:{tmp_path}/weights.safetensors")


def test_weights_of_an_architecture_with_two_preprocessings_need_a_config(tmp_path: Path) -> None:
    weights = tmp_path / "weights.safetensors"
    weights.write_bytes(b"")
    with pytest.raises(EncoderUnsuitable, match=r"open_clip_config\.json"):
        load_checkpoint(parse_spec(f"ViT-L-14:{weights}"))
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": {"quick_gelu": True}}))
    with pytest.raises(EncoderUnsuitable, match="QuickGELU"):
        load_checkpoint(parse_spec(f"ViT-B-32:{weights}"))


@pytest.mark.parametrize(
    ("spec", "error", "words"),
    [
        ("nonsense", EncoderUnknown, "MODEL:TAG"),
        ("", EncoderUnknown, "MODEL:TAG"),
        ("ViT-B-33:random", EncoderUnknown, "did you mean"),
        ("ViT-B-32:no-such-tag", EncoderUnknown, "laion2b_s34b_b79k"),
        ("ViT-B-32:openai", EncoderUnsuitable, "ViT-B-32-quickgelu:openai"),
        ("ViT-B-32-quickgelu:laion2b_s34b_b79k", EncoderUnknown, "tags are"),
        ("ViT-B-16-quickgelu:dfn2b", LicenceRefused, "--accept-licence apple-amlr"),
    ],
)
def test_unusable_specs_say_what_to_do(spec: str, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        load_encoder(spec)


def test_a_hub_out_of_reach_names_the_way_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("sightline.encoder.hub.constants.ENDPOINT", "http://127.0.0.1:9")  # nothing listens there
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(HubUnreachable, match="sightline encoder pull ViT-B-32-SigLIP2-256:webli --out BUNDLE"):
        load_encoder("ViT-B-32-SigLIP2-256:webli")


def test_values_that_are_not_numbers_are_an_error() -> None:
    checkpoint = tiny_checkpoint()
    checkpoint.model.visual.proj.fill_(float("nan"))  # type: ignore[union-attr,operator]
    encoder = wrap_checkpoint(checkpoint, device="cpu", precision="fp32")
    with pytest.raises(EncodingFailed):
        encoder.encode_images([Image.new("RGB", (32, 32))])


def test_bf16_needs_size_and_parity(tmp_path: Path) -> None:
    small: torch.nn.Module = tiny_checkpoint().model.visual  # type: ignore[assignment]
    assert bf16_copy(small, probe_images(32, 32)) is None
    with pytest.raises(EncoderUnsuitable, match="bf16"):
        wrap_checkpoint(tiny_checkpoint(), device="cpu", precision="bf16")

    class Chaotic(torch.nn.Module):
        """Amplifies rounding: no parity in bf16."""

        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(21_000_000))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.sin(x.flatten(1)[:, :64] * 1e4 * self.weight[:64])

    assert bf16_copy(Chaotic(), probe_images(32, 32)) is None
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("flags : fpu amx_bf16")
    assert has_bf16_matrix_units(cpuinfo)
    cpuinfo.write_text("flags : fpu sse2")
    assert not has_bf16_matrix_units(cpuinfo)
    assert not has_bf16_matrix_units(tmp_path / "missing")


def test_the_tokenizer_does_not_remember_words_for_ever(tiny_encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sightline.encoder.runtime._MAX_CACHED_WORDS", 50)
    for start in range(0, 200, 20):
        tiny_encoder.tokenize([f"word{number}" for number in range(start, start + 20)])
    cache = tiny_encoder._tokenizer.cache  # type: ignore[union-attr]
    assert len(cache) <= 50 + 2 * 20 + 2
