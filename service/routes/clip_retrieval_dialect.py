"""clip-retrieval's dialect: its clients' bodies as our questions.

Its clients always send options of its own pipeline (safety, violence and aesthetic models, multilingual CLIP,
deduplication). They are accepted, and those that were switched on are named in the answer's ``Sightline-Ignored``
header: duplicates are removed when a collection is built, the rest Sightline does not do.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from service.edge.bodies import picture_of
from service.edge.fetching import ImageAddress
from service.openapi.dialects import KnnServiceBody
from sightline.errors import NotFound, QueryError

IGNORED_HEADER = "Sightline-Ignored"
_IGNORED = (
    "use_mclip", "deduplicate", "use_safety_model", "use_violence_detector", "aesthetic_score",
    "aesthetic_weight",
)  # fmt: skip


def question_of(
    body: KnnServiceBody, collection: str, dim: int, max_image_bytes: int
) -> str | bytes | ImageAddress | npt.NDArray[np.float32]:
    """What is searched with: a text, an encoded picture or its address, or a unit vector float32 ``[D]``.

    Raises QueryError, NotFound (another index), BodyMalformed or ImageTooLarge.
    """
    check_index(body.indice_name, collection)
    given = [one for one in (body.text, body.image, body.image_url, body.embedding_input) if one]
    if len(given) != 1:
        raise QueryError("Give exactly one of text, image, image_url and embedding_input to search with.")
    if body.embedding_input:
        return _unit(body.embedding_input, dim)
    picture = body.image or body.image_url
    if picture:
        return picture_of(picture, max_image_bytes)
    assert body.text
    return body.text


def check_index(name: str | None, collection: str) -> None:
    """Raise NotFound when another index than the served collection is named; no name means the one there is."""
    if name not in (None, "", collection):
        raise NotFound("There is no index of this name here; GET /indices-list names the one there is.")


def ignored_options(body: KnnServiceBody) -> str:
    """The names of options that were given, switched on, and have no effect; comma-separated.

    ``num_result_ids`` asks for ids beyond ``num_images``; its Python client always sends the same number for both.
    """
    names = [name for name in _IGNORED if getattr(body, name) not in (None, False, "")]
    if body.num_result_ids is not None and body.num_result_ids > body.num_images:
        names.insert(0, "num_result_ids")
    return ", ".join(names)


def _unit(values: list[float], dim: int) -> npt.NDArray[np.float32]:
    vector = np.asarray(values, dtype=np.float64)
    largest = float(np.abs(vector).max())
    if vector.shape != (dim,) or largest == 0.0:
        raise QueryError(f"embedding_input must be {dim} numbers that are not all zero.", dim=dim)
    vector /= largest  # so that the squares below cannot overflow
    return np.asarray(vector / np.linalg.norm(vector), dtype=np.float32)
