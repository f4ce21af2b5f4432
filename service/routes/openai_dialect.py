"""OpenAI's embeddings dialect: what its clients send, as our inputs, and our vectors, as what its clients read.

An item is a string, a ``data:image/…`` string, ``{"text": …}``, ``{"image": base64 or data URI}`` or an ``image_url``
part whose URL is a data URI, or an address where the operator allows it. The official clients ask for base64:
little-endian float32. Two relatives are understood too: Infinity's ``modality``, which says what the strings of the
whole request are, and vLLM's ``messages`` in place of ``input``.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from service.context import naming_input
from service.edge.bodies import picture_of
from service.edge.fetching import ImageAddress
from service.edge.problems import ModelUnknown
from service.openapi.dialects import EmbeddingItem, EmbeddingsBody, Message
from sightline.errors import QueryError

Vectors = npt.NDArray[np.float32]
Given = str | bytes | ImageAddress

RAW_TYPE = "application/octet-stream"
_INLINE_CHARS = 8192


def check_request(body: EmbeddingsBody, model: str, fingerprint: str, dim: int) -> None:
    """Raise ModelUnknown or QueryError when something other than the served encoder is asked for."""
    if body.model is not None and body.model not in (model, fingerprint):
        raise ModelUnknown("This service runs another model; take its name from GET /v1/models or leave model out.")
    if body.dimensions is not None and body.dimensions > dim:
        raise QueryError(f"The encoder gives {dim} dimensions; ask for at most as many.", dim=dim)
    if (body.input is None) == (body.messages is None):
        raise QueryError("Give either input or messages.")


def is_small(body: EmbeddingsBody) -> bool:
    """Whether reading the inputs costs less than handing them to a thread."""
    return isinstance(body.input, str) and len(body.input) <= _INLINE_CHARS


def inputs_of(body: EmbeddingsBody, max_image_bytes: int) -> list[Given]:
    """The inputs in order: texts as str, pictures as their encoded bytes or their address.

    May decode megabytes: run it in a pool. Raises QueryError and what ``picture_of`` raises.
    """
    listed = _listed(body)
    inputs: list[Given] = []
    for position, one in enumerate(listed):
        with naming_input(position, len(listed)):
            inputs.append(_given(one, body.modality, max_image_bytes))
    return inputs


def shortened(vectors: Vectors, dimensions: int | None) -> Vectors:
    """The first ``dimensions`` of unit vectors ``[B, D]``, made unit vectors again; one that is cut to nothing stays 0.

    What that costs in quality depends on training: only in Matryoshka-trained encoders do the first ones matter most.
    """
    if dimensions is None or dimensions == vectors.shape[1]:
        return vectors
    cut = vectors[:, :dimensions]  # [B, d]
    lengths = np.linalg.norm(cut, axis=1, keepdims=True)  # [B, 1]
    return np.asarray(cut / np.where(lengths > 0.0, lengths, 1.0), dtype=np.float32)


def answer(vectors: Vectors, body: EmbeddingsBody, model: str, fingerprint: str) -> dict[str, Any]:
    """Vectors float32 ``[B, D]`` as OpenAI's list."""
    encoded: Sequence[str | list[float]]
    if body.encoding_format == "base64":
        encoded = [base64.b64encode(vector).decode("ascii") for vector in little_endian(vectors)]
    else:
        encoded = vectors.tolist()
    return {
        "object": "list",
        "data": [{"object": "embedding", "index": i, "embedding": one} for i, one in enumerate(encoded)],
        "model": model,
        "usage": {"prompt_tokens": 0, "total_tokens": 0},
        "sightline": {"encoder": fingerprint},
    }


def little_endian(vectors: Vectors) -> Vectors:
    """The same numbers, row after row, as every client reads them."""
    return np.ascontiguousarray(vectors, dtype="<f4")


def _listed(body: EmbeddingsBody) -> Sequence[str | EmbeddingItem | list[Message]]:
    if body.messages is None:
        assert body.input is not None
        return body.input if isinstance(body.input, list) else [body.input]
    if isinstance(body.messages[0], list):
        return [one for one in body.messages if isinstance(one, list)]
    return [[one for one in body.messages if isinstance(one, Message)]]


def _given(one: str | EmbeddingItem | list[Message], modality: str | None, max_image_bytes: int) -> Given:
    if isinstance(one, list):
        one = _only_content(one)
    if isinstance(one, str):
        is_picture = modality == "image" or (modality is None and one[:11].lower() == "data:image/")
        return picture_of(one, max_image_bytes) if is_picture else one
    given = [value for value in (one.text, one.image, one.image_url) if value is not None]
    if len(given) != 1:
        raise QueryError("An input object holds exactly one of text, image and image_url; split it.")
    if one.text is not None:
        return one.text
    if one.image is not None:
        return picture_of(one.image, max_image_bytes)
    assert one.image_url is not None
    return picture_of(one.image_url if isinstance(one.image_url, str) else one.image_url.url, max_image_bytes)


def _only_content(messages: list[Message]) -> str | EmbeddingItem:
    contents = [part for one in messages for part in (one.content if isinstance(one.content, list) else [one.content])]
    if len(contents) != 1:
        raise QueryError("This encoder makes one vector of one text or one picture; send each as messages of its own.")
    return contents[0]
