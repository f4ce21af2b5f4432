"""The pool: distinct pictures of one size, the same at every opening."""

from __future__ import annotations

import io
from pathlib import Path

from PIL import Image

from benchmarks.serving.pictures import SIZE_PX, open_pool, truncated, write_source
from sightline.errors import ImageCorrupt
from sightline.images import ImageLimits, decode_image


def test_drawn_pictures_are_distinct_and_kept(tmp_path: Path) -> None:
    pool = open_pool(tmp_path / "pool", None, 4)
    assert pool.origin == "drawn"
    assert len(set(pool.pictures)) == 4
    assert len(set(pool.captions)) == len(pool.captions) >= 4096
    assert {Image.open(io.BytesIO(picture)).size for picture in pool.pictures} == {SIZE_PX}
    assert 20_000 < pool.mean_picture_bytes < 200_000
    assert open_pool(tmp_path / "pool", None, 4) == pool
    write_source(pool, tmp_path / "source", 3)
    assert len(list((tmp_path / "source").iterdir())) == 6


def test_a_damaged_picture_passes_the_header_and_fails_the_decoder(tmp_path: Path) -> None:
    picture = open_pool(tmp_path, None, 1).pictures[0]
    assert decode_image(picture, ImageLimits()).size == SIZE_PX
    try:
        decode_image(truncated(picture), ImageLimits())
    except ImageCorrupt:
        return
    raise AssertionError("the damaged picture was decoded")
