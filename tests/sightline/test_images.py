from __future__ import annotations

import io

import numpy as np
import pytest
from open_clip.transform import image_transform
from PIL import Image

from sightline.errors import ImageCorrupt, ImageError, ImageFormatError, ImageTooLarge
from sightline.images import ImageLimits, PixelSpec, decode_image, encode_thumbnail, read_header, to_pixels
from tests.pictures import encoded, flat, textured

LIMITS = ImageLimits()
SIZES = [(640, 480), (333, 500), (500, 333), (100, 80), (81, 500), (1001, 777), (48, 48)]


@pytest.mark.parametrize("mode", ["shortest", "longest", "squash"])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("target", [(64, 64), (96, 64)])
def test_pixels_equal_the_open_clip_transform(mode: str, interpolation: str, target: tuple[int, int]) -> None:
    spec = PixelSpec(*target, (0, 0, 0), (1, 1, 1), interpolation, mode)  # type: ignore[arg-type]
    reference = image_transform(
        target, False, mean=(0, 0, 0), std=(1, 1, 1), resize_mode=mode, interpolation=interpolation
    )
    for size in SIZES:
        image = textured(size)
        expected = np.asarray(reference(image).permute(1, 2, 0).mul(255).round(), dtype=np.int64)
        actual = to_pixels(image, spec).astype(np.int64)
        assert actual.shape == (*target, 3)
        assert np.abs(actual - expected).max() <= 3  # the order of Pillow's two passes differs for some crops
        assert np.abs(actual - expected).mean() < 0.2


@pytest.mark.parametrize("size", [(1, 60), (60, 1), (1, 1), (2, 2)])
def test_tiny_and_narrow_pictures_become_pixels(size: tuple[int, int]) -> None:
    for mode in ("shortest", "longest", "squash"):
        spec = PixelSpec(32, 32, (0, 0, 0), (1, 1, 1), "bicubic", mode)
        assert to_pixels(decode_image(flat("red", size), LIMITS), spec).shape == (32, 32, 3)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_honoured(orientation: int) -> None:
    upright = Image.new("RGB", (40, 20), (255, 0, 0))
    upright.paste((0, 0, 255), (0, 0, 10, 20))  # blue on the left
    undo = {
        1: None, 2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_90, 7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }[orientation]  # fmt: skip
    stored = upright if undo is None else upright.transpose(undo)
    exif = Image.Exif()
    exif[0x0112] = orientation
    decoded = decode_image(encoded(stored, "PNG", exif=exif), LIMITS)
    assert decoded.size == (40, 20)
    assert decoded.getpixel((3, 10)) == (0, 0, 255)
    assert decoded.getpixel((30, 10)) == (255, 0, 0)


def test_transparency_is_composited_on_white() -> None:
    clear = Image.new("RGBA", (8, 8), (255, 0, 0, 0))
    assert decode_image(encoded(clear), LIMITS).getpixel((0, 0)) == (255, 255, 255)
    palette = Image.new("P", (8, 8), 0)
    palette.putpalette([0, 0, 0, 255, 0, 0])
    assert decode_image(encoded(palette, transparency=0), LIMITS).getpixel((0, 0)) == (255, 255, 255)
    grey_alpha = Image.new("LA", (8, 8), (100, 255))
    assert decode_image(encoded(grey_alpha), LIMITS).getpixel((0, 0)) == (100, 100, 100)


def test_sixteen_bit_grey_is_scaled_not_clipped() -> None:
    deep = Image.fromarray(np.full((4, 4), 30000, dtype=np.uint16))
    assert decode_image(encoded(deep), LIMITS).getpixel((0, 0)) == (117, 117, 117)


@pytest.mark.parametrize("mode", ["L", "1", "P", "CMYK"])
def test_other_modes_become_rgb(mode: str) -> None:
    format = "JPEG" if mode == "CMYK" else "PNG"
    image = decode_image(encoded(textured((30, 20)).convert(mode), format), LIMITS)
    assert (image.mode, image.size) == ("RGB", (30, 20))


def test_an_animation_gives_its_first_frame() -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    animated = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert decode_image(animated, LIMITS).getpixel((0, 0)) == (255, 0, 0)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_a_truncated_picture_is_refused(format: str, share: float) -> None:
    whole = encoded(textured((200, 150)), format)
    with pytest.raises(ImageError) as caught:
        decode_image(whole[: int(len(whole) * share)], LIMITS)
    assert isinstance(caught.value, ImageCorrupt | ImageFormatError)
    assert "0x" not in caught.value.message  # Pillow's own text holds an address


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "empty"),
        (b"hello, I am text", "not a picture"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "SVG"),
        (b"%PDF-1.7 ...", "PDF"),
        (b"\x00\x00\x00\x20ftypheic\x00\x00", "HEIC"),
        (encoded(Image.new("RGB", (4, 4)), "TIFF"), "TIFF"),
        (encoded(Image.new("RGB", (4, 4)), "PPM"), "not a picture"),
    ],
)
def test_what_is_not_an_accepted_picture_is_refused_with_a_hint(data: bytes, words: str) -> None:
    with pytest.raises(ImageError, match=words):
        decode_image(data, LIMITS)


def test_a_wrong_extension_does_not_matter_only_content_does() -> None:
    assert read_header(flat("red", format="WEBP"), LIMITS).format == "WEBP"


@pytest.mark.parametrize(
    ("size", "limits", "words"),
    [
        ((30, 20), ImageLimits(max_bytes=10), "bytes"),
        ((300, 20), ImageLimits(max_side_px=299), "side"),
        ((100, 100), ImageLimits(max_pixels=9_999), "pixels"),
        ((1, 4000), LIMITS, "strip"),
    ],
)
def test_limits_are_checked_before_decoding(size: tuple[int, int], limits: ImageLimits, words: str) -> None:
    data = flat("blue", size)
    with pytest.raises(ImageTooLarge, match=words) as caught:
        decode_image(data, limits)
    assert any(key.startswith("limit_") for key in caught.value.details)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_bomb_is_refused_by_its_header() -> None:
    bomb = encoded(Image.new("1", (13_300, 13_300)))
    assert len(bomb) < 30_000
    with pytest.raises(ImageTooLarge):
        decode_image(bomb, LIMITS)


def test_a_thumbnail_is_small_and_carries_no_metadata() -> None:
    thumbnail = Image.open(io.BytesIO(encode_thumbnail(textured((640, 480)), 128)))
    assert thumbnail.format == "WEBP"
    assert thumbnail.size == (128, 96)
    assert not thumbnail.getexif()
