"""The rules for false captions, on the hand-written ones of SugarCrepe and on people's captions of photos."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sightline.images import PixelSpec
from training.data import check, read_captioned
from training.data.captioned import caption_key
from training.data.false_captions import RULES, swapped_attributes
from training.data.meaning import meaning

pytestmark = pytest.mark.realdata


def pairs(file: Path) -> list[tuple[str, str]]:
    """(true caption, false caption) of a SugarCrepe file."""
    content = json.loads(file.read_text(encoding="utf-8"))
    entries = content.values() if isinstance(content, dict) else content
    return [(entry["caption"], entry["negative_caption"]) for entry in entries]


def test_almost_no_pair_of_different_meaning_is_taken_for_the_same(real_data: Path) -> None:
    several = [pair for file in sorted((real_data / "sugarcrepe").glob("*.json")) for pair in pairs(file)]
    assert len(several) > 7000
    assert sum(meaning(true) == meaning(false) for true, false in several) <= 5


def test_the_rules_find_swaps_that_people_wrote(real_data: Path) -> None:
    swaps = pairs(real_data / "sugarcrepe" / "swap_att.json")
    found = sum(caption_key(false) in map(caption_key, swapped_attributes(true)) for true, false in swaps)
    assert found > 0.2 * len(swaps)


def test_photos_captions_give_negatives_and_the_splits_do_not_leak(real_data: Path) -> None:
    spec = PixelSpec(8, 8, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    dev = read_captioned(str(real_data / "flickr8k" / "flickr8k-dev-0000.tar"), spec)
    train = read_captioned(str(real_data / "flickr8k" / "flickr8k-train-0005.tar"), spec)
    findings = check(train, dev)
    assert findings.leaked == () and findings.num_captions > 2000
    swaps = [
        any(RULES[kind](several[0], ()) for kind in ("attributes", "relations", "roles")) for several in dev.captions
    ]
    assert 0.25 < sum(swaps) / len(swaps) < 0.75
