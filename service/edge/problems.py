"""Errors as answers: RFC 9457 ``application/problem+json`` with a stable ``code``, one sentence and the fix.

The sentence of an error that the caller caused is the error's own. Of an error that the operator must mend (set-up,
storage, corruption) the caller learns only that, and the request id under which the log has the rest. The text of any
other exception never leaves the process: it may hold addresses and paths (vLLM CVE-2026-22778).
"""

from __future__ import annotations

import http
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict
from starlette.responses import JSONResponse, Response

from sightline import errors
from sightline.errors import InputError, SightlineError

PROBLEM_TYPE = "application/problem+json"
TYPE_PREFIX = "/docs/errors#"


class BodyMalformed(InputError):
    """The body is not what its content type says: broken JSON, broken multipart, broken base64."""

    code = "malformed_body"


class BodyInvalid(InputError):
    """The body is readable and its contents are not what the route takes; ``issues`` names each place."""

    code = "invalid_request"

    def __init__(self, message: str, issues: list[dict[str, str]]) -> None:
        super().__init__(message)
        self.issues = issues


class BodyTooLarge(InputError):
    code = "body_too_large"


class BodyTooSlow(InputError):
    code = "body_too_slow"


class LengthAmbiguous(InputError):
    """Two lengths for one body: what one server takes for its end, another takes for a new request."""

    code = "ambiguous_length"


class HeadersTooLarge(InputError):
    code = "headers_too_large"


class Unauthenticated(InputError):
    """No key, or a wrong one; the answer names the ways to send one."""

    code = "unauthenticated"


class Forbidden(InputError):
    """Who asks is known, or asks from a place, that may not do this."""

    code = "forbidden"


class MediaTypeUnsupported(InputError):
    code = "unsupported_media_type"


class UrlNotAllowed(InputError):
    """A picture's address that is not fetched from: switched off, not plain, a host not listed or not public."""

    code = "url_not_allowed"


class UrlFailed(InputError):
    """A picture's address that was asked and did not give the picture."""

    code = "url_failed"


class RouteUnknown(errors.NotFound):
    code = "route_not_found"


class MethodNotAllowed(InputError):
    code = "method_not_allowed"


class ModelUnknown(errors.NotFound):
    code = "model_not_found"


class ReloadRunning(errors.ServiceError):
    """A generation is being put in the place of another, or requests still hold the one before."""

    code = "reload_running"


class NothingBefore(errors.ServiceError):
    """This process has served one generation only; there is none to go back to."""

    code = "no_previous_generation"


class LiveWritesOff(InputError):
    """Items are to be changed where nobody has allowed it."""

    code = "live_writes_off"


class LiveUnavailable(errors.ServiceError):
    """Items cannot be changed, and the operator has to mend it; searching goes on."""

    code = "live_unavailable"


class LiveFull(errors.Overloaded):
    """As many live changes wait for compaction as may."""

    code = "live_full"


class CompactionRunning(errors.ServiceError):
    """The live changes are being built into a generation already, or the one served is not the one to build on."""

    code = "compaction_running"


STATUSES: Mapping[type[SightlineError], int] = {
    errors.InputError: 422,
    errors.ImageTooLarge: 413,
    errors.ImageFormatError: 415,
    BodyMalformed: 400,
    BodyTooLarge: 413,
    BodyTooSlow: 408,
    LengthAmbiguous: 400,
    HeadersTooLarge: 431,
    Unauthenticated: 401,
    Forbidden: 403,
    MediaTypeUnsupported: 415,
    MethodNotAllowed: 405,
    errors.NotFound: 404,
    errors.ConfigurationError: 500,
    errors.EncoderMismatch: 409,
    errors.HubUnreachable: 503,
    errors.VerificationError: 500,
    errors.CollectionCorrupt: 422,  # a generation that an administrator wants served
    errors.StorageError: 507,
    errors.TooManyFailures: 500,
    errors.TrainingStopped: 500,
    ReloadRunning: 409,
    NothingBefore: 409,
    LiveWritesOff: 403,
    CompactionRunning: 409,
    errors.Overloaded: 429,
    errors.NotReady: 503,
    errors.DeadlineExceeded: 504,
    errors.EncodingFailed: 500,
    errors.ServiceError: 503,
    errors.SightlineError: 500,
}
"""Each class of the tree, or its nearest ancestor, to an HTTP status."""

SHOWN = (errors.InputError, errors.NotFound, errors.ServiceError)
"""Errors whose sentence the caller may read."""
CHALLENGES = ('Bearer realm="Sightline"', 'Basic realm="Sightline", charset="UTF-8"')
"""How to send a key. The second makes a browser ask for it, as the password, so that the web page works."""
_OPERATOR = (
    "The service cannot answer because of its set-up; its operator finds the reason in the log under this request id."
)
_INTERNAL = "The service failed on this request; its operator finds the reason in the log under this request id."


class Problem(BaseModel):
    """RFC 9457 problem details. Further members (limits and sizes) may follow."""

    model_config = ConfigDict(extra="allow")

    type: str
    title: str
    status: int
    detail: str
    code: str
    request_id: str


def status_of(error: type[SightlineError]) -> int:
    """The HTTP status of an error class: its own, or its nearest ancestor's."""
    return next(STATUSES[ancestor] for ancestor in error.__mro__ if ancestor in STATUSES)


def problem_kinds() -> set[type[SightlineError]]:
    """Every error class that is loaded."""
    found: set[type[SightlineError]] = set()
    ahead: list[type[SightlineError]] = [SightlineError]
    while ahead:
        kind = ahead.pop()
        found.add(kind)
        ahead += kind.__subclasses__()
    return found


def problem_of(error: BaseException, request_id: str, *, operator: bool = False) -> dict[str, Any]:
    """The problem document of any exception; what is not a SightlineError becomes a bare 500.

    An ``operator`` reads every sentence of ours, also about set-up, storage and damage.
    """
    if not isinstance(error, SightlineError):
        return _document(500, "internal", _INTERNAL, request_id)
    shown = operator or isinstance(error, SHOWN)
    document = _document(status_of(type(error)), error.code, error.message if shown else _OPERATOR, request_id)
    if shown:
        document |= {name: value for name, value in error.details.items() if name not in document}
    if isinstance(error, BodyInvalid):
        document["errors"] = error.issues
    return document


def openai_error_of(error: BaseException, request_id: str) -> tuple[int, dict[str, Any]]:
    """The same error in OpenAI's shape, for the routes its clients use. Returns the status and the document."""
    problem = problem_of(error, request_id)
    status = problem["status"]
    kind = "rate_limit_error" if status == 429 else "invalid_request_error" if status < 500 else "server_error"
    param = None
    if isinstance(error, BodyInvalid) and error.issues:
        param = error.issues[0]["pointer"].strip("/") or None
    elif "input" in problem:
        param = f"input[{problem['input']}]"
    body = {"message": problem["detail"], "type": kind, "param": param, "code": problem["code"]}
    return status, {"error": body, "request_id": request_id}


def problem_response(
    error: BaseException, request_id: str, *, openai: bool = False, operator: bool = False
) -> Response:
    """The answer to an error, with ``Retry-After`` where trying again helps."""
    headers = {"Cache-Control": "no-store"}
    if isinstance(error, errors.Overloaded | errors.NotReady):
        headers["Retry-After"] = str(error.details.get("retry_after_seconds", 1))
    if isinstance(error, LengthAmbiguous):
        headers["Connection"] = "close"
    if isinstance(error, errors.ShuttingDown):
        headers["Connection"] = "close"  # so that the next request goes to another replica
    if isinstance(error, MethodNotAllowed):
        headers["Allow"] = str(error.details.get("allow", ""))
    if openai:
        status, document = openai_error_of(error, request_id)
        response = JSONResponse(document, status, headers)
    else:
        document = problem_of(error, request_id, operator=operator)
        response = JSONResponse(document, document["status"], headers, media_type=PROBLEM_TYPE)
    if isinstance(error, Unauthenticated):
        for challenge in CHALLENGES:
            response.headers.append("WWW-Authenticate", challenge)
    return response


def _document(status: int, code: str, detail: str, request_id: str) -> dict[str, Any]:
    return {
        "type": f"{TYPE_PREFIX}{code}",
        "title": http.HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
        "code": code,
        "request_id": request_id,
    }
