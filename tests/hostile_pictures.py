"""Pictures that were made to do harm, a few bytes each where that is all it takes."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

from PIL import Image

from tests.pictures import encoded


def png_chunk(kind: bytes, data: bytes = b"") -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def black_png(
    width: int, height: int, *, bits: int = 8, colour: int = 2, chunks: bytes = b"", end: bytes = b""
) -> bytes:
    """A black PNG, written row by row: ``colour`` 0 grey, 2 RGB, 3 palette, 4 grey and alpha, 6 RGBA.

    ``chunks`` go before the pixels, ``end`` behind them.
    """
    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour]
    row = bytes(1 + (width * channels * bits + 7) // 8)
    packer = zlib.compressobj(9)
    pixels = b"".join([*(packer.compress(row) for _ in range(height)), packer.flush()])
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0))
    if colour == 3:
        header += png_chunk(b"PLTE", bytes(768))
    body = header + chunks + png_chunk(b"IDAT", pixels) + end + png_chunk(b"IEND")
    return b"\x89PNG\r\n\x1a\n" + body


def jpeg_segment(marker: int, data: bytes) -> bytes:
    return bytes([0xFF, marker]) + struct.pack(">H", len(data) + 2) + data


def jpeg_with(segments: bytes, size: tuple[int, int] = (8, 8)) -> bytes:
    """A grey JPEG with these bytes before its own segments."""
    whole = encoded(Image.new("L", size, 90), "JPEG")
    return whole[:2] + segments + whole[2:]


def jpeg_of_many_scans(num_more: int, size: tuple[int, int] = (16, 16), between: bytes = b"") -> bytes:
    """A progressive JPEG whose last pass is drawn ``num_more`` times again, with ``between`` before each."""
    whole = encoded(Image.new("L", size, 90), "JPEG", progressive=True)
    last_scan = whole.rindex(b"\xff\xda")
    tables = whole.rindex(b"\xff\xc4", 0, last_scan)
    return whole[:-2] + (between + whole[tables:-2]) * num_more + b"\xff\xd9"


def gif_with(blocks: bytes) -> bytes:
    """A GIF of 4x4 px with these bytes before its first frame."""
    whole = encoded(Image.new("P", (4, 4)), "GIF")
    frame = whole.index(b",\0\0\0\0")
    return whole[:frame] + blocks + whole[frame:]


def gif_of_size(screen: tuple[int, int], frame: tuple[int, int]) -> bytes:
    """A GIF that claims these sizes."""
    whole = bytearray(gif_with(b""))
    at = whole.index(b",\0\0\0\0")
    whole[6:10] = struct.pack("<HH", *screen)
    whole[at + 5 : at + 9] = struct.pack("<HH", *frame)
    return bytes(whole)


def animated_webp(side_px: int, num_frames: int = 1) -> bytes:
    """90 bytes: frames of 8x8 px on a canvas of any size."""
    still = encoded(Image.new("RGB", (8, 8)), "WEBP", lossless=True)
    frame = bytes(6) + b"\7\0\0\7\0\0\1\0\0\0" + still[12:]
    canvas = struct.pack("<I", 2) + 2 * struct.pack("<I", side_px - 1)[:3]
    chunks = [(b"VP8X", canvas), (b"ANIM", bytes(6)), *[(b"ANMF", frame)] * num_frames]
    body = b"WEBP" + b"".join(
        kind + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2) for kind, data in chunks
    )
    return b"RIFF" + struct.pack("<I", len(body)) + body


def large(side_px: int, kind: str) -> bytes:
    """A flat square picture, quickly made: ``kind`` names a format and what is special about it."""
    if kind.startswith("png"):
        bits, colour = {"png": (8, 2), "png alpha": (8, 6), "png alpha 16": (16, 6), "png grey 16": (16, 0),
                        "png grey alpha": (8, 4), "png palette": (8, 3), "png 1": (1, 0)}[kind]  # fmt: skip
        chunks = png_chunk(b"tRNS", bytes(256)) if kind == "png palette" else b""
        return black_png(side_px, side_px, bits=bits, colour=colour, chunks=chunks)
    if kind == "webp animated":
        return animated_webp(side_px)
    options: dict[str, Any] = {}
    mode, format = {"jpeg": ("RGB", "JPEG"), "jpeg grey": ("L", "JPEG"), "jpeg cmyk": ("CMYK", "JPEG"),
                    "jpeg turned": ("RGB", "JPEG"), "jpeg progressive": ("RGB", "JPEG"), "webp": ("RGB", "WEBP"),
                    "webp alpha": ("RGBA", "WEBP"), "gif": ("P", "GIF")}[kind]  # fmt: skip
    if kind == "jpeg turned":
        options["exif"] = Image.Exif()
        options["exif"][0x0112] = 6
    if format == "WEBP":
        options |= {"lossless": True, "method": 0}
    buffer = io.BytesIO()
    Image.new(mode, (side_px, side_px)).save(buffer, format, progressive=kind == "jpeg progressive", **options)
    return buffer.getvalue()
