"""B26: what is fuzzed, and what must hold: an answer or an error of ours, in time. The tests choose how often."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image
from pydantic import ValidationError

from service.edge.bodies import explain, parse_json
from service.openapi.dialects import EmbeddingsBody
from service.routes import openai_dialect
from sightline.columns import MetadataColumns
from sightline.errors import InputError
from sightline.filters import parse_filter
from sightline.images import ImageLimits, PixelSpec, decode_image, read_header, to_pixels
from sightline.texts import TextLimits, check_text
from tests import hostile_pictures as hostile
from tests.mutations import mutated
from tests.pictures import encoded, textured

MAX_SECONDS = 1.0
"""No input may take longer. CPU time of the thread: what else the machine does must not matter."""

_SPEC = PixelSpec(16, 16, (0, 0, 0), (1, 1, 1))
_LIMITS = ImageLimits(max_pixels=1_000_000)


def picture_seeds() -> list[bytes]:
    """Small pictures in every format and mode that is taken."""
    picture, exif = textured((24, 18)), Image.Exif()
    exif[0x0112] = 6
    frames = [textured((24, 18), number) for number in range(3)]
    return [
        encoded(picture, "JPEG", exif=exif, icc_profile=bytes(500)), encoded(picture, "JPEG", progressive=True),
        encoded(picture.convert("CMYK"), "JPEG"), encoded(picture.convert("L"), "JPEG", restart_marker_blocks=1),
        encoded(picture, "MPO", save_all=True, append_images=frames[:1]),
        encoded(picture, "PNG", exif=exif), encoded(picture.convert("RGBA"), "PNG"),
        encoded(picture.convert("P"), "PNG", transparency=bytes(range(256))), encoded(picture.convert("1"), "PNG"),
        encoded(Image.fromarray(np.arange(432, dtype=np.uint16).reshape(18, 24)), "PNG"),
        encoded(frames[0], "PNG", save_all=True, append_images=frames[1:]),
        encoded(picture, "WEBP", exif=exif), encoded(picture.convert("RGBA"), "WEBP", lossless=True),
        encoded(frames[0], "WEBP", save_all=True, append_images=frames[1:]), hostile.animated_webp(24, 2),
        encoded(picture.convert("P"), "GIF"), encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]),
        encoded(picture, "BMP"), encoded(picture.convert("P"), "BMP"), encoded(picture.convert("1"), "BMP"),
        hostile.jpeg_of_many_scans(5, between=b"\xff\xfe\0\4ab"),
    ]  # fmt: skip


def _fuzz(function: Callable[[bytes], object], seeds: list[bytes], number: int, seed: int) -> int:
    """Returns how many of the damaged copies were still good."""
    num_good = 0
    for data in mutated(seeds, number, seed):
        started = time.thread_time()
        try:
            function(data)
            num_good += 1
        except InputError as error:
            assert " object at " not in error.message
        seconds = time.thread_time() - started
        assert seconds < MAX_SECONDS, f"{seconds:.1f} s for {data[:5000]!r}"
    return num_good


def fuzz_pictures(number: int, seed: int = 0) -> int:
    """Damaged pictures are decoded to pixels or refused."""

    def decode(data: bytes) -> None:
        header = read_header(data, _LIMITS)
        picture = decode_image(data, _LIMITS)
        assert picture.mode == "RGB"
        assert {picture.width, picture.height} == {header.width_px, header.height_px}
        assert to_pixels(picture, _SPEC).shape == (16, 16, 3)

    return _fuzz(decode, picture_seeds(), number, seed)


def fuzz_bodies(number: int, seed: int = 0) -> int:
    """Damaged JSON and base64 are parsed or refused."""
    picture = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGP4z8AAAAMBAQDJ"
    seeds = [
        json.dumps(
            {"input": ["red", {"image": picture}, {"text": "\ud83d\ude00"}], "encoding_format": "float"}
        ).encode(),
        json.dumps({"input": [{"image_url": {"url": f"data:image/png;base64,{picture}"}}]}).encode(),
        json.dumps({"input": "red", "dimensions": 8, "user": None, "nested": [[[{}]]] * 3, "n": 1e300}).encode(),
    ]

    def parse(data: bytes) -> None:
        value = parse_json(data)
        try:
            body = EmbeddingsBody.model_validate(value, strict=True)
        except ValidationError as error:
            explain(error, EmbeddingsBody)
            return
        openai_dialect.check_request(body, "model", "fingerprint", 8)
        for one in openai_dialect.inputs_of(body, 10_000):
            if isinstance(one, str):
                check_text(one, TextLimits())

    return _fuzz(parse, seeds, number, seed)


def fuzz_filters(number: int, seed: int = 0) -> int:
    """Damaged filters are refused, or answer for every row of any metadata."""
    seeds = [
        json.dumps(one).encode()
        for one in (
            {"must": [{"key": "a.b", "match": "x"}, {"key": "n", "range": {"gte": 1, "lt": 2.5}}]},
            {"should": [{"key": "a", "any": [1, "x", True]}], "must_not": [{"must": [{"key": "c", "match": False}]}]},
            {"key": "list.deep", "any": []}, {"must": [{"must": [{"must": [{"key": "", "match": ""}]}]}]},
        )
    ]  # fmt: skip
    metadata: list[dict[str, Any]] = [
        {}, {"a": {"b": "x"}, "n": 2}, {"a": [{"b": ["x", None]}], "n": [1, "2", True]}, {"c": False, "": ""},
        {"list": [{"deep": [1, [2, {"x": 3}]]}]}, {"n": float("nan"), "a": None}, {"n": 10**30, "a.b": "x"},
    ]  # fmt: skip

    columns = MetadataColumns(metadata)

    def evaluate(data: bytes) -> None:
        mask = parse_filter(parse_json(data)).mask(columns)
        assert mask.shape == (columns.num_rows,)
        assert mask.dtype == np.bool_

    return _fuzz(evaluate, seeds, number, seed)
