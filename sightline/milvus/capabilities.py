"""What each kind of Milvus server can do, by a table.

Milvus Lite takes any index type for an empty collection and fails when it builds it ("unknown index_type"), so nothing
is tried out: what is not in the table is refused before anything is written.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from typing import Literal

from sightline.errors import QueryError

MAX_K = 16_384
"""The most that one search or query of Milvus returns."""
EXACT = "FLAT"


@dataclass(frozen=True)
class ServerKind:
    """``index_types``: what may be built; ``half``: whether the server takes half-precision vectors."""

    name: str
    half: bool
    index_types: tuple[str, ...]
    scalar_index: bool
    """Whether fields that filters look at get an inverted index."""


@dataclass(frozen=True)
class IndexPlan:
    """An index type with how it is built and asked. A server takes queries of the type that it stores: an exact index
    is of float32 vectors, because a query rounded to float16 would propose other rows."""

    index_type: str
    vector_type: Literal["FLOAT_VECTOR", "FLOAT16_VECTOR"] = "FLOAT_VECTOR"
    build: dict[str, int | bool | str] = field(default_factory=dict)
    search: dict[str, int | float] = field(default_factory=dict)

    @property
    def exact(self) -> bool:
        return self.index_type == EXACT


LITE = ServerKind("Milvus Lite", False, (EXACT, "IVF_SQ8", "HNSW"), scalar_index=False)
MILVUS_2_4 = ServerKind("Milvus 2.4", True, (EXACT, "IVF_SQ8", "HNSW", "DISKANN"), scalar_index=True)
MILVUS_2_6 = ServerKind("Milvus 2.6", True, (*MILVUS_2_4.index_types, "IVF_RABITQ"), scalar_index=True)

_VERSION = re.compile(r"v?([0-9]+)\.([0-9]+)")
_EXACT_ROWS = 200_000
_SQ8_ROWS = 30_000_000


def kind_of(version: str) -> ServerKind:
    """The kind of a server by the version that it reports. Raises QueryError for one that is too old."""
    if "lite" in version.lower():
        return LITE
    match = _VERSION.match(version)
    if match is None or (int(match[1]), int(match[2])) < (2, 4):
        raise QueryError("This Milvus is older than 2.4, or says no version; update the server.")
    return MILVUS_2_6 if (int(match[1]), int(match[2])) >= (2, 6) else MILVUS_2_4


def choose(kind: ServerKind, num_rows: int, index_type: str = "auto") -> IndexPlan:
    """The plan for so many rows. Lite is exact unless told otherwise: it is for tests and small sets.

    Servers: exact up to 200,000 rows, then one byte a dimension in lists, and past 30 million one bit a dimension with
    one byte to re-rank from. Raises QueryError where the table does not have the index type for this server.
    """
    if index_type == "auto":
        if kind is LITE or num_rows <= _EXACT_ROWS:
            index_type = EXACT
        elif num_rows <= _SQ8_ROWS:
            index_type = "IVF_SQ8"
        else:
            index_type = "IVF_RABITQ" if "IVF_RABITQ" in kind.index_types else "DISKANN"
    if index_type not in kind.index_types:
        raise QueryError(
            f"{kind.name} cannot build an index of the type {index_type}; take one of auto, "
            f"{', '.join(kind.index_types)}."
        )
    lists = max(1, min(65_536, 1 << round(math.log2(4 * math.sqrt(max(num_rows, 1))))))
    probes = max(8, lists // 32)
    vectors: Literal["FLOAT_VECTOR", "FLOAT16_VECTOR"] = "FLOAT16_VECTOR" if kind.half else "FLOAT_VECTOR"
    plans = {
        EXACT: IndexPlan(EXACT),
        "IVF_SQ8": IndexPlan("IVF_SQ8", vectors, {"nlist": lists}, {"nprobe": min(probes, lists)}),
        "IVF_RABITQ": IndexPlan(
            "IVF_RABITQ", vectors, {"nlist": lists, "refine": True, "refine_type": "SQ8"},
            {"nprobe": min(probes, lists), "rbq_query_bits": 6, "refine_k": 4.0},
        ),
        "HNSW": IndexPlan("HNSW", vectors, {"M": 32, "efConstruction": 200}, {"ef": 256}),
        "DISKANN": IndexPlan("DISKANN", vectors, {}, {"search_list": 256}),
    }  # fmt: skip
    return plans[index_type]
