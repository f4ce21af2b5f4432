"""Damage at random: what a fuzzer does, from a seed, so that every run is the same."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

_INTERESTING = (b"\0", b"\xff", b"\x7f", b"\x80", b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\x80\0\0\0")


def mutated(seeds: Sequence[bytes], number: int, seed: int = 0) -> Iterator[bytes]:
    """``number`` damaged copies of the seeds: bytes flipped, replaced, cut out, put in, repeated, and seeds crossed."""
    dice = random.Random(seed)
    for _ in range(number):
        data = bytearray(dice.choice(seeds))
        for _ in range(dice.choice((1, 1, 1, 2, 4, 16))):
            _damage(data, dice, seeds)
        yield bytes(data)


def _damage(data: bytearray, dice: random.Random, seeds: Sequence[bytes]) -> None:
    place = dice.randrange(len(data) + 1)
    end = min(len(data), place + dice.choice((1, 2, 4, 16, 64, 1000)))
    kind = dice.randrange(7)
    if kind == 0 and place < len(data):
        data[place] ^= 1 << dice.randrange(8)
    elif kind == 1:
        value = dice.choice(_INTERESTING)
        data[place : place + len(value)] = value
    elif kind == 2:
        del data[place:end]
    elif kind == 3:
        data[place:place] = dice.randbytes(dice.choice((1, 2, 4, 16, 64)))
    elif kind == 4:
        data[place:place] = data[place:end] * dice.choice((1, 2, 50))
    elif kind == 5:
        other = dice.choice(seeds)
        data[place:] = other[min(place, len(other)) :]
    else:
        data[place:end] = dice.randbytes(end - place)
