"""Our vectors equal open_clip's own, on real photos, for three kinds of architecture.

The fast suite takes a handful of photos; `pytest -m 'slow and realdata' tests/contract -s` takes all 888, in minutes.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import open_clip
import pytest
import torch
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image

from sightline.encoder import Encoder, load_encoder
from sightline.encoder.checkpoint import load_checkpoint
from sightline.encoder.load import wrap_checkpoint
from sightline.encoder.precision import has_bf16_matrix_units
from sightline.encoder.spec import parse_spec
from sightline.images import ImageLimits, decode_image
from sightline.sources import Record, open_source

ARCHITECTURES = ["ViT-B-32", "RN50", "ViT-B-32-SigLIP2-256"]
BATCH = 32


@pytest.fixture(scope="module", params=ARCHITECTURES)
def architecture(request: pytest.FixtureRequest) -> Iterator[tuple[str, Encoder]]:
    """An untrained model of each kind, fp32 on the CPU."""
    yield request.param, load_encoder(f"{request.param}:random", device="cpu", precision="fp32")


def photos(real_data: Path, count: int) -> list[Record]:
    entries = open_source(str(real_data / "photos" / "photos-0000.tar"))
    return [entry for entry, _ in zip(entries, range(count), strict=False) if isinstance(entry, Record)]


def reference(encoder: Encoder, images: list[Image.Image]) -> npt.NDArray[np.float32]:
    """Vectors by open_clip alone: its transform, its model, its normalisation."""
    model = encoder.checkpoint.model
    config = PreprocessCfg(**model.visual.preprocess_cfg)  # type: ignore[union-attr,arg-type]
    transform = image_transform_v2(config, is_train=False)
    with torch.inference_mode():
        vectors = model.encode_image(torch.stack([transform(image) for image in images]), normalize=True)  # type: ignore[operator]
    return vectors.numpy()  # type: ignore[no-any-return]


def worst_cosines(encoder: Encoder, low: Encoder | None, records: list[Record]) -> tuple[float, float, float]:
    """The lowest cosine to open_clip in fp32 and in bf16; the largest difference of a vector alone and in a batch."""
    exact, rough, apart = 1.0, 1.0, 0.0
    for start in range(0, len(records), BATCH):
        data = [record.image for record in records[start : start + BATCH]]
        expected = reference(encoder, [Image.open(io.BytesIO(encoded)) for encoded in data])
        pixels = np.stack([encoder.preprocess(decode_image(encoded, ImageLimits())) for encoded in data])
        ours = encoder.encode_pixels(pixels)
        exact = min(exact, float((ours * expected).sum(1).min()))
        apart = max(apart, float(np.abs(encoder.encode_pixels(pixels[:1]) - ours[:1]).max()))
        if low is not None:
            rough = min(rough, float((low.encode_pixels(pixels) * expected).sum(1).min()))
    return exact, rough, apart


def check(name: str, encoder: Encoder, records: list[Record]) -> None:
    low = None
    if has_bf16_matrix_units():
        low = wrap_checkpoint(load_checkpoint(parse_spec(f"{name}:random")), device="cpu", precision="bf16")
        assert low.identity.precision in ("bf16", "bf16 image tower")
    exact, rough, apart = worst_cosines(encoder, low, records)
    print(f"{name}: {len(records)} photos, fp32 {exact:.6f}, bf16 {rough:.6f}, alone/batch {apart:.1e}")  # noqa: T201
    assert exact >= 0.9999
    assert rough >= 0.999
    assert apart <= 1e-5


@pytest.mark.realdata
def test_photos_give_open_clips_vectors(architecture: tuple[str, Encoder], real_data: Path) -> None:
    check(*architecture, photos(real_data, 8))


@pytest.mark.slow
@pytest.mark.realdata
@pytest.mark.timeout(1800)
def test_all_photos_give_open_clips_vectors(architecture: tuple[str, Encoder], real_data: Path) -> None:
    records = photos(real_data, 888)
    assert len(records) == 888
    check(*architecture, records)


@pytest.mark.realdata
def test_texts_give_open_clips_vectors(architecture: tuple[str, Encoder], real_data: Path) -> None:
    name, encoder = architecture
    model = encoder.checkpoint.model
    if encoder.identity.texts.tokenizer == "clip-bpe":
        captions = [caption for record in photos(real_data, 8) for caption in record.captions]
        tokens = encoder.tokenize(captions)
        np.testing.assert_array_equal(tokens, open_clip.get_tokenizer(name)(captions).numpy())
    else:  # its tokenizer comes from a hub: compare from token ids on
        shape = (8, encoder.identity.texts.context_length)
        tokens = np.random.default_rng(0).integers(1, 30_000, shape)
    with torch.inference_mode():
        expected = model.encode_text(torch.from_numpy(tokens), normalize=True).numpy()  # type: ignore[operator]
    ours = encoder.encode_tokens(tokens)
    assert (ours * expected).sum(1).min() >= 0.9999
    np.testing.assert_allclose(ours, expected, atol=1e-5)
    np.testing.assert_allclose(encoder.encode_tokens(tokens[3:4]), ours[3:4], atol=1e-5)
