"""Remembered vectors: never a wrong one, never more than the bound."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from service.encoding.vector_cache import ContentKeys, VectorCache
from service.metrics import Metrics

ENTRY = 8 * 4 + 256


def vector(number: int) -> np.ndarray:
    return np.full(8, number, dtype=np.float32)


@given(st.lists(st.text() | st.binary() | st.sampled_from(["text", b"text", "image", b"image", "", b""]), max_size=8))
def test_different_content_has_different_keys(contents: list[str | bytes]) -> None:
    contents = [one.encode("utf-8", "replace").decode() if isinstance(one, str) else one for one in contents]
    keys = ContentKeys("f" * 64)
    distinct = {(type(one), one) for one in contents}
    assert len({keys.key(one) for _, one in distinct}) == len(distinct)


@given(st.text(max_size=6), st.text(max_size=6), st.binary(max_size=6), st.binary(max_size=6))
def test_what_is_joined_differently_has_another_key(one: str, two: str, first: bytes, second: bytes) -> None:
    """Moving bytes from the fingerprint into the content, or from text to picture, cannot make two inputs one."""
    pairs: list[tuple[str, str | bytes]] = [
        (f, c) for f in {one, two, one + two} for c in (first, second, first + second)
    ]
    pairs += [(f, c) for f in {one, two} for c in (one, two, one + two, "text" + one)]
    made = {
        (fingerprint, type(content), content): ContentKeys(fingerprint).key(content) for fingerprint, content in pairs
    }
    assert len(set(made.values())) == len(made)


def test_the_least_recently_used_goes_first() -> None:
    metrics = Metrics("0")
    cache = VectorCache(2 * ENTRY, metrics)
    cache.put(b"1", vector(1))
    cache.put(b"2", vector(2))
    assert cache.get(b"1") is not None
    cache.put(b"3", vector(3))
    assert cache.get(b"2") is None
    assert [int(cache.get(key)[0]) for key in (b"1", b"3")] == [1, 3]  # type: ignore[index]
    assert metrics.registry.get_sample_value("sightline_vector_cache_bytes") == 2 * ENTRY


def test_no_bytes_remember_nothing() -> None:
    cache = VectorCache(0, Metrics("0"))
    cache.put(b"1", vector(1))
    assert len(cache) == 0


def test_a_vector_is_a_copy_that_nobody_can_change() -> None:
    cache = VectorCache(10 * ENTRY, Metrics("0"))
    batch = np.stack([vector(1), vector(2)])  # [2, D]
    cache.put(b"1", batch[0])
    batch[:] = 9
    kept = cache.get(b"1")
    assert kept is not None
    assert kept.base is None
    assert not kept.flags.writeable
    np.testing.assert_array_equal(kept, vector(1))


@given(st.lists(st.tuples(st.integers(0, 9), st.booleans())))
def test_a_key_gives_its_own_vector_or_none(steps: list[tuple[int, bool]]) -> None:
    cache = VectorCache(3 * ENTRY, Metrics("0"))
    for number, put in steps:
        key = bytes([number])
        if put:
            cache.put(key, vector(number))
        found = cache.get(key)
        assert found is None or found[0] == number
        assert len(cache) <= 3
