"""The catalogue of bad pictures: refused by their header or structure, or decoded to what they should show."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sightline.errors import ImageCorrupt, ImageError, ImageFormatError, ImageTooLarge
from sightline.images import ImageLimits, PixelSpec, decode_image, read_header, to_pixels
from tests import hostile_pictures as hostile
from tests.pictures import encoded, flat, textured

pytestmark = pytest.mark.filterwarnings("ignore")  # of Pillow, about these very pictures

LIMITS = ImageLimits()
SPEC = PixelSpec(32, 32, (0, 0, 0), (1, 1, 1))
MEBIBYTE = 2**20
EXACT: dict[str, dict[str, Any]] = {
    "JPEG": {"quality": 100, "subsampling": 0}, "WEBP": {"lossless": True, "exact": True}, "PNG": {}
}  # fmt: skip
"""Options that lose nothing, or hardly anything."""


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize(
    "data",
    [
        hostile.black_png(13_300, 13_300, bits=1, colour=0), hostile.black_png(20_000, 20_000, bits=1, colour=0),
        hostile.black_png(1, 4000, bits=1, colour=0), hostile.black_png(4000, 1, bits=1, colour=0),
        hostile.black_png(1, 65_535, bits=1, colour=0), hostile.black_png(30_000, 1, bits=1, colour=0),
        hostile.gif_of_size((8, 8), (60_000, 60_000)), hostile.animated_webp(16_000),
    ],
    ids=["13300", "20000", "1x4000", "4000x1", "1x65535", "30000x1", "gif frame", "webp canvas"],
)  # fmt: skip
def test_sizes_over_the_limits_are_seen_in_the_header(data: bytes) -> None:
    """B2, B3"""
    with pytest.raises(ImageTooLarge) as refused:
        decode_image(data, LIMITS)
    assert any(name.startswith("limit_") for name in refused.value.details)


@pytest.mark.parametrize("size", [(1, 1), (2, 2), (1, 100), (100, 1)])
def test_the_smallest_pictures_become_pixels(size: tuple[int, int]) -> None:
    """B4 (vLLM CVE-2026-22773 crashed on 1x1)"""
    pixels = to_pixels(decode_image(flat((10, 20, 30), size), LIMITS), SPEC)
    assert (pixels == (10, 20, 30)).all()


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "GIF", "BMP"])
def test_a_header_without_a_picture_is_refused(format: str) -> None:
    """B4"""
    whole = flat("red", format=format)
    for length in range(0, 40):
        with pytest.raises(ImageCorrupt if length == 0 else ImageError):
            decode_image(whole[:length], LIMITS)


@pytest.mark.parametrize("share", [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.99])
@pytest.mark.parametrize(
    ("format", "options"),
    [
        ("JPEG", {}),
        ("JPEG", {"progressive": True}),
        ("PNG", {}),
        ("WEBP", {}),
        ("WEBP", {"lossless": True}),
        ("GIF", {}),
    ],
    ids=str,
)
def test_a_picture_cut_anywhere_is_refused(format: str, options: dict[str, Any], share: float) -> None:
    """B5: `Image.verify` would let these JPEGs pass."""
    whole = encoded(textured((200, 150)), format, **options)
    with pytest.raises(ImageCorrupt, match="send the complete file"):
        decode_image(whole[: int(len(whole) * share)], LIMITS)


def _every_writable_format() -> list[str]:
    Image.init()
    without_a_writer = {"BUFR", "GRIB", "HDF5", "WMF"}  # other libraries write these
    return sorted(set(Image.OPEN) & set(Image.SAVE) - {"MPO", *without_a_writer})


@pytest.mark.parametrize("format", _every_writable_format())
def test_only_the_allowed_formats_are_opened_whatever_the_name_says(format: str) -> None:
    """B6: each format that Pillow opens and writes, as the content of a file called .jpg."""
    for mode in ("RGB", "L", "1", "P", "RGBA", "F"):
        try:
            data = encoded(Image.new(mode, (64, 64)), format)
        except Exception:  # not every format has every mode, and some need other libraries
            continue
        if format in (*LIMITS.formats, "DIB"):
            break
        with pytest.raises(ImageFormatError) as refused:
            decode_image(data, LIMITS)
        assert refused.value.details["accepted"] == list(LIMITS.formats)
        return
    if format == "DIB":
        return  # a BMP without its file header
    assert decode_image(data, LIMITS).size == (64, 64)


@pytest.mark.parametrize(
    "data",
    [
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", b"8BPS\0\1" + bytes(40), b"SIMPLE  =  T" + bytes(70),
        b"icns" + bytes(40), b"\0\0\1\0\1\0" + bytes(40), b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(40), b"DDS " + bytes(128),
        b"GRIB" + bytes(40), b"\x89HDF\r\n\x1a\n" + bytes(40), b"\xd7\xcd\xc6\x9a" + bytes(40), b"BLP2" + bytes(99),
        b"\xc5\xd0\xd3\xc6" + bytes(40), b"qoif" + bytes(20), b"\0\0\0\x1cftypavif" + bytes(40),
    ],
)  # fmt: skip
def test_formats_that_pillow_only_reads_are_not_opened_either(data: bytes) -> None:
    """B6"""
    with pytest.raises(ImageFormatError):
        decode_image(data, LIMITS)


@pytest.mark.parametrize(
    ("data", "hint"),
    [
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "SVG"),
        (b"<?xml version='1.0'?><!DOCTYPE svg [<!ENTITY x SYSTEM 'file:///etc/passwd'>]><svg>&x;</svg>", "SVG"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIC"),
    ],
)
def test_svg_and_heic_are_refused_with_a_hint(data: bytes, hint: str) -> None:
    """B12"""
    with pytest.raises(ImageFormatError, match=hint):
        decode_image(data, LIMITS)


@pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG"])
def test_of_an_animation_only_the_first_frame_is_looked_at(format: str) -> None:
    """B7: what follows the first frame is not decoded, so it may even be broken."""
    frames = [Image.new("RGB", (16, 16), (number, 0, 255 - number)) for number in range(300)]
    data = encoded(frames[0], format, save_all=True, append_images=frames[1:], **EXACT.get(format, {}))
    assert decode_image(data, LIMITS).getpixel((8, 8)) == (0, 0, 255)
    if format == "GIF":
        assert decode_image(data[: len(data) // 2], LIMITS).getpixel((8, 8)) == (0, 0, 255)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["JPEG", "WEBP", "PNG"])
def test_every_orientation_gives_the_upright_pixels(format: str, orientation: int) -> None:
    """B8"""
    upright = textured((48, 32))
    turned = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # Image.Transpose that undoes the orientation
    stored = upright if orientation == 1 else upright.transpose(Image.Transpose(turned[orientation]))
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(stored, format, exif=exif, **EXACT[format])
    difference = np.asarray(decode_image(data, LIMITS)).astype(int) - np.asarray(upright)
    assert np.abs(difference).mean() < 1


EXIF = b"Exif\0\0MM\0*\0\0\0\x08"


@pytest.mark.parametrize(
    "exif",
    [
        b"Exif\0\0", b"Exif\0\0MM\0*", b"Exif\0\0XX" + bytes(20), EXIF + b"\xff\xff", EXIF + b"\0\1\x01\x12\0\x03",
        EXIF + b"\0\1\x01\x12\0\x03\0\0\0\1\0\x63\0\0\0\0\0\0", EXIF + b"\0\1\x01\x12\0\x02\xff\xff\xff\xff\0\0\0\x08",
        EXIF + b"\0\1\x01\x12\0\x05\0\0\0\1\0\0\0\x08\0\0\0\0",
        EXIF + b"\0\1\x01\x12\0\x07\0\0\0\4\xff\0\xff\0\0\0\0\0",
        EXIF + struct.pack(">H", 5000) + b"\x01\x0f\0\x02\0\x0f\xff\xff\0\0\0\x08" * 5000,
        EXIF + b"\0\1\x87\x69\0\4\0\0\0\1\0\0\0\x08\0\0\0\x08",  # points at itself
    ],
)  # fmt: skip
def test_damaged_exif_does_not_make_the_pixels_wrong(exif: bytes) -> None:
    """B9"""
    picture = decode_image(hostile.jpeg_with(hostile.jpeg_segment(0xE1, exif)), LIMITS)
    assert picture.getpixel((4, 4)) == (90, 90, 90)


UNPACKS_TO_MUCH = zlib.compress(bytes(64 * MEBIBYTE), 1)
MANY_TAGS = b"MM\0*\0\0\0\x08\xff\xff" + b"\x01\x12\0\x02\0\xff\xff\xff\0\0\0\x08" * 65_535


@pytest.mark.parametrize(
    ("chunks", "refused"),
    [
        (hostile.png_chunk(b"zTXt", b"a\0\0" + UNPACKS_TO_MUCH), True),
        (hostile.png_chunk(b"iTXt", b"a\0\1\0\0\0" + UNPACKS_TO_MUCH), True),
        (hostile.png_chunk(b"iCCP", b"a\0\0" + UNPACKS_TO_MUCH), True),
        (hostile.png_chunk(b"iCCP", b"a\0\0not compressed"), False),
        (hostile.png_chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + b"<a>" * 100_000), False),
        (hostile.png_chunk(b"eXIf", MANY_TAGS), False),
        (hostile.png_chunk(b"gAMA", bytes(4)) + hostile.png_chunk(b"cHRM", b"\xff" * 32), False),
    ],
    ids=["zTXt", "iTXt", "iCCP", "broken iCCP", "XMP", "EXIF", "colour"],
)  # fmt: skip
def test_metadata_that_unpacks_to_much_is_refused_or_ignored(chunks: bytes, refused: bool) -> None:
    """B9: 64 MB of text in a few KB."""
    data = hostile.black_png(10, 10, chunks=chunks)
    if refused:
        with pytest.raises(ImageCorrupt):
            decode_image(data, LIMITS)
    else:
        assert decode_image(data, LIMITS).getpixel((0, 0)) == (0, 0, 0)


def _reference(image: Image.Image) -> Image.Image:
    """Alpha on white, in one plain sentence."""
    rgba = np.asarray(image.convert("RGBA")).astype(float)
    alpha = rgba[..., 3:] / 255
    return Image.fromarray(np.round(rgba[..., :3] * alpha + 255 * (1 - alpha)).astype(np.uint8))


@pytest.mark.parametrize(
    ("mode", "format", "reference"),
    [
        ("L", "PNG", lambda image: image.convert("RGB")),
        ("1", "PNG", lambda image: image.convert("RGB")),
        ("P", "PNG", lambda image: image.convert("RGB")),
        ("CMYK", "JPEG", lambda image: image.convert("RGB")),
        ("RGBA", "PNG", _reference),
        ("LA", "PNG", _reference),
        ("RGBA", "WEBP", _reference),
    ],
)
@pytest.mark.parametrize("size", [(30, 20), (40, 700)])
def test_every_mode_equals_its_reference(
    mode: str, format: str, reference: Callable[[Image.Image], Image.Image], size: tuple[int, int]
) -> None:
    """B10, also for pictures of several strips."""
    image = textured(size).convert(mode)
    if mode in ("RGBA", "LA"):
        image.putalpha(Image.fromarray(np.arange(size[0] * size[1], dtype=np.uint8).reshape(size[::-1])))
    data = encoded(image, format, **EXACT[format])
    expected = reference(Image.open(io.BytesIO(data)))
    difference = np.asarray(decode_image(data, LIMITS)).astype(int) - np.asarray(expected)
    assert np.abs(difference).max() <= 1


def test_a_palette_with_alpha_lies_on_white() -> None:
    """B10"""
    image = textured((30, 20)).convert("P")
    data = encoded(image, "PNG", transparency=bytes(range(256)))
    expected = _reference(Image.open(io.BytesIO(data)))
    assert np.abs(np.asarray(decode_image(data, LIMITS)).astype(int) - np.asarray(expected)).max() <= 1


@pytest.mark.parametrize("dtype", [np.uint16, np.uint8])
def test_deep_grey_is_scaled(dtype: type[np.generic]) -> None:
    """B10: 16 bits, in several strips."""
    grey = np.linspace(0, np.iinfo(dtype).max, 700 * 20).reshape(700, 20).astype(dtype)  # type: ignore[type-var]
    decoded = np.asarray(decode_image(encoded(Image.fromarray(grey)), LIMITS))
    assert np.abs(decoded[..., 0] - grey / (257 if dtype == np.uint16 else 1)).max() <= 0.5


def test_an_mpo_is_the_jpeg_that_it_begins_with() -> None:
    """B10: what stereo cameras and many telephones write."""
    first, second = textured((40, 30), 1), textured((40, 30), 2)
    data = encoded(first, "MPO", save_all=True, append_images=[second], **EXACT["JPEG"])
    assert Image.open(io.BytesIO(data)).format == "MPO"
    assert read_header(data, LIMITS).width_px == 40
    difference = np.asarray(decode_image(data, LIMITS)).astype(int) - np.asarray(first)
    assert np.abs(difference).mean() < 1


@pytest.mark.parametrize(
    "data",
    [
        flat("red", format="GIF") + b"<html><script>alert(1)</script></html>",
        flat("red", format="JPEG") + b"PK\x03\x04" + bytes(100),
        flat("red", format="PNG") + b"<?php system($_GET['c']); ?>",
        hostile.jpeg_with(hostile.jpeg_segment(0xFE, b"*/=1;alert(1)/*")),
    ],
    ids=["gif and html", "jpeg and zip", "png and php", "jpeg and script"],
)
def test_a_file_that_is_also_something_else_is_only_a_picture(data: bytes) -> None:
    """B11: nothing of it but pixels goes on; a thumbnail is made from those."""
    from sightline.images import encode_thumbnail

    thumbnail = encode_thumbnail(decode_image(data, LIMITS), 16)
    for trace in (b"<html", b"PK\x03\x04", b"<?php", b"alert"):
        assert trace not in thumbnail
