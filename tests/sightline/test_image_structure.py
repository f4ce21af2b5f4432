"""Files that no camera writes are refused before a decoder sees them; files that cameras write are not."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from sightline.errors import ImageError, ImageTooLarge
from sightline.image_structure import MAX_BLOCKS, MAX_SCANS, MAX_SEGMENTS
from sightline.images import ImageLimits, decode_image, read_header
from tests import hostile_pictures as hostile
from tests.pictures import encoded, textured

LIMITS = ImageLimits()
BUSY: dict[str, Callable[[], bytes]] = {
    "comments": lambda: hostile.jpeg_with(b"\xff\xfe\0\2" * 2_000_000),
    "segments": lambda: hostile.jpeg_with(b"\xff\xe5\0\2" * 2_000_000),
    "fill bytes": lambda: hostile.jpeg_with(b"\xff" * 20_000_000),
    "stuffing": lambda: hostile.jpeg_with(b"\xff\xfe\0\2" + b"\xff\0" * 5_000_000),
    "junk": lambda: hostile.jpeg_with(b"\xff\xfe\0\2" + bytes(5_000_000)),
    "exif": lambda: hostile.jpeg_with(hostile.jpeg_segment(0xE1, b"Exif\0\0" + bytes(50_000)) * 400),
    "photoshop": lambda: hostile.jpeg_with(
        hostile.jpeg_segment(0xED, b"Photoshop 3.0\0" + b"8BIM\4\4\0\0\0\0\0\0" * 5000) * 400
    ),
    "gif comments": lambda: hostile.gif_with(b"!\xfe\1a\0" * 2_000_000),
    "gif comment": lambda: hostile.gif_with(b"!\xfe" + b"\1a" * 5_000_000 + b"\0"),
    "gif junk": lambda: hostile.gif_with(bytes(5_000_000)),
    "png chunks": lambda: hostile.black_png(8, 8, chunks=hostile.png_chunk(b"abCd") * 500_000),
    "png pixels": lambda: hostile.black_png(8, 8, chunks=hostile.png_chunk(b"IDAT") * 500_000),
    "png end": lambda: hostile.black_png(8, 8, end=hostile.png_chunk(b"abCd") * 500_000),
}


@pytest.mark.parametrize("kind", BUSY)
def test_files_built_to_keep_a_decoder_busy_are_refused(kind: str) -> None:
    """B9 and beyond: each of these kept Pillow's Python loops busy for 2 to 20 s, with the interpreter's lock held."""
    with pytest.raises(ImageError):
        read_header(BUSY[kind](), LIMITS)


@pytest.mark.parametrize(
    "between",
    [
        b"", hostile.jpeg_segment(0xFE, b"\xff\xd9 not the end"), b"\xff\xff\xff", b"\xff\xd0", b"junk\xff\0",
        b"\xff\x01",
    ],
    ids=["plain", "false end", "fill", "restart", "stuffing", "tem"],
)  # fmt: skip
def test_a_jpeg_of_too_many_passes_is_refused(between: bytes) -> None:
    """117 bytes more are one more pass over every pixel: 32 MB of them keep a thread for hours."""
    few = hostile.jpeg_of_many_scans(20, between=between)
    assert decode_image(few, LIMITS).size == (16, 16)
    with pytest.raises(ImageTooLarge) as refused:
        decode_image(hostile.jpeg_of_many_scans(MAX_SCANS, between=between), LIMITS)
    assert refused.value.details == {"limit_scans": MAX_SCANS}


def test_what_only_looks_like_passes_is_not_counted() -> None:
    """A thumbnail in the metadata, and a film behind the picture as telephones append it."""
    whole = encoded(textured((40, 30)), "JPEG")
    looks_like = b"\xff\xda" * 5000
    data = whole[:2] + hostile.jpeg_segment(0xE2, looks_like) + whole[2:] + looks_like * 10
    assert decode_image(data, LIMITS).size == (40, 30)


def test_ordinary_files_stay_far_below_the_structural_limits() -> None:
    profile = hostile.jpeg_segment(0xE2, b"ICC_PROFILE\0\1\xff" + bytes(65_000)) * 255
    extended = hostile.jpeg_segment(0xE1, b"http://ns.adobe.com/xmp/extension/\0" + bytes(65_000)) * 100
    assert decode_image(hostile.jpeg_with(profile + extended), LIMITS).size == (8, 8)
    assert MAX_SEGMENTS > 355
    many_chunks = hostile.black_png(8, 8, chunks=hostile.png_chunk(b"tEXt", b"a\0b") * 5000)
    assert decode_image(many_chunks, LIMITS).size == (8, 8)
    assert MAX_BLOCKS > 4 * 32 * 2**20 // 8192
