"""OpenAI's embeddings dialect: what its clients send, as our inputs, and our vectors, as what its clients read.

An item is a string, a ``data:image/…`` string, ``{"text": …}``, ``{"image": base64 or data URI}`` or an ``image_url``
part whose URL is a data URI, or an address where the operator allows it. The official clients ask for base64:
little-endian float32.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from service.context import naming_input
from service.edge.bodies import decode_base64, picture_of
from service.edge.fetching import ImageAddress
from service.edge.problems import ModelUnknown
from service.openapi.schemas import EmbeddingItem, EmbeddingsBody
from sightline.errors import QueryError


def check_request(body: EmbeddingsBody, model: str, fingerprint: str, dim: int) -> None:
    """Raise ModelUnknown or QueryError when something other than the served encoder is asked for."""
    if body.model is not None and body.model not in (model, fingerprint):
        raise ModelUnknown("This service runs another model; take its name from GET /v1/models or leave model out.")
    if body.dimensions is not None and body.dimensions != dim:
        raise QueryError(
            f"The encoder gives {dim} dimensions and was not trained to be cut; leave dimensions out.", dim=dim
        )


def inputs_of(body: EmbeddingsBody, max_image_bytes: int) -> list[str | bytes | ImageAddress]:
    """The inputs in order: texts as str, pictures as their encoded bytes or their address.

    May decode megabytes: run it in a pool.
    """
    listed = body.input if isinstance(body.input, list) else [body.input]
    inputs: list[str | bytes | ImageAddress] = []
    for position, one in enumerate(listed):
        with naming_input(position, len(listed)):
            inputs.append(_input(one, max_image_bytes))
    return inputs


def answer(vectors: npt.NDArray[np.float32], body: EmbeddingsBody, model: str, fingerprint: str) -> dict[str, Any]:
    """Vectors float32 ``[B, D]`` as OpenAI's list."""
    encoded: Sequence[str | list[float]]
    if body.encoding_format == "base64":
        little = np.ascontiguousarray(vectors, dtype="<f4")
        encoded = [base64.b64encode(vector.tobytes()).decode("ascii") for vector in little]
    else:
        encoded = vectors.tolist()
    return {
        "object": "list",
        "data": [{"object": "embedding", "index": i, "embedding": one} for i, one in enumerate(encoded)],
        "model": model,
        "usage": {"prompt_tokens": 0, "total_tokens": 0},
        "sightline": {"encoder": fingerprint},
    }


def _input(one: str | EmbeddingItem, max_image_bytes: int) -> str | bytes | ImageAddress:
    if isinstance(one, str):
        return decode_base64(one, max_image_bytes) if one[:11].lower() == "data:image/" else one
    given = [value for value in (one.text, one.image, one.image_url) if value is not None]
    if len(given) != 1:
        raise QueryError("An input object holds exactly one of text, image and image_url; split it.")
    if one.text is not None:
        return one.text
    if one.image is not None:
        return picture_of(one.image, max_image_bytes)
    assert one.image_url is not None
    return picture_of(one.image_url if isinstance(one.image_url, str) else one.image_url.url, max_image_bytes)
