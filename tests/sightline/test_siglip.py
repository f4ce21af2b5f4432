"""SigLIP-type checkpoints: their own tokenizer, canonical lower-case text padded to the full context, a sigmoid."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import PreTrainedTokenizerFast

from sightline.bundle import verify_bundle
from sightline.encoder import Encoder, load_encoder, write_bundle
from sightline.encoder.checkpoint import Checkpoint, describe_texts
from sightline.images import PixelSpec

CFG: dict[str, Any] = {
    "embed_dim": 32,
    "init_logit_bias": -10,
    "custom_text": True,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 16},
    "text_cfg": {
        "context_length": 16, "vocab_size": 8, "width": 32, "heads": 2, "layers": 1, "no_causal_mask": True,
        "proj_bias": True, "pool_type": "last", "norm_kwargs": {"eps": 1e-6}, "hf_tokenizer_name": "somebody/words",
        "tokenizer_kwargs": {"clean": "canonicalize"},
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small SigLIP with a tokenizer in files, as a pulled checkpoint has, exported as a bundle."""
    hub = tmp_path_factory.mktemp("hub")
    words = Tokenizer(WordLevel({"<pad>": 0, "<unk>": 1, "a": 2, "dog": 3, "beach": 4, "the": 5}, unk_token="<unk>"))
    words.pre_tokenizer = Whitespace()
    fast: Any = PreTrainedTokenizerFast
    fast(tokenizer_object=words, pad_token="<pad>", unk_token="<unk>").save_pretrained(str(hub))
    (hub / "open_clip_config.json").write_text(json.dumps({"model_cfg": CFG}))
    architecture = {key: value for key, value in CFG.items() if key != "custom_text"}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = open_clip.CustomTextCLIP(**architecture)
    checkpoint = Checkpoint(
        name="small-siglip",
        model=model.eval().requires_grad_(False),
        model_cfg=CFG,
        pixels=PixelSpec(32, 32, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), "bicubic", "squash"),
        texts=describe_texts(CFG),
        licence="apache-2.0",
        tokenizer_source=f"local-dir:{hub}",
    )
    out = tmp_path_factory.mktemp("bundles") / "small-siglip"
    write_bundle(checkpoint, out)
    return out


@pytest.fixture(scope="module")
def encoder(bundle: Path) -> Encoder:
    return load_encoder(str(bundle), device="cpu", precision="fp32")


def test_the_bundle_carries_the_tokenizer_and_the_sigmoid(bundle: Path) -> None:
    manifest = verify_bundle(bundle)
    assert "tokenizer.json" in manifest.files
    assert manifest.score_scale.kind == "sigmoid"
    assert manifest.score_scale.bias == -10
    assert (manifest.texts.padding, manifest.texts.clean) == ("max_length", "canonicalize")
    assert manifest.pixels.resize_mode == "squash"


def test_text_is_canonical_lower_case_and_padded_to_the_context(encoder: Encoder) -> None:
    tokens = encoder.tokenize(["A Dog!", "the beach, a dog"])
    assert tokens.tolist() == [[2, 3] + [0] * 14, [5, 4, 2, 3] + [0] * 12]
    vectors = encoder.encode_texts(["A Dog!", "a dog"])
    np.testing.assert_array_equal(vectors[0], vectors[1])


def test_padding_is_read_so_nothing_is_trimmed(encoder: Encoder) -> None:
    tokens = encoder.tokenize(["a dog"])
    with torch.inference_mode():
        expected = encoder.checkpoint.model.encode_text(torch.from_numpy(tokens), normalize=True)  # type: ignore[operator]
        cut = encoder.checkpoint.model.encode_text(torch.from_numpy(tokens[:, :2]), normalize=True)  # type: ignore[operator]
    np.testing.assert_allclose(encoder.encode_tokens(tokens), expected.numpy(), atol=1e-6)
    assert np.abs(cut.numpy() - expected.numpy()).max() > 1e-3
