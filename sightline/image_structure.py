"""What an image file is built of, walked before any decoder sees it.

Pixel limits do not bound the work of a decoder: 117 more bytes are one more pass over a progressive JPEG (32 MB of them
keep a thread busy for hours), 20 MB of fill bytes before its first segment take Pillow 20 s in Python with the
interpreter's lock held, two million empty chunks, comments or segments take seconds. No camera and no program writes
such files. The walk costs microseconds on an ordinary picture and stops at the first limit on any other.

Thread-safe and pure. Damage that is not about these limits is left to the decoder, which says it better.
"""

from __future__ import annotations

import re
import struct

from sightline.errors import ImageCorrupt, ImageTooLarge

MAX_SCANS = 64
"""Passes of a progressive JPEG; libjpeg writes 10, the most thorough optimisers below 20."""
MAX_SEGMENTS = 1000
"""JPEG segments before the picture: 255 of a colour profile, 500 of 64 KB in 32 MB."""
MAX_BLOCKS = 20_000
"""PNG chunks, or GIF blocks before the first frame; 32 MB of PNG in chunks of 8 KB are 4,000."""

_MAX_PARSED_SEGMENTS = 64  # EXIF and Photoshop segments, which Pillow joins and takes apart
_MAX_SKIPPED_BYTES = 4096  # fill bytes and junk between JPEG segments
_MARKER = re.compile(rb"\xff+([\x01-\xfe])")
_MARKER_IN_SCAN = re.compile(rb"\xff+([\x01-\xcf\xd8-\xfe])")  # not stuffing, not a restart
_SCAN, _END, _EXIF, _PHOTOSHOP = 0xDA, 0xD9, 0xE1, 0xED
_WITHOUT_LENGTH = frozenset({0x01, *range(0xD0, 0xDA)})


def check_structure(data: bytes) -> None:
    """Raise ImageTooLarge or ImageCorrupt for a JPEG, PNG or GIF that is built to keep its decoder busy."""
    if data[:3] == b"\xff\xd8\xff":
        _check_jpeg(data)
    elif data[:8] == b"\x89PNG\r\n\x1a\n":
        _check_png(data)
    elif data[:4] == b"GIF8":
        _check_gif(data)


def _check_jpeg(data: bytes) -> None:
    place, num_segments, num_parsed, num_skipped = 2, 0, 0, 0
    while (found := _MARKER.search(data, place)) is not None:
        num_skipped += found.start(1) - 1 - place
        if num_skipped > _MAX_SKIPPED_BYTES:
            raise ImageCorrupt("The image's header is damaged; send the complete file.")
        marker, place = data[found.start(1)], found.end()
        if marker == _SCAN:
            _check_scans(data, place)
            return
        num_segments += 1
        if marker == _PHOTOSHOP or (marker == _EXIF and data[place + 2 : place + 6] == b"Exif"):
            num_parsed += 1
        if num_segments > MAX_SEGMENTS or num_parsed > _MAX_PARSED_SEGMENTS:
            raise _too_many_pieces(MAX_SEGMENTS)
        place += _length(data, place, marker)


def _check_scans(data: bytes, place: int) -> None:
    """From behind the first scan's marker. What only looks like one makes the quick count too high, never too low."""
    if data.count(b"\xff\xda", place) < MAX_SCANS:
        return
    num_scans, num_markers = 1, 0
    place += _length(data, place, _SCAN)
    while (found := _MARKER_IN_SCAN.search(data, place)) is not None:
        marker, place = data[found.start(1)], found.end()
        num_markers += 1
        num_scans += marker == _SCAN
        if num_scans > MAX_SCANS:
            raise ImageTooLarge(
                f"The JPEG is drawn in more than {MAX_SCANS} passes; save it again as an ordinary file.",
                limit_scans=MAX_SCANS,
            )
        if num_markers > MAX_BLOCKS:
            raise _too_many_pieces(MAX_BLOCKS)
        if marker == _END:
            return
        place += _length(data, place, marker)


def _length(data: bytes, place: int, marker: int) -> int:
    """Bytes of a segment behind its marker."""
    if marker in _WITHOUT_LENGTH or place + 2 > len(data):
        return 0
    return max(2, int.from_bytes(data[place : place + 2], "big"))


def _check_png(data: bytes) -> None:
    place, end, num_chunks = 8, len(data) - 8, 0
    while place <= end:
        (size,) = struct.unpack_from(">I", data, place)
        if data[place + 4 : place + 8] == b"IEND":
            return
        num_chunks += 1
        if num_chunks > MAX_BLOCKS:
            raise _too_many_pieces(MAX_BLOCKS)
        place += 12 + size


def _check_gif(data: bytes) -> None:
    flags = data[10] if len(data) > 10 else 0
    place, end, num_blocks = 13, len(data), 0
    if flags & 0x80:
        place += 3 * 2 ** ((flags & 7) + 1)
    inside_extension = False
    while place < end:
        byte = data[place]
        num_blocks += 1
        if num_blocks > MAX_BLOCKS:
            raise _too_many_pieces(MAX_BLOCKS)
        if inside_extension:
            inside_extension = byte != 0
            place += 1 + byte
        elif byte == 0x21:
            inside_extension = True
            place += 2
        elif byte in (0x2C, 0x3B):
            return
        else:
            place += 1


def _too_many_pieces(limit: int) -> ImageTooLarge:
    return ImageTooLarge(
        f"The image file has more than {limit:,} pieces of metadata; save it again without them.", limit_pieces=limit
    )
