from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import pytest

from sightline.errors import RecipeError, SourceError
from tests.training.data.samples import Words, captioned, made, texts_of
from training.batch import Batch
from training.data import Batches, Captioned, DataSettings, Neighbours, caption_key, make_batches

PIXELS = np.arange(22, dtype=np.uint8).reshape(22, 1, 1, 1).repeat(3, axis=3)  # [N, 1, 1, 3], the row is the colour
TOKENS = np.arange(44, dtype=np.int64).reshape(44, 1)  # [T, 1], two captions a picture


def epoch_of(group_size: int, epoch: int = 0) -> list[list[int]]:
    """The picture rows of each batch of an epoch."""
    batches = Batches(PIXELS, TOKENS, [2] * 22, batch_size=8, seed=1, group_size=group_size)
    steps = range(epoch * batches.steps_per_epoch, (epoch + 1) * batches.steps_per_epoch)
    return [shown(batches.at(step)) for step in steps]


def shown(batch: Batch) -> list[int]:
    assert batch.pixels is not None
    rows: list[int] = batch.pixels[:, 0, 0, 0].tolist()
    assert rows == batch.rows.tolist()
    return rows


def numbered(count: int, several: int = 3) -> Captioned:
    """Pictures with captions such as "picture 4 said 1"."""
    return captioned([[f"picture {row} said {number}" for number in range(several)] for row in range(count)])


@pytest.mark.parametrize("group_size", [1, 4])
def test_an_epoch_shows_no_picture_twice_and_the_next_another_order(group_size: int) -> None:
    first, second = epoch_of(group_size), epoch_of(group_size, 1)
    assert [len(rows) for rows in first] == [8, 8]
    assert len({row for rows in first for row in rows}) == 16
    assert first != second
    assert first == epoch_of(group_size)


def test_a_group_comes_into_one_batch_together() -> None:
    for epoch in range(5):
        for rows in epoch_of(4, epoch):
            groups = {row // 4 for row in rows}
            assert len(groups) == 2
            assert sorted(rows) == sorted(4 * group + member for group in groups for member in range(4))


def test_captions_belong_to_their_pictures() -> None:
    batch = Batches(PIXELS, TOKENS, [2] * 22, batch_size=22, seed=0, group_size=4).at(3)
    assert (batch.tokens[:, 0] // 2).tolist() == shown(batch)


def test_a_batch_larger_than_the_data_is_refused() -> None:
    with pytest.raises(SourceError, match="lower batch_size"):
        Batches(PIXELS, TOKENS, [2] * 22, batch_size=23, seed=0)


def test_the_plain_stream_never_changes() -> None:
    """Results of recipes depend on it: another stream needs a new baseline of the demo."""
    batches = Batches(PIXELS, TOKENS, [2] * 22, batch_size=8, seed=1, group_size=4)
    digest = hashlib.sha256()
    for step in range(7):
        batch = batches.at(step)
        digest.update(bytes(shown(batch)) + bytes(batch.tokens[:, 0].tolist()))
    assert digest.hexdigest() == PLAIN_STREAM


PLAIN_STREAM = "9e2c12f9e9ff091d08470f52c47737c8adc5b0d263669273d397b3e974b3e3b5"


def test_without_options_batches_are_the_plain_ones_and_nothing_is_tokenised_again() -> None:
    data = numbered(22, 2)
    batches, words = made(data, batch_size=8, seed=1)
    calls = words.calls
    tokens = words([text for several in data.captions for text in several])
    plain = Batches(data.pixels, tokens, [2] * 22, batch_size=8, seed=1)
    for step in range(6):
        one, other = batches.at(step), plain.at(step)
        assert one.rows.tolist() == other.rows.tolist() and np.array_equal(one.tokens, other.tokens)
        assert one.positives is None and one.weights is None and one.features is None
    assert words.calls == calls + 1


def test_steps_may_be_asked_for_in_any_order() -> None:
    settings: dict[str, Any] = {
        "captions_per_image": 2,
        "no_duplicates": True,
        "augmentation": {"mirror": 0.5, "crop_scale": (0.5, 1)},
        "wording": {"word_dropout": 0.3},
        "negatives": {"per_image": 2},
    }
    data = numbered(13)
    forwards, words = made(data, **settings)
    expected = {step: forwards.at(step) for step in range(9)}
    backwards = make_batches(data, DataSettings(**settings), words, batch_size=4, seed=0)
    for step in (8, 2, 3, 0, 5):
        batch = backwards.at(step)
        for name in ("rows", "pixels", "tokens", "positives"):
            assert np.array_equal(getattr(batch, name), getattr(expected[step], name)), name


def test_several_captions_of_a_picture_are_all_its_positives() -> None:
    batches, words = made(numbered(10), captions_per_image=2)
    for step in range(6):
        batch = batches.at(step)
        texts = texts_of(batch, words)
        assert batch.positives is not None
        assert len(texts) == 8 and batch.positives.shape == (4, 8)
        for place, row in enumerate(batch.rows.tolist()):
            own = [text for text in texts if text.startswith(f"picture {row} ")]
            assert len(set(own)) == 2
            assert texts[place] in own and texts[4 + place] in own
            assert batch.positives[place].tolist() == [text in own for text in texts]


def test_captions_come_again_where_there_are_too_few() -> None:
    data = captioned([["only a0"], ["b0", "b1", "b2"]] * 2)
    batches, words = made(data, captions_per_image=3)
    texts = texts_of(batches.at(0), words)
    for place, row in enumerate(batches.at(0).rows.tolist()):
        mine = texts[place::4]
        assert len(mine) == 3 and set(mine) == set(data.captions[row])


def test_every_caption_is_used_in_the_long_run() -> None:
    batches, words = made(numbered(4), captions_per_image=2)
    seen = {text for step in range(20) for text in texts_of(batches.at(step), words)}
    assert len(seen) == 12


def test_equal_captions_become_positives_of_each_other() -> None:
    data = captioned([["a dog"], ["A dog."], ["a cat", "a dog"], ["a bird"]])
    batches, words = made(data, equal_captions_are_positives=True)
    for step in range(6):
        batch = batches.at(step)
        keys = [caption_key(text) for text in texts_of(batch, words)]
        assert batch.positives is not None
        for place, row in enumerate(batch.rows.tolist()):
            said = {caption_key(text) for text in data.captions[row]}
            assert batch.positives[place].tolist() == [key in said for key in keys]
    assert made(data)[0].at(0).positives is None


def test_supplied_negatives_stand_behind_the_captions() -> None:
    metadata = [{"negatives": [f"false {row} one", f"false {row} two", "  "]} for row in range(8)]
    data = captioned([[f"true {row}"] for row in range(8)], metadata=metadata)
    batches, words = made(data, negatives={"per_image": 2, "kinds": ["supplied"]})
    for step in range(4):
        batch = batches.at(step)
        texts = texts_of(batch, words)
        assert texts[:4] == [f"true {row}" for row in batch.rows.tolist()]
        for place, row in enumerate(batch.rows.tolist()):
            assert sorted(texts[4 + 2 * place : 6 + 2 * place]) == [f"false {row} one", f"false {row} two"]
        assert batch.positives is None  # the first B columns are the pictures' own, all others are negatives


def test_too_few_negatives_are_filled_up_with_captions_from_outside_the_batch() -> None:
    metadata: list[dict[str, Any]] = [{"swap": {"true": "x", "swapped": "false 0"}}] + [{"swap": None}] * 15
    data = captioned([[f"true {row}"] for row in range(16)], metadata=metadata)
    batches, words = made(data, negatives={"per_image": 3, "kinds": ["supplied"], "supplied_key": "swap.swapped"})
    for step in range(8):
        batch = batches.at(step)
        texts = texts_of(batch, words)
        assert len(texts) == 4 + 4 * 3
        assert ("false 0" in texts) == (0 in batch.rows)
        assert not {text for text in texts[4:] if text != "false 0"} & set(texts[:4])


def test_a_negative_that_a_neighbour_says_is_a_positive_of_that_neighbour() -> None:
    captions = [["a red ball and a blue cube"], ["a blue ball and a red cube"], ["a dog"], ["a cat"]]
    batches, words = made(captioned(captions), negatives={"per_image": 1, "kinds": ["attributes"]})
    batch = batches.at(0)
    texts = texts_of(batch, words)
    assert batch.positives is not None
    for place, row in enumerate(batch.rows.tolist()):
        assert batch.positives[place].tolist() == [text == captions[row][0] for text in texts]
    ball, other = (batch.rows.tolist().index(row) for row in (0, 1))
    assert texts[4 + ball] == captions[1][0] and batch.positives[other, 4 + ball]


def test_missing_negatives_are_said() -> None:
    with pytest.raises(SourceError, match="No picture has negatives in its metadata 'negatives'"):
        made(numbered(8), negatives={"per_image": 1, "kinds": ["supplied"]})


def test_wording_changes_with_the_step_and_keeps_the_pictures() -> None:
    plain, plain_words = made(numbered(8))
    varied, words = made(numbered(8), wording={"templates": ["a photo of {}"], "synonyms": {"said": ["spoke"]}})
    for step in range(6):
        expected = [f"a photo of {text}" for text in texts_of(plain.at(step), plain_words)]
        found = texts_of(varied.at(step), words)
        assert [text.replace("spoke", "said") for text in found] == expected
    assert any("spoke" in text for step in range(40) for text in texts_of(varied.at(step), words))


def test_a_narrowed_vocabulary_holds_whatever_may_be_said() -> None:
    data = captioned([["a red ball left of a blue cube"], ["a dog on a sofa"], ["an orange cat"], ["two birds"]] * 3)
    settings: dict[str, Any] = {
        "wording": {"templates": ["{}", "a photo of {}"], "synonyms": {"dog": ["hound"]}, "word_dropout": 0.1},
        "negatives": {"per_image": 2, "kinds": ["attributes", "relations", "roles", "objects", "colours"]},
    }
    batches, _ = made(data, **settings)
    full = [batches.at(step).tokens for step in range(12)]
    ids = batches.used_ids
    assert np.array_equal(ids, np.unique(ids))
    assert np.isin(np.concatenate(full), ids).all()
    batches.renumber(lambda tokens: np.searchsorted(ids, tokens))
    for step, tokens in enumerate(full):
        assert np.array_equal(ids[batches.at(step).tokens], tokens)


def test_a_text_with_an_unknown_token_is_said_as_prepared() -> None:
    class Melting(Words):
        """Punctuation that meets becomes one token that no word has alone."""

        def __call__(self, texts: Any) -> Any:
            return super().__call__([text.replace("! .", "!.") for text in texts])

    words = Melting()
    data = captioned([["hello !"], ["good day"], ["bye !"], ["see you"]])
    settings = DataSettings.model_validate({"wording": {"templates": ["{} ."]}})
    batches = make_batches(data, settings, words, batch_size=4, seed=0)
    batches.renumber(lambda tokens: tokens)
    assert sorted(texts_of(batches.at(0), words)) == ["bye !", "good day .", "hello !", "see you ."]


def test_features_take_the_place_of_pixels() -> None:
    features = np.random.default_rng(0).normal(size=(8, 5)).astype(np.float32)
    batches = make_batches(numbered(8), DataSettings(), Words(), batch_size=4, seed=0, features=features)
    batch = batches.at(1)
    assert batch.pixels is None and batch.features is not None
    assert np.array_equal(batch.features, features[batch.rows])
    settings = DataSettings.model_validate({"augmentation": {"mirror": 0.5}})
    with pytest.raises(RecipeError, match="reads cached features"):
        make_batches(numbered(8), settings, Words(), batch_size=4, seed=0, features=features)


def test_augmentation_goes_by_the_caption_of_the_step() -> None:
    side = np.zeros((4, 2, 2, 3), np.uint8)
    side[:, :, 0] = 200
    data = captioned([["a door", "a door on the left"]] * 4, pixels=side)
    batches, words = made(data, augmentation={"mirror": 1.0})
    seen = set()
    for step in range(6):
        batch = batches.at(step)
        assert batch.pixels is not None
        for one, text in zip(batch.pixels, texts_of(batch, words), strict=True):
            assert np.array_equal(one, side[0] if "left" in text else side[0][:, ::-1])
            seen.add(text)
    assert len(seen) == 2


def test_relevance_grades_the_positives() -> None:
    metadata: list[dict[str, Any]] = [{"fit": 0.25}, {"fit": [0.5, 1]}, {}, {"fit": 0}]
    data = captioned([["a0"], ["b0", "b1"], ["c0"], ["d0"]], metadata=metadata)
    batches, words = made(data, relevance_key="fit", captions_per_image=2)
    grades = {"a0": 0.25, "b0": 0.5, "b1": 1.0, "c0": 1.0, "d0": 0.0}
    batch = batches.at(0)
    assert batch.positives is not None and batch.weights is not None
    expected = np.where(batch.positives, [grades[text] for text in texts_of(batch, words)], 0)
    assert batch.weights.dtype == np.float32 and np.allclose(batch.weights, expected)
    with pytest.raises(SourceError, match=r"'fit' of picture 1 is not a number from 0 to 1"):
        made(captioned([["a"], ["b"]], metadata=[{"fit": 2}, {}]), batch_size=2, relevance_key="fit")


def test_hard_neighbours_come_into_one_batch() -> None:
    data = numbered(16)
    table = np.array([[row ^ 1, -1] for row in range(16)])
    neighbours = Neighbours(table, "encoder", data.digest, 0.0)
    settings = DataSettings.model_validate({"mining": {"group_size": 2}})
    batches = make_batches(data, settings, Words(), batch_size=4, seed=0, neighbours=neighbours)
    orders = set()
    for step in range(12):
        rows = batches.at(step).rows.tolist()
        assert sorted(rows) == sorted(row ^ 1 for row in rows)
        orders.add(tuple(rows))
    assert len(orders) == 12
    with pytest.raises(SourceError, match="belong to other data"):
        make_batches(numbered(8), settings, Words(), batch_size=4, seed=0, neighbours=neighbours)


def test_settings_that_fight_are_refused() -> None:
    with pytest.raises(ValueError, match="keep one of balance_by and mine_with"):
        DataSettings(balance_by="label", mine_with="encoder")
    with pytest.raises(RecipeError, match="leave group_size"):
        make_batches(numbered(8), DataSettings(balance_by="x"), Words(), batch_size=4, seed=0, group_size=2)
    with pytest.raises(ValueError, match="extra"):
        DataSettings.model_validate({"ballance_by": "label"})


def test_one_process_of_several_gets_its_share_of_the_pictures_and_all_texts() -> None:
    def batches() -> Batches:
        data = captioned([[f"one {row}", f"two {row}"] for row in range(12)])
        return made(data, augmentation={"brightness": 0.5}, captions_per_image=2)[0]

    whole, first, second = batches(), batches(), batches()
    first.show_only(lambda count: slice(0, count // 2))
    second.show_only(lambda count: slice(count // 2, count))
    for step in range(4):
        batch, parts = whole.at(step), [one.at(step) for one in (first, second)]
        assert batch.pixels is not None
        assert np.array_equal(batch.pixels, np.concatenate([part.pixels for part in parts if part.pixels is not None]))
        for part in parts:
            assert np.array_equal(part.rows, batch.rows) and np.array_equal(part.tokens, batch.tokens)
