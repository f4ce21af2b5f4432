"""B14: texts that were made to be expensive, with the real tokenizer: 50 ms of CPU each at most, and never a 5xx."""

from __future__ import annotations

import json
import random
import time
from pathlib import Path

import httpx
import pytest

from sightline.encoder import Encoder
from sightline.errors import TextError
from sightline.texts import TextLimits, check_text
from tests.e2e.running import serving

pytestmark = pytest.mark.fault

LIMITS = TextLimits()
LIMIT_SECONDS = 0.05
_random = random.Random(7)


def _letters(number: int, alphabet: str = "abcdefghijklmnopqrstuvwxyz") -> str:
    return "".join(_random.choice(alphabet) for _ in range(number))


REFUSED = {
    "one word of 16,000 letters": "a" * 16_000,
    "one word of 101": "a" * 101,
    "10,000 characters": "word " * 2000,
    "1 MB": "word " * 200_000,
    "1 MB in one word": _letters(1_000_000),
    "punctuation": "!" * 1000,
    "html": "&amp;" * 200,
    "marks on one letter": "a" + "\u0300" * 1000,
    "nothing to see": "\u200b" * 1000,
    "spaces of all kinds": "\u00a0\u2003\t\n" * 100,
}
TAKEN = {
    "ten words of 100 letters": " ".join(_letters(100) for _ in range(10)),
    "rare letters": " ".join("".join(chr(_random.randint(0x4E00, 0x9FFF)) for _ in range(100)) for _ in range(10)),
    "emoji": " ".join("\U0001f600" * 100 for _ in range(10)),
    "families of emoji": " ".join("\U0001f468\u200d\U0001f469\u200d\U0001f467" * 19 for _ in range(10)),
    "marks": " ".join("a" + "\u0300" * 99 for _ in range(10)),
    "one sign that becomes eighteen": " ".join("\ufdfa" * 100 for _ in range(10)),
    "twice encoded": " ".join("\u00c3\u00a2\u00e2\u201a\u00ac" * 20 for _ in range(10)),
    "control characters": "".join(map(chr, range(1, 32))) + " red",
    "NUL": "red\0blue",
    "right to left": "\u202eabc \u200f\u05d0\u05d1\u05d2",
    "half of a pair": "\ud800 red \udfff",
    "unassigned": "".join(chr(0xE000 + number) for number in range(100)),
    "special tokens": "<start_of_text> <end_of_text>" * 20,
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_costs_too_much_is_refused_before_the_tokenizer(name: str) -> None:
    started = time.process_time()
    with pytest.raises(TextError):
        check_text(REFUSED[name], LIMITS)
    assert time.process_time() - started < LIMIT_SECONDS


@pytest.mark.parametrize("name", TAKEN)
def test_what_is_taken_costs_little(name: str, tiny_encoder: Encoder) -> None:
    tiny_encoder.tokenize(["warm up"])
    started = time.process_time()
    tokens = tiny_encoder.tokenize([check_text(TAKEN[name], LIMITS)])
    seconds = time.process_time() - started
    assert tokens.shape[0] == 1
    assert seconds < LIMIT_SECONDS


def test_none_of_them_hurts_the_service(collection: Path) -> None:
    """R18: nor do they keep it from answering others."""
    with serving(collection) as url, httpx.Client(base_url=url, timeout=30) as client:
        for texts, statuses in ((REFUSED, {413, 422}), (TAKEN, {200, 400})):
            for name, text in texts.items():
                body = b'{"text": ' + json.dumps(text).encode() + b"}"
                answer = client.post("/v1/text-to-image", content=body, headers={"content-type": "application/json"})
                assert answer.status_code in statuses, (name, answer.text)
                assert client.get("/livez").elapsed.total_seconds() < 0.2, name
