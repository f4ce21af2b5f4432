"""The OpenAPI document: bodies, answers and problems of every route, with examples that a test validates.

Bodies are read by ``service.edge.bodies``, not by FastAPI (three forms for one route, limits before parsing), so their
schemas are described here and added to the document.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from service.edge import problems
from service.edge.middleware import OPENAI_PATHS
from service.edge.problems import PROBLEM_TYPE, Problem, problem_of, status_of
from service.encoding.quarantine import Quarantined
from service.label_sets import LabelSetSpec
from service.openapi import dialects, examples, schemas
from sightline import errors
from sightline.errors import SightlineError

DESCRIPTION = """\
Find pictures with words, words with pictures, and name what a picture shows.

Scores are cosines in [-1, 1]. Every answer names the collection generation and the encoder's fingerprint.
Errors are `application/problem+json` (RFC 9457) with a stable `code` and one sentence that contains the fix.
Send `X-Request-Timeout-Ms` to set a deadline, `X-Request-ID` to name a request; `Server-Timing` says where time went.
"""
TAGS = [
    {"name": "search", "description": "Pictures and captions that are near a text or a picture."},
    {"name": "zero-shot", "description": "Which of your labels a picture shows."},
    {"name": "embeddings", "description": "Vectors, in OpenAI's dialect."},
    {"name": "items", "description": "What the collection holds."},
    {"name": "service", "description": "What is served, by which encoder, within which limits."},
    {"name": "admin", "description": "Changing what is served; needs an administrator's key."},
    {"name": "probes", "description": "Health and metrics."},
    {"name": "clip-retrieval", "description": "clip-retrieval's dialect, for its clients."},
]
_BODIES: tuple[type[BaseModel], ...] = (
    schemas.TextToImageBody, schemas.ImageSearchBody, schemas.ZeroShotBody, dialects.EmbeddingsBody,
    dialects.KnnServiceBody, schemas.ReloadBody, dialects.MetadataBody, schemas.SearchParameters,
    schemas.ZeroShotParameters, LabelSetSpec, schemas.ItemParameters, schemas.ItemBody,
)  # fmt: skip
_REFERENCE = "#/components/schemas/{model}"
BODY_ERRORS = (problems.BodyMalformed, problems.BodyTooLarge, problems.MediaTypeUnsupported, problems.BodyInvalid)
_ENCODER_ERRORS = (
    Quarantined, errors.Overloaded, errors.EncodingFailed, errors.NotReady, errors.OutOfMemory, errors.DeadlineExceeded
)  # fmt: skip
TEXT_ROUTE = (*BODY_ERRORS, *_ENCODER_ERRORS)
IMAGE_ROUTE = (
    *BODY_ERRORS, errors.ImageCorrupt, errors.ImageTooLarge, errors.ImageFormatError,
    problems.UrlNotAllowed, problems.UrlFailed, *_ENCODER_ERRORS,
)  # fmt: skip


def json_body(model: type[BaseModel], **named: Any) -> dict[str, Any]:
    """``openapi_extra`` of a route that takes JSON, with named examples."""
    return {"requestBody": {"required": True, "content": {"application/json": _content(model, named)}}}


def optional(body: dict[str, Any]) -> dict[str, Any]:
    """The same for a route that does without a body too."""
    return {"requestBody": {**body["requestBody"], "required": False}}


def image_body(json_model: type[BaseModel], parameters: type[BaseModel], **named: Any) -> dict[str, Any]:
    """``openapi_extra`` of a route that takes a picture raw (parameters in the query), as multipart or as JSON."""
    binary = {"schema": {"type": "string", "format": "binary"}}
    form = parameters.model_json_schema()
    properties = {"image": {"type": "string", "format": "binary", "description": "The picture's file."}}
    for name, schema in form["properties"].items():
        properties[name] = schema
    for name in {"filter", "metadata"} & properties.keys():
        properties[name] = {"type": "string", "description": f"The {name} as a JSON string."}
    multipart = {"type": "object", "properties": properties, "required": ["image", *form.get("required", [])]}
    return {
        "parameters": [
            {
                "name": name, "in": "query", "required": False, "schema": _without_null(schema),
                "description": "With a raw body or multipart; in JSON it belongs into the body.",
            }
            for name, schema in properties.items() if name != "image"
        ],
        "requestBody": {
            "required": True,
            "content": {
                "image/*": binary,
                "application/octet-stream": binary,
                "multipart/form-data": {"schema": multipart},
                "application/json": _content(json_model, named),
            },
        },
    }  # fmt: skip


def answers(
    model: type[BaseModel], example: Any, kinds: Iterable[type[SightlineError]]
) -> dict[int | str, dict[str, Any]]:
    """``responses`` of a route: its answer with an example, and its problems, those of one status together."""
    described: dict[int | str, dict[str, Any]] = {
        200: {"model": model, "content": {"application/json": {"example": example}}}
    }
    by_status: dict[int, list[type[SightlineError]]] = {}
    for kind in kinds:
        by_status.setdefault(status_of(kind), []).append(kind)
    for status, found in sorted(by_status.items()):
        described[status] = {
            "description": "; ".join(f"`{kind.code}`" for kind in found),
            "content": {
                PROBLEM_TYPE: {
                    "schema": {"$ref": _REFERENCE.format(model=Problem.__name__)},
                    "examples": {kind.code: {"value": _problem_example(kind)} for kind in found},
                }
            },
        }
    return described


def raw_answer(description: str, media_type: str, *, binary: bool = False) -> dict[str, Any]:
    """A 200 that is not JSON."""
    schema = {"type": "string", "format": "binary"} if binary else {"type": "string"}
    return {"description": description, "content": {media_type: {"schema": schema}}}


def openai_answers(
    model: type[BaseModel], example: Any, kinds: Iterable[type[SightlineError]]
) -> dict[int | str, dict[str, Any]]:
    """The same with errors in OpenAI's shape."""
    described = answers(model, example, kinds)
    for status, response in described.items():
        if status != 200:
            shown = [entry["value"] for entry in response["content"].pop(PROBLEM_TYPE)["examples"].values()]
            response["content"]["application/json"] = {
                "schema": {"$ref": _REFERENCE.format(model=dialects.OpenAIError.__name__)},
                "examples": {problem["code"]: {"value": examples.openai_error(problem)} for problem in shown},
            }
    return described


def with_raw(described: dict[int | str, dict[str, Any]]) -> dict[int | str, dict[str, Any]]:
    """The same, where the 200 may also be bytes (``Accept: application/octet-stream``)."""
    described[200]["content"]["application/octet-stream"] = {"schema": {"type": "string", "format": "binary"}}
    return described


def document(app: FastAPI) -> Callable[[], dict[str, Any]]:
    """A replacement for ``app.openapi`` that knows the body schemas."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            made = get_openapi(
                title=app.title, version=app.version, description=app.description, routes=app.routes, tags=TAGS,
                license_info={"name": "Apache-2.0", "identifier": "Apache-2.0"}, servers=[{"url": "/"}],
            )  # fmt: skip
            models: tuple[type[BaseModel], ...] = (*_BODIES, Problem, dialects.OpenAIError)
            _, definitions = models_json_schema([(model, "validation") for model in models], ref_template=_REFERENCE)
            made.setdefault("components", {}).setdefault("schemas", {}).update(definitions["$defs"])
            _drop_validation_errors(made)
            _add_receipt_errors(made)
            app.openapi_schema = made
        return app.openapi_schema

    return openapi


def _drop_validation_errors(made: dict[str, Any]) -> None:
    """FastAPI gives every route with a parameter a 422 of its own shape, which is never sent."""
    for operation in (operation for path in made["paths"].values() for operation in path.values()):
        if "HTTPValidationError" in str(operation["responses"].get("422", "")):
            del operation["responses"]["422"]
    for name in ("HTTPValidationError", "ValidationError"):
        made["components"]["schemas"].pop(name, None)


def _add_receipt_errors(made: dict[str, Any]) -> None:
    """What any request may meet before a route sees it."""
    kinds = (problems.BodyTooSlow, problems.HeadersTooLarge)
    plain, openai = answers(Problem, {}, kinds), openai_answers(Problem, {}, kinds)
    for path, operations in made["paths"].items():
        for operation in operations.values():
            for status in map(status_of, kinds):
                described = copy.deepcopy(plain[status])
                if path in OPENAI_PATHS:  # a protocol that has not read the path yet knows no dialect
                    described["content"] |= openai[status]["content"]
                operation["responses"][str(status)] = described


def _without_null(schema: dict[str, Any]) -> dict[str, Any]:
    """A query string has no null: leaving a parameter out is the way to give none."""
    kept: list[dict[str, Any]] = [one for one in schema.get("anyOf", []) if one != {"type": "null"}]
    if len(kept) != 1:
        return schema
    rest = {name: value for name, value in schema.items() if name not in ("anyOf", "default")}
    return rest | kept[0]


def _content(model: type[BaseModel], named: dict[str, Any]) -> dict[str, Any]:
    return {
        "schema": {"$ref": _REFERENCE.format(model=model.__name__)},
        "examples": {name: {"value": value} for name, value in named.items()},
    }


def _problem_example(kind: type[SightlineError]) -> dict[str, Any]:
    sentence = examples.SENTENCES.get(kind.code, "One sentence that says what is wrong and how to mend it.")
    error = problems.BodyInvalid(sentence, []) if kind is problems.BodyInvalid else kind(sentence)
    return problem_of(error, "0f3a9c5e71d2b846")
