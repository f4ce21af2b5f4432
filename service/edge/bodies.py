"""Bodies to bytes and parameters: raw picture, multipart or JSON with base64, each checked before it costs anything.

Nothing here trusts a file name or a declared type beyond choosing the parser; what the bytes are is decided by their
own header in ``sightline.images``. Large bodies are parsed in the decode pool, not on the event loop.
"""

from __future__ import annotations

import binascii
import json
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import pybase64
import pydantic_core
from pydantic import BaseModel, ValidationError
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from service.edge.fetching import ImageAddress
from service.edge.problems import BodyInvalid, BodyMalformed, MediaTypeUnsupported
from service.zero_shot import MAX_LABELS, MAX_TEMPLATES
from sightline.errors import ImageCorrupt, ImageTooLarge

B = TypeVar("B", bound=BaseModel)
T = TypeVar("T")
Offload = Callable[..., Awaitable[Any]]
"""Runs a function with its arguments in a pool."""
Fetch = Callable[[ImageAddress], Awaitable[bytes]]
"""Fetches the picture at an address, or refuses to."""

_INLINE_BYTES = 128 * 1024
_MAX_FORM_PART_BYTES = 64 * 1024
_RAW_TYPES = ("application/octet-stream", "")
_UNION_MEMBERS = frozenset({"str", "list", "float", "int"})
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*:", re.IGNORECASE | re.ASCII)
_LISTS = frozenset({"labels", "templates", "captions"})
_OBJECTS = frozenset({"filter", "metadata"})
_THREE_WAYS = (
    "send the picture as the body with Content-Type: image/jpeg (or its own type), as multipart/form-data with a file "
    "part named image, or as application/json with base64 in image"
)


@dataclass(frozen=True)
class ImageRequest(Generic[B]):
    """A picture, still encoded, and the parameters that came with it."""

    image: bytes
    parameters: B


async def read_json(request: Request, model: type[B], offload: Offload) -> B:
    """A JSON body as a model. Raises MediaTypeUnsupported, BodyMalformed or BodyInvalid."""
    kind = _media_type(request)
    if kind != "" and kind != "application/json" and not kind.endswith("+json"):
        raise MediaTypeUnsupported("This route takes JSON; send it with Content-Type: application/json.")
    body = await request.body()
    if len(body) <= _INLINE_BYTES:
        return _parse(body, model)
    return await offload(_parse, body, model)  # type: ignore[no-any-return]


async def read_image(
    request: Request, parameters: type[B], json_body: type[B], *, max_image_bytes: int, offload: Offload, fetch: Fetch
) -> ImageRequest[B]:
    """A picture in any of the three forms with its parameters.

    Parameters come from the query string, the form or the JSON body; one that is given twice is refused.
    Raises MediaTypeUnsupported, BodyMalformed, BodyInvalid, ImageCorrupt (empty), ImageTooLarge and what
    ``fetch`` raises.
    """
    kind = _media_type(request)
    query = _collect(request.query_params.multi_items())
    if kind == "application/json" or kind.endswith("+json"):
        if query:
            raise BodyInvalid(
                "With a JSON body the parameters belong into the body; move them from the query string.", []
            )
        body = await read_json(request, json_body, offload)
        encoded: str = body.image  # type: ignore[attr-defined]
        image = await _offload_if_large(offload, len(encoded), picture_of, encoded, max_image_bytes)
        if isinstance(image, ImageAddress):
            image = await fetch(image)
        given = {name: getattr(body, name) for name in body.model_fields_set if name != "image"}
        return ImageRequest(image, parameters.model_construct(**_with_defaults(parameters, given)))
    if kind == "multipart/form-data":
        image, fields = await _read_multipart(request)
        twice = query.keys() & fields.keys()
        if twice:
            raise BodyInvalid(f"'{min(twice)}' is given twice, in the form and in the query string; give it once.", [])
        return ImageRequest(image, _validate(query | fields, parameters, strict=False))
    if kind.startswith("image/") or kind in _RAW_TYPES:
        return ImageRequest(await request.body(), _validate(query, parameters, strict=False))
    raise MediaTypeUnsupported(f"A body of this content type is not understood; {_THREE_WAYS}.")


def picture_of(text: str, max_bytes: int) -> bytes | ImageAddress:
    """The picture that a string of a JSON body holds or names: base64, a data URI, or an address to fetch.

    Raises what ``decode_base64`` raises. An address is recognised, not checked.
    """
    if _SCHEME.match(text) and text[:5].lower() != "data:":
        return ImageAddress(text)
    return decode_base64(text, max_bytes)


def decode_base64(text: str, max_bytes: int) -> bytes:
    """Bytes of a base64 string or data URI; the length is checked before anything is decoded.

    Raises BodyMalformed, ImageTooLarge or ImageCorrupt (empty).
    """
    if text[:5].lower() == "data:":
        head, comma, text = text.partition(",")
        if not comma or not head.lower().endswith(";base64"):
            raise BodyMalformed("The data URI is not base64; write it like data:image/jpeg;base64,….")
    if len(text) > (max_bytes + 2) // 3 * 4 * 1.03 + 16:  # lines of 76 letters add 1.3 %
        raise ImageTooLarge(
            f"The picture in base64 is larger than the limit of {max_bytes:,} bytes; send a smaller file.",
            limit_bytes=max_bytes,
        )
    if any(blank in text for blank in "\r\n"):
        text = text.replace("\r", "").replace("\n", "")
    try:
        data = pybase64.b64decode(text, validate=True)  # 20 times as fast as the standard library's
    except (binascii.Error, ValueError) as error:
        raise BodyMalformed("The picture is not valid base64; encode the file's bytes with standard base64.") from error
    if not data:
        raise ImageCorrupt("The image is empty (0 bytes); send the complete file.")
    return data


def parse_json(body: bytes) -> object:
    """JSON without NaN and infinities (which are not JSON). Raises BodyMalformed."""
    if not body.strip():
        raise BodyMalformed("The body is empty; send a JSON object.")
    try:
        return pydantic_core.from_json(body, allow_inf_nan=False)
    except ValueError as error:
        raise BodyMalformed(
            "The body is not valid JSON (UTF-8, no NaN or Infinity); check quotes and commas."
        ) from error


def _parse(body: bytes, model: type[B]) -> B:
    value = parse_json(body)
    if not isinstance(value, dict):
        raise BodyMalformed("The body is JSON but not an object; wrap it in braces: {…}.")
    return _validate(value, model, strict=True)


def _validate(values: Mapping[str, Any], model: type[B], *, strict: bool) -> B:
    """``strict`` for JSON, which has types; query strings and forms have none and are converted."""
    try:
        return model.model_validate(dict(values), strict=strict)
    except ValidationError as error:
        raise explain(error, model) from error


def explain(error: ValidationError, model: type[BaseModel]) -> BodyInvalid:
    """A validation error as one sentence about its first issue, and a list of all of them."""
    places: dict[str, list[Mapping[str, Any]]] = {}
    for issue in error.errors(include_url=False, include_input=False):
        place = "/" + "/".join(str(part)[:64] for part in issue["loc"] if _is_key(part))
        places.setdefault(place, []).append(issue)
    for place in list(places):  # where one member of a union fits so far, the others' complaints are noise
        better = [issue for issue in places[place] if not str(issue["type"]).endswith("_type")]
        if better:
            places[place] = better
        elif any(other != place and other.startswith(place + "/") for other in places):
            del places[place]
    issues = [{"pointer": place, "detail": _sentence(found, model)} for place, found in list(places.items())[:10]]
    return BodyInvalid(issues[0]["detail"], issues)


def _is_key(part: object) -> bool:
    """Pydantic names the member of a union it tried; that is not a place in the body."""
    return isinstance(part, int) or (
        isinstance(part, str) and part.islower() and part.isidentifier() and part not in _UNION_MEMBERS
    )


def _sentence(found: Sequence[Mapping[str, Any]], model: type[BaseModel]) -> str:
    issue = found[0]
    name = str(issue["loc"][0]) if issue["loc"] else "the body"
    name = name if len(name) <= 64 else name[:64] + "…"
    limits = issue.get("ctx", {})
    sentences = {
        "missing": f"'{name}' is missing; add it.",
        "extra_forbidden": f"'{name}' is not known here; the keys are {', '.join(model.model_fields)}.",
        "greater_than_equal": f"'{name}' is too small; the smallest value is {limits.get('ge')}.",
        "less_than_equal": f"'{name}' is too large; the largest value is {limits.get('le')}.",
        "too_long": f"'{name}' has too many entries; the limit is {limits.get('max_length')}.",
        "too_short": f"'{name}' is an empty list; give at least {limits.get('min_length')}.",
        "literal_error": f"'{name}' must be {limits.get('expected')}.",
        "finite_number": f"'{name}' must be a finite number.",
        "string_pattern_mismatch": f"'{name}' must look like this pattern: {limits.get('pattern')}.",
    }
    wanted = dict.fromkeys(_expected(str(one["type"])) for one in found)
    inside = any(isinstance(part, int) for part in issue["loc"])
    subject = f"An entry of '{name}'" if inside else f"'{name}'"
    return sentences.get(str(issue["type"]), f"{subject} has the wrong type; it must be {' or '.join(wanted)}.")


def _expected(kind: str) -> str:
    words = {"int": "a whole number", "float": "a number", "string": "a string", "list": "a list",
             "bool": "true or false", "dict": "an object", "model": "an object"}  # fmt: skip
    return next((text for start, text in words.items() if kind.startswith(start)), "of another type")


def _with_defaults(model: type[BaseModel], given: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: given.get(name, field.get_default(call_default_factory=True))
        for name, field in model.model_fields.items()
    }


async def _offload_if_large(offload: Offload, size: int, function: Callable[..., T], *arguments: object) -> T:
    if size <= _INLINE_BYTES:
        return function(*arguments)
    return await offload(function, *arguments)  # type: ignore[no-any-return]


def _media_type(request: Request) -> str:
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("", "identity"):
        raise MediaTypeUnsupported("Compressed bodies are not taken; send it without Content-Encoding.")
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


class _InMemoryParser(MultiPartParser):
    """The body's size is bounded already: no need to spool to a disk that may be read-only."""

    spool_max_size = 2**40


async def _read_multipart(request: Request) -> tuple[bytes, dict[str, Any]]:
    parser = _InMemoryParser(
        request.headers, request.stream(), max_files=2, max_fields=MAX_LABELS + MAX_TEMPLATES + 8,
        max_part_size=_MAX_FORM_PART_BYTES,
    )  # fmt: skip
    try:
        form = await parser.parse()
    except (MultiPartException, UnicodeError) as error:
        raise BodyMalformed(
            "The multipart body is broken or too large in its parts; use an ordinary form encoder."
        ) from error
    files = [(name, value) for name, value in form.multi_items() if isinstance(value, UploadFile)]
    texts = [(name, value) for name, value in form.multi_items() if isinstance(value, str)]
    if [name for name, _ in files] != ["image"]:
        raise BodyMalformed("The form needs exactly one file part, named image; with curl: -F image=@photo.jpg.")
    image = await files[0][1].read()
    await form.close()
    return image, _collect(texts)


def _collect(pairs: Iterable[tuple[str, str]]) -> dict[str, Any]:
    """Form or query fields by name: lists for repeatable ones, parsed JSON for ``filter`` and ``metadata``; others
    only once."""
    fields: dict[str, Any] = {}
    for name, value in pairs:
        if name in _LISTS:
            fields.setdefault(name, []).append(value)
        elif name in fields:
            raise BodyInvalid(f"'{name[:64]}' is given twice; give it once.", [])
        else:
            fields[name] = _object_field(name, value) if name in _OBJECTS else value
    for name in _LISTS & fields.keys():
        if len(fields[name]) == 1 and fields[name][0].lstrip().startswith("["):
            fields[name] = _json_list(fields[name][0], name)
    return fields


def _object_field(name: str, value: str) -> object:
    try:
        return pydantic_core.from_json(value, allow_inf_nan=False)
    except ValueError as error:
        example = '{"must": […]}' if name == "filter" else '{"year": 2024}'
        raise BodyInvalid(f"The field {name} is not valid JSON; write it like {example}.", []) from error


def _json_list(value: str, name: str) -> object:
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return [value]  # a label that begins with a bracket
