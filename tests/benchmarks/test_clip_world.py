"""What is drawn is shaped as what it is drawn after."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.search.clip_world import ClipWorld
from sightline.index.scan import scan
from sightline.index.store import MemoryVectors


@pytest.mark.realdata
def test_drawn_pairs_are_as_far_apart_as_real_ones(real_data: Path) -> None:
    shapes = ClipWorld(real_data / "clip_pairs").check()
    real, drawn = shapes["real"], shapes["drawn"]
    assert drawn.gap == pytest.approx(real.gap, abs=0.01)
    assert drawn.other_mean == pytest.approx(real.other_mean, abs=0.01)
    assert drawn.other_spread == pytest.approx(real.other_spread, abs=0.005)
    assert drawn.matching_mean == pytest.approx(real.matching_mean, abs=0.05)
    assert drawn.recall_at_1_text_to_image == pytest.approx(real.recall_at_1_text_to_image, abs=0.08)
    assert drawn.recall_at_1_image_to_text == pytest.approx(real.recall_at_1_image_to_text, abs=0.08)


@pytest.mark.realdata
def test_text_queries_lie_elsewhere_than_pictures(real_data: Path) -> None:
    world = ClipWorld(real_data / "clip_pairs")
    generator = np.random.default_rng(0)
    vectors = MemoryVectors(world.collection(20_000, generator))
    asked = world.images(100, generator)
    by_text = scan(vectors, world.texts(asked, generator), 1).scores.mean()
    by_image = scan(vectors, asked, 1).scores.mean()
    assert by_text < 0.35 < 0.6 < by_image
