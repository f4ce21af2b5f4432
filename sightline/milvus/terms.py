"""Metadata as Milvus keeps it for filters: a list of terms and an object of numbers for each row.

Milvus could look into a JSON field itself, but what it does there with a missing key under ``not``, with lists, with
``true`` and ``1`` or with whole numbers beyond 2^53 differs from version to version and from ours. A list of terms has
one meaning everywhere: ``colour=s:red`` is in it or not. Numbers for ranges are kept as floats, by key, where a row has
exactly one that a float holds; a row with several, or with one that no float holds, is marked, and filters that
compare with it are evaluated by us for the marked rows.

Terms are letters, digits and ``._~%=:#!-``: nothing in them can end a string of an expression.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from sightline.columns import MetadataColumns
from sightline.filters import Scalar

MAX_TERMS = 4096
"""The most entries that Milvus takes in an array."""
MAX_TERM_BYTES = 256
CUT = "!"
"""The term of a row that has more terms than fit: no filter can be answered from its terms."""
_EXACT = 2**53
_PLAIN_KEY = re.compile(r"[A-Za-z0-9_]{1,64}")


@dataclass(frozen=True)
class Searchable:
    """What filters look at in one row."""

    terms: list[str]
    numbers: dict[str, float]


def searchable(metadata: Mapping[str, Any]) -> Searchable:
    """The terms and numbers of one row's metadata."""
    if not metadata:
        return Searchable([], {})
    columns = MetadataColumns([metadata])
    terms: set[str] = set()
    numbers: dict[str, float] = {}
    for key in columns.keys:
        values = columns.column(key).values()
        terms.update(value_term(key, value) for value in values if value == value)  # NaN equals nothing
        measured = [one for one in values if not isinstance(one, str | bool) and one == one]
        if len(measured) == 1 and math.isfinite(measured[0]) and -_EXACT <= measured[0] <= _EXACT:
            numbers[number_key(key)] = float(measured[0])
            terms.add(number_term(key))
        elif measured:
            terms.add(odd_term(key))
    if len(terms) > MAX_TERMS:
        return Searchable([CUT], {})
    return Searchable(sorted(terms), numbers)


def value_term(key: str, value: Scalar) -> str:
    """The term of a value at a key: the same for equal values, 1 and 1.0 among them, and for no others."""
    if isinstance(value, str):
        written = f"s:{_quoted(value)}"
    elif isinstance(value, bool):
        written = f"b:{value}"
    elif isinstance(value, float) and not value.is_integer():
        written = f"n:{value!r}"
    else:
        written = f"n:{int(value)}"
    return _short(f"{_quoted(key)}={written}")


def number_term(key: str) -> str:
    """The term of a row whose only number at a key is in ``numbers``."""
    return _short(f"{_quoted(key)}#")


def odd_term(key: str) -> str:
    """The term of a row with numbers at a key that ``numbers`` cannot hold."""
    return _short(f"{_quoted(key)}!")


def number_key(key: str) -> str:
    """The name of a key in ``numbers``: letters, digits and underscores."""
    if _PLAIN_KEY.fullmatch(key):
        return f"n_{key}"
    return f"h_{hashlib.sha256(key.encode('utf-8', 'surrogatepass')).hexdigest()[:32]}"


def _quoted(text: str) -> str:
    return quote(text, safe="", errors="surrogatepass")


def _short(term: str) -> str:
    return term if len(term) <= MAX_TERM_BYTES else f"~{hashlib.sha256(term.encode()).hexdigest()}"
