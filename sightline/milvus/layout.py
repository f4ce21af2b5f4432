"""How a generation lies in Milvus: the names of its collections, their fields, and rows as Milvus takes them."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from typing import Any

import numpy as np
import numpy.typing as npt

from sightline.collection import Item
from sightline.errors import QueryError
from sightline.milvus.capabilities import IndexPlan
from sightline.milvus.terms import MAX_TERM_BYTES, MAX_TERMS, Searchable

MAX_TEXT_BYTES = 65_535
"""The longest string that Milvus takes."""
ITEM_FIELDS = ("row", "item_id", "uri", "captions", "metadata", "width_px", "height_px")
CAPTION_FIELDS = ("row", "item_row", "caption")
ABOUT_FIELDS = ("row", "text")
_VERSION = re.compile(r"(.+)_v([0-9]{6})")
_DIM_ABOUT = 2


def images_of(version: str) -> str:
    return f"{version}_images"


def captions_of(version: str) -> str:
    return f"{version}_captions"


def about_of(version: str) -> str:
    return f"{version}_about"


def before(name: str) -> str:
    """The alias of the version that was served before."""
    return f"{name}_before"


def version_name(name: str, number: int) -> str:
    return f"{name}_v{number:06d}"


def number_of(version: str) -> int:
    match = _VERSION.fullmatch(version)
    return int(match[2]) if match else 0


def item_fields(plan: IndexPlan, dim: int) -> list[dict[str, Any]]:
    """The collection of pictures; ``item_key`` is the SHA-256 of the id, which may hold any letter."""
    return [
        _ROW, _text("item_id"), {"field_name": "item_key", "datatype": "VARCHAR", "max_length": 64},
        _text("uri"), _text("captions"), _text("metadata"),
        {"field_name": "width_px", "datatype": "INT64"}, {"field_name": "height_px", "datatype": "INT64"},
        _text("thumbnail"), *_looked_at(plan, dim),
    ]  # fmt: skip


def caption_fields(plan: IndexPlan, dim: int) -> list[dict[str, Any]]:
    """The collection of captions; what filters look at is that of their pictures."""
    return [_ROW, {"field_name": "item_row", "datatype": "INT64"}, _text("caption"), *_looked_at(plan, dim)]


def about_fields() -> list[dict[str, Any]]:
    """A few rows of text; Milvus wants a vector in each."""
    return [_ROW, _text("text"), {"field_name": "vector", "datatype": "FLOAT_VECTOR", "dim": _DIM_ABOUT}]


def about_rows(text: str) -> list[dict[str, Any]]:
    """A text of any length, in parts. ASCII, so that letters are bytes."""
    parts = [text[start : start + MAX_TEXT_BYTES] for start in range(0, len(text), MAX_TEXT_BYTES)]
    return [{"row": row, "text": part, "vector": [1.0] * _DIM_ABOUT} for row, part in enumerate(parts)]


def item_row(
    row: int,
    item: Item,
    vector: npt.NDArray[np.float16],
    thumbnail: bytes | None,
    looked_at: Searchable,
    plan: IndexPlan,
) -> dict[str, Any]:
    """A picture. Raises QueryError where a text of it is longer than Milvus takes."""
    picture = base64.b64encode(thumbnail or b"").decode("ascii")
    return {
        "row": row,
        "item_id": _checked("id", item.item_id, item),
        "item_key": item_key(item.item_id),
        "uri": _checked("uri", item.uri, item),
        "captions": _checked("captions", json.dumps(list(item.captions)), item),
        "metadata": _checked("metadata", json.dumps(item.metadata), item),
        "width_px": item.width_px,
        "height_px": item.height_px,
        "thumbnail": picture if len(picture) <= MAX_TEXT_BYTES else "",
        **_vector_row(vector, looked_at, plan),
    }


def caption_row(
    row: int, item_row: int, caption: str, vector: npt.NDArray[np.float16], looked_at: Searchable, plan: IndexPlan
) -> dict[str, Any]:
    """A caption of the picture at ``item_row``."""
    return {"row": row, "item_row": item_row, "caption": caption, **_vector_row(vector, looked_at, plan)}


def item_of(entity: dict[str, Any]) -> Item:
    """A picture from the fields ``ITEM_FIELDS``."""
    return Item(
        entity["item_id"], entity["uri"], tuple(json.loads(entity["captions"])), int(entity["width_px"]),
        int(entity["height_px"]), json.loads(entity["metadata"]),
    )  # fmt: skip


def item_key(item_id: str) -> str:
    return hashlib.sha256(item_id.encode("utf-8", "surrogatepass")).hexdigest()


def queries_for(queries: npt.NDArray[np.float32], plan: IndexPlan) -> list[Any]:
    """float32 ``[B, D]`` as the server takes query vectors: of the type that it stores."""
    if plan.vector_type == "FLOAT16_VECTOR":
        return [query.astype(np.float16) for query in queries]
    return [query.tolist() for query in queries]


def vectors_of(entities: list[dict[str, Any]], dim: int) -> npt.NDArray[np.float32]:
    """float32 ``[R, D]`` of what a server gives for ``vector``: floats, or the bytes of half-precision ones."""
    out = np.empty((len(entities), dim), np.float32)
    for place, entity in enumerate(entities):
        given = entity["vector"]
        if isinstance(given, list) and len(given) == 1 and isinstance(given[0], bytes):
            given = given[0]
        out[place] = np.frombuffer(given, np.float16) if isinstance(given, bytes) else np.asarray(given, np.float32)
    return out


_ROW: dict[str, Any] = {"field_name": "row", "datatype": "INT64", "is_primary": True}


def _text(name: str) -> dict[str, Any]:
    return {"field_name": name, "datatype": "VARCHAR", "max_length": MAX_TEXT_BYTES}


def _looked_at(plan: IndexPlan, dim: int) -> list[dict[str, Any]]:
    return [
        {"field_name": "terms", "datatype": "ARRAY", "element_type": "VARCHAR", "max_capacity": MAX_TERMS,
         "max_length": MAX_TERM_BYTES},
        {"field_name": "numbers", "datatype": "JSON"},
        {"field_name": "vector", "datatype": plan.vector_type, "dim": dim},
    ]  # fmt: skip


def _vector_row(vector: npt.NDArray[np.float16], looked_at: Searchable, plan: IndexPlan) -> dict[str, Any]:
    stored = vector if plan.vector_type == "FLOAT16_VECTOR" else vector.astype(np.float32)
    return {"terms": looked_at.terms, "numbers": looked_at.numbers, "vector": stored}


def _checked(what: str, text: str, item: Item) -> str:
    if len(text.encode("utf-8", "surrogatepass")) > MAX_TEXT_BYTES:
        raise QueryError(
            f"The {what} of the picture {item.item_id[:200]} has more than {MAX_TEXT_BYTES:,} bytes, which Milvus does "
            "not take; shorten it.", limit_bytes=MAX_TEXT_BYTES,
        )  # fmt: skip
    return text
