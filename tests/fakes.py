"""Fakes that keep the promises of the real things, without weights.

``FakeEncoder`` maps a colour word and a flat picture of that colour to the same vector, so that a test may say
"searching for red finds the red picture" and mean it.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

from sightline.bundle import ScoreScale
from sightline.collection import Counts, EncoderRecord, Generation, GenerationWriter, NewItem, open_collection
from sightline.encoder import EncoderIdentity
from sightline.images import Pixels, PixelSpec, encode_thumbnail, to_pixels
from sightline.texts import TextSpec

Vectors = npt.NDArray[np.float32]

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (255, 0, 0),
    "green": (0, 255, 0),
    "blue": (0, 0, 255),
    "yellow": (255, 255, 0),
    "cyan": (0, 255, 255),
    "magenta": (255, 0, 255),
    "white": (255, 255, 255),
    "black": (0, 0, 0),
}
DIM = 8
FINGERPRINT = hashlib.sha256(b"the fake encoder").hexdigest()
SPEC = "fake:colours"


class FakeEncoder:
    """Same methods as ``sightline.encoder.Encoder``.

    A colour is the unit vector of (r-½, g-½, b-½, 0.1, 0, 0, 0, 0); a text is the mean of its colour words, or, without
    any, a direction from the text's hash in the last four dimensions. ``before_encode(modality, batch)`` is called in
    the encoder's thread before each batch: it may block, count or raise.
    """

    def __init__(
        self,
        *,
        fingerprint: str = FINGERPRINT,
        kind: Literal["softmax", "sigmoid"] = "softmax",
        scale: float = 10.0,
        bias: float = 0.0,
        side_px: int = 8,
        before_encode: Callable[[str, Any], None] | None = None,
    ) -> None:
        self.identity = EncoderIdentity(
            name=SPEC,
            fingerprint=fingerprint,
            dim=DIM,
            pixels=PixelSpec(side_px, side_px, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
            texts=TextSpec(tokenizer="fake", context_length=64, clean="lower", padding="causal"),
            score_scale=ScoreScale(kind=kind, scale=scale, bias=bias),
            licence="Apache-2.0",
            untrained=False,
            precision="fp32",
        )
        self.before_encode = before_encode

    @property
    def fingerprint(self) -> str:
        return self.identity.fingerprint

    @property
    def dim(self) -> int:
        return self.identity.dim

    def preprocess(self, image: Image.Image) -> Pixels:
        return to_pixels(image, self.identity.pixels)

    def tokenize(self, texts: Sequence[str]) -> npt.NDArray[np.int64]:
        """One token for each letter, cut and padded with 0."""
        length = self.identity.texts.context_length
        rows = [[ord(letter) for letter in text.lower()[:length]] for text in texts]
        return np.array([row + [0] * (length - len(row)) for row in rows], dtype=np.int64).reshape(len(texts), length)

    def encode_tokens(self, tokens: npt.NDArray[np.int64]) -> Vectors:
        return self._texts(["".join(chr(token) for token in row if token) for row in tokens])

    def encode_texts(self, texts: Sequence[str]) -> Vectors:
        if self.before_encode is not None:
            self.before_encode("text", texts)
        return self._texts(texts)

    def encode_pixels(self, pixels: Pixels) -> Vectors:
        if self.before_encode is not None:
            self.before_encode("image", pixels)
        return np.stack([_colour_vector(picture.reshape(-1, 3).mean(axis=0)) for picture in pixels])

    def encode_images(self, images: Sequence[Image.Image]) -> Vectors:
        return self.encode_pixels(np.stack([self.preprocess(image) for image in images]))

    @staticmethod
    def _texts(texts: Sequence[str]) -> Vectors:
        return np.stack([_text_vector(text) for text in texts])


def flat_picture(colour: str, size: tuple[int, int] = (32, 24)) -> Image.Image:
    """An RGB picture of one named colour."""
    return Image.new("RGB", size, COLOURS[colour])


def picture_bytes(colour: str, size: tuple[int, int] = (32, 24), image_format: str = "PNG") -> bytes:
    """An encoded flat picture."""
    import io

    buffer = io.BytesIO()
    flat_picture(colour, size).save(buffer, image_format)
    return buffer.getvalue()


def build_fake_collection(
    path: Path,
    colours: Sequence[str] = tuple(COLOURS),
    *,
    encoder: FakeEncoder | None = None,
    captions_per_item: int = 1,
    thumbnails: bool = True,
) -> Generation:
    """Write and open a real collection with one flat picture for each colour name (a name may come again).

    Item ``i`` has the id ``{i:03d}-{colour}``, the metadata ``{"colour": …, "number": i}`` and captions such as
    "a red picture".
    """
    encoder = encoder or FakeEncoder()
    identity = encoder.identity
    record = EncoderRecord(
        spec=SPEC, name=identity.name, fingerprint=identity.fingerprint, dim=identity.dim,
        precision=identity.precision, licence=identity.licence, untrained=identity.untrained,
    )  # fmt: skip
    wordings = ("a {} picture", "{} all over", "nothing but {}")[:captions_per_item]
    with GenerationWriter(path, record) as writer:
        for number, colour in enumerate(colours):
            picture = flat_picture(colour)
            captions = tuple(wording.format(colour) for wording in wordings)
            writer.add(
                NewItem(
                    item_id=f"{number:03d}-{colour}",
                    uri=f"{colour}/{number:03d}.png",
                    sha256=hashlib.sha256(picture.tobytes() + bytes([number % 256])).hexdigest(),
                    width_px=picture.width,
                    height_px=picture.height,
                    vector=_colour_vector(np.array(COLOURS[colour], dtype=np.float64)),
                    captions=captions,
                    caption_vectors=np.stack([_text_vector(caption) for caption in captions]) if captions else None,
                    metadata={"colour": colour, "number": number},
                    thumbnail=encode_thumbnail(picture, 16) if thumbnails else b"",
                )
            )
        num_captions = len(colours) * len(wordings)
        counts = Counts(
            seen=len(colours), indexed=len(colours), duplicates=0, skipped=0, failed=0,
            captions_seen=num_captions, captions_indexed=num_captions, captions_skipped=0, reasons={},
        )  # fmt: skip
        writer.publish(counts, source="fake", index={})
    return open_collection(path)


def with_identity(encoder: FakeEncoder, **changes: Any) -> FakeEncoder:
    """Change fields of a fake's identity in place (its licence, whether it is trained) and return it."""
    encoder.identity = replace(encoder.identity, **changes)
    return encoder


def _text_vector(text: str) -> Vectors:
    named = [COLOURS[word] for word in re.findall(r"[a-z]+", text.lower()) if word in COLOURS]
    if named:
        return _colour_vector(np.mean(np.array(named, dtype=np.float64), axis=0))
    digest = hashlib.sha256(text.strip().lower().encode()).digest()
    vector = np.zeros(DIM)
    vector[4:] = np.frombuffer(digest[:4], dtype=np.uint8) / 255.0 - 0.5
    return _unit(vector)


def _colour_vector(rgb: npt.NDArray[np.float64]) -> Vectors:
    vector = np.zeros(DIM)
    vector[:3] = rgb / 255.0 - 0.5
    vector[3] = 0.1
    return _unit(vector)


def _unit(vector: npt.NDArray[np.float64]) -> Vectors:
    return (vector / np.linalg.norm(vector)).astype(np.float32)
