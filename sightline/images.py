"""Bytes to RGB to pixels: the only preprocessing in Sightline, used by training, indexing and serving alike.

bytes → header check → full decode → EXIF orientation → RGB → crop and resize in one step → uint8 ``[H, W, 3]``.
Scaling to float and normalising happen on the encoder's device. The result equals the checkpoint's own open_clip
transform; two deliberate differences apply to pictures that transform gets wrong: EXIF orientation is honoured, and
transparency is composited on white where open_clip drops the alpha channel.

All functions are thread-safe. Pillow releases the GIL while it decodes and resizes, so a thread pool scales.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image, ImageFile, UnidentifiedImageError

from sightline.errors import ImageCorrupt, ImageFormatError, ImageTooLarge
from sightline.image_structure import check_structure

Pixels = npt.NDArray[np.uint8]

PIPELINE_VERSION = "pixels/1"
"""Part of every encoder fingerprint: change it when the same bytes would give other pixels."""

_MAX_EXIF_BYTES = 256 * 1024
_STRIP_ROWS = 256
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # fmt: skip
_HINTS = {
    b"<svg": "SVG is a drawing, not a picture; render it to PNG first",
    b"<?xm": "SVG and XML are not pictures; render them to PNG first",
    b"%PDF": "PDF pages are not pictures; render them to PNG first",
    b"II*\x00": "convert TIFF to PNG first",
    b"MM\x00*": "convert TIFF to PNG first",
}


@dataclass(frozen=True)
class ImageLimits:
    """What is refused before a picture is decoded.

    A 93-byte PNG of 1x4000 px costs 832 MB in a naive resize, a 21 KB PNG of 13300x13300 px 859 MB in ``convert``:
    the limits bound memory by the header alone. The format allow-list keeps the parsers behind Pillow's security
    advisories (EPS, PSD, FITS, JPEG 2000, TIFF) unreachable, whatever a file calls itself.
    """

    max_bytes: int = 32 * 2**20
    max_side_px: int = 16_384
    max_pixels: int = 64_000_000
    max_aspect_ratio: float = 100.0
    formats: tuple[str, ...] = ("JPEG", "PNG", "WEBP", "GIF", "BMP")


@dataclass(frozen=True)
class PixelSpec:
    """How a checkpoint wants to see a picture; written into its bundle, part of its fingerprint.

    ``mean`` and ``std`` are per RGB channel on the 0-1 scale. ``shortest`` scales the shorter side and crops the
    centre, ``longest`` scales the longer side and pads with ``fill``, ``squash`` ignores the aspect ratio.
    """

    height_px: int
    width_px: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: Literal["bicubic", "bilinear"] = "bicubic"
    resize_mode: Literal["shortest", "longest", "squash"] = "shortest"
    fill: int = 0


@dataclass(frozen=True)
class ImageHeader:
    """What the first bytes say: the real format (not the file name's) and the stored size before rotation.

    ``bytes_per_pixel`` is what decoding to RGB needs at its peak.
    """

    format: str
    width_px: int
    height_px: int
    bytes_per_pixel: int


def read_header(data: bytes, limits: ImageLimits) -> ImageHeader:
    """Check the header of an encoded picture against the limits, without decoding it.

    Raises ImageCorrupt (empty), ImageFormatError (not an allowed picture) or ImageTooLarge.
    """
    with _open(data, limits) as image:
        return _check_header(image, limits)


def decode_image(
    data: bytes, limits: ImageLimits, on_header: Callable[[ImageHeader], None] = lambda header: None
) -> Image.Image:
    """Decode a picture fully: upright, mode RGB. Of an animation, the first frame.

    Raises ImageCorrupt, ImageFormatError or ImageTooLarge; the limits are checked before anything is decoded.
    ``on_header`` is called after that and before decoding; what it raises ends the work.
    """
    with _open(data, limits) as image:
        on_header(_check_header(image, limits))
        try:
            image.load()
            return _to_rgb(_upright(image))
        except (OSError, SyntaxError, ValueError, IndexError, EOFError, Image.DecompressionBombError) as error:
            raise ImageCorrupt(
                "The image is truncated or damaged and cannot be decoded; send the complete file."
            ) from error


def to_pixels(image: Image.Image, spec: PixelSpec) -> Pixels:
    """Crop, resize and pad an RGB picture to what the encoder takes.

    Returns uint8 ``[H, W, 3]``. The crop comes before the resize: only the source box that the centre crop needs is
    resampled, with the same filter support as a full resize, so the pixels equal resize-then-crop while the cost
    stays bounded for extreme aspect ratios.
    """
    bilinear = spec.interpolation == "bilinear"
    if spec.resize_mode == "shortest" and spec.height_px != spec.width_px:
        bilinear = False  # open_clip's transform ignores the interpolation for non-square targets
    resample = Image.Resampling.BILINEAR if bilinear else Image.Resampling.BICUBIC
    target = (spec.width_px, spec.height_px)
    if spec.resize_mode == "squash":
        return np.asarray(image.resize(target, resample))
    if spec.resize_mode == "longest":
        return np.asarray(_fit_and_pad(image, spec, resample))
    return np.asarray(image.resize(target, resample, box=_centre_box(image.size, target)))


def encode_thumbnail(image: Image.Image, max_side_px: int) -> bytes:
    """A re-encoded WebP thumbnail whose longer side is at most ``max_side_px``; carries no metadata of its source."""
    small = image.copy()
    small.thumbnail((max_side_px, max_side_px), Image.Resampling.LANCZOS, reducing_gap=2.0)
    buffer = io.BytesIO()
    small.save(buffer, "WEBP", quality=80, method=2)
    return buffer.getvalue()


def _open(data: bytes, limits: ImageLimits) -> ImageFile.ImageFile:
    if not data:
        raise ImageCorrupt("The image is empty (0 bytes); send the complete file.")
    if len(data) > limits.max_bytes:
        raise ImageTooLarge(
            f"The image has {len(data):,} bytes and the limit is {limits.max_bytes:,}; send a smaller file.",
            limit_bytes=limits.max_bytes, size_bytes=len(data),
        )  # fmt: skip
    check_structure(data)
    try:
        return Image.open(io.BytesIO(data), formats=limits.formats)
    except UnidentifiedImageError as error:
        raise _format_error(data, limits) from error
    except Image.DecompressionBombError as error:
        raise ImageTooLarge(
            f"The image has more than {limits.max_pixels:,} pixels; scale it down first.",
            limit_pixels=limits.max_pixels,
        ) from error
    except (OSError, SyntaxError, ValueError, IndexError, EOFError) as error:
        raise ImageCorrupt("The image's header is damaged; send the complete file.") from error


def _format_error(data: bytes, limits: ImageLimits) -> ImageFormatError:
    allowed = ", ".join(limits.formats)
    hint = _HINTS.get(data[:4].lower() if data[:1] == b"<" else data[:4], "")
    if data[4:8] == b"ftyp":
        hint = "convert HEIC or AVIF pictures to JPEG first"
    if not hint:
        hint = "send one of these"
    return ImageFormatError(
        f"The bytes are not a picture in an accepted format ({allowed}); {hint}.", accepted=list(limits.formats)
    )


def _check_header(image: Image.Image, limits: ImageLimits) -> ImageHeader:
    width, height = image.size
    if width < 1 or height < 1:
        raise ImageCorrupt("The image has no pixels; send the complete file.")
    if max(width, height) > limits.max_side_px:
        raise ImageTooLarge(
            f"The image is {width}x{height} px and a side may have {limits.max_side_px} px; scale it down first.",
            limit_side_px=limits.max_side_px,
        )
    if width * height > limits.max_pixels:
        raise ImageTooLarge(
            f"The image has {width * height:,} pixels and the limit is {limits.max_pixels:,}; scale it down first.",
            limit_pixels=limits.max_pixels,
        )
    if max(width, height) > limits.max_aspect_ratio * min(width, height):
        raise ImageTooLarge(
            f"The image is {width}x{height} px, a longer strip than {limits.max_aspect_ratio:g}:1; crop it first.",
            limit_aspect_ratio=limits.max_aspect_ratio,
        )
    return ImageHeader(image.format or "", width, height, _bytes_per_pixel(image))


def _bytes_per_pixel(image: Image.Image) -> int:
    """Pillow keeps 4 bytes for a pixel of several channels, 1 or 2 for a grey one.

    Pictures that are turned or not RGB exist twice for a moment; an animated WebP is drawn on two canvases first.
    """
    if image.format == "WEBP":
        return 16 if getattr(image, "is_animated", False) else 8
    return 4 if image.format == "JPEG" and image.mode == "RGB" and "exif" not in image.info else 8


def _upright(image: Image.Image) -> Image.Image:
    """Turned as its EXIF orientation says. A damaged or absurdly long EXIF block does not make the pixels wrong."""
    if max(len(image.info.get(name) or "") for name in ("exif", "Raw profile type exif")) > _MAX_EXIF_BYTES:
        return image
    try:
        method = _TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except (ValueError, TypeError, KeyError, OSError, SyntaxError, OverflowError, ZeroDivisionError, struct.error):
        return image
    return image if method is None else image.transpose(method)


def _to_rgb(image: Image.Image) -> Image.Image:
    """Mode RGB, alpha on white. What must be computed is computed in strips: a picture may have 64 million pixels."""
    if image.mode == "RGB":
        return image
    if image.mode.startswith("I") or image.mode == "F":
        return _in_strips(image, "L", _eight_bits).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        return _in_strips(image, "RGB", _on_white)
    return image.convert("RGB")


def _in_strips(image: Image.Image, mode: str, convert: Callable[[Image.Image], Image.Image]) -> Image.Image:
    whole = Image.new(mode, image.size)
    for top in range(0, image.height, _STRIP_ROWS):
        box = (0, top, image.width, min(top + _STRIP_ROWS, image.height))
        whole.paste(convert(image.crop(box)), box)
    return whole


def _eight_bits(strip: Image.Image) -> Image.Image:
    """Pillow clips 16-bit grey at 255 (30000 becomes white): scale to 8 bits instead."""
    grey = np.asarray(strip).astype(np.float64)  # [h, W]
    return Image.fromarray(np.clip(grey / 257.0 + 0.5, 0, 255).astype(np.uint8))


def _on_white(strip: Image.Image) -> Image.Image:
    rgba = strip.convert("RGBA")
    canvas = Image.new("RGB", rgba.size, (255, 255, 255))
    canvas.paste(rgba, mask=rgba.getchannel("A"))
    return canvas


def _centre_box(size: tuple[int, int], target: tuple[int, int]) -> tuple[float, float, float, float]:
    """The source box whose resize to ``target`` equals torchvision's Resize + CenterCrop, rounding included."""
    width, height = size
    target_width, target_height = target
    if target_width == target_height:
        short, long = min(size), max(size)
        scaled = int(target_width * long / short)
        scaled_width, scaled_height = (target_width, scaled) if width <= height else (scaled, target_width)
    else:
        ratio = min(height / target_height, width / target_width)
        scaled_width, scaled_height = round(width / ratio), round(height / ratio)
    left = round((scaled_width - target_width) / 2.0)
    top = round((scaled_height - target_height) / 2.0)
    step_x, step_y = width / scaled_width, height / scaled_height
    return (
        left * step_x,
        top * step_y,
        min((left + target_width) * step_x, width),
        min((top + target_height) * step_y, height),
    )


def _fit_and_pad(image: Image.Image, spec: PixelSpec, resample: Image.Resampling) -> Image.Image:
    ratio = max(image.height / spec.height_px, image.width / spec.width_px)
    width = min(max(round(image.width / ratio), 1), spec.width_px)
    height = min(max(round(image.height / ratio), 1), spec.height_px)
    resized = image.resize((width, height), resample)
    canvas = Image.new("RGB", (spec.width_px, spec.height_px), (spec.fill, spec.fill, spec.fill))
    canvas.paste(resized, ((spec.width_px - width) // 2, (spec.height_px - height) // 2))
    return canvas
