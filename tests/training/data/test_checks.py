from __future__ import annotations

import numpy as np
import pytest

from sightline.errors import SourceError
from tests.training.data.samples import captioned
from training.data import check, content_hashes


def test_sound_data_give_no_sentence() -> None:
    findings = check(captioned([["a"], ["b", "c"]]), captioned([["d"]], pixels=np.full((1, 4, 4, 3), 99, np.uint8)))
    assert findings.sentences() == []
    assert (findings.num_pictures, findings.num_captions) == (2, 3)


def test_one_caption_for_everything_is_refused() -> None:
    with pytest.raises(SourceError, match=r"All 3 pictures have the same caption \('A photo'\).*caption of its own"):
        check(captioned([["A photo"], ["a photo."], ["a  photo", "A PHOTO"]]))
    check(captioned([["a photo"]]))  # a single picture has nothing to differ from


def test_a_batch_larger_than_the_data_is_refused() -> None:
    with pytest.raises(SourceError, match="batch of 3 cannot be drawn from 2 pictures; lower batch_size"):
        check(captioned([["a"], ["b"]]), batch_size=3)


def test_equal_pictures_are_grouped_and_named() -> None:
    pixels = np.array([1, 2, 1, 3, 2, 1], np.uint8).reshape(6, 1, 1, 1).repeat(3, axis=3)
    names = tuple(f"{letter}.png" for letter in "abcdef")
    findings = check(captioned([[str(n)] for n in range(6)], pixels=pixels, names=names))
    assert findings.duplicates == ((0, 2, 5), (1, 4))
    assert findings.num_duplicates == 3
    assert findings.sentences() == [
        "3 pictures are copies of others in 2 groups (such as a.png and c.png); no_duplicates in [data] keeps them "
        "out of one batch."
    ]


def test_captions_of_several_pictures_are_counted() -> None:
    findings = check(captioned([["a dog", "b"], ["A dog."], ["c", "c"]]))
    assert findings.repeated_captions == 2
    assert "2 of 5 captions belong to several pictures" in findings.sentences()[0]


def test_pictures_of_the_evaluation_data_are_refused_unless_allowed() -> None:
    train = captioned([[f"t{n}"] for n in range(6)], names=tuple(f"{n}.jpg" for n in range(6)))
    evaluation = captioned([["e"], ["t1"]], pixels=train.pixels[[4, 1]])
    with pytest.raises(
        SourceError, match=r"2 training pictures are in the evaluation data too \(such as 1.jpg, 4.jpg\)"
    ):
        check(train, evaluation)
    findings = check(train, evaluation, allow_leakage=True)
    assert findings.leaked == (1, 4)
    assert findings.leaked_captions == 1
    assert findings.sentences()[0].startswith("2 training pictures are in the evaluation data too")


def test_hashes_tell_pictures_apart_by_every_pixel() -> None:
    rng = np.random.default_rng(3)
    pixels = rng.integers(0, 256, (20, 5, 7, 3), np.uint8)
    pixels[11] = pixels[4]
    pixels[12] = pixels[4]
    pixels[12, 4, 6, 2] ^= 1
    hashes = content_hashes(pixels)
    assert hashes[11] == hashes[4] != hashes[12]
    assert len(set(hashes)) == 19
