"""Every error has a status and an answer, and no answer tells what is not ours to tell."""

from __future__ import annotations

import http

import pytest

from service.edge import problems
from service.edge.problems import BodyInvalid, openai_error_of, problem_kinds, problem_of, problem_response, status_of
from sightline import errors
from sightline.errors import SightlineError

SECRET = "0x7f5a secret /home/somebody"
KINDS = sorted(
    (kind for kind in problem_kinds() if kind.__module__ in (errors.__name__, problems.__name__)),
    key=lambda kind: kind.__name__,
)


def make(kind: type[SightlineError], message: str = "A sentence.") -> SightlineError:
    return BodyInvalid(message, []) if kind is BodyInvalid else kind(message, limit=3)


def test_the_walk_finds_the_whole_tree() -> None:
    declared = {
        value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, SightlineError)
    }
    assert declared <= set(KINDS)
    assert {problems.BodyMalformed, problems.MethodNotAllowed} <= set(KINDS)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_error_class_becomes_a_problem(kind: type[SightlineError]) -> None:
    document = problem_of(make(kind), "request-1")
    assert document["status"] == status_of(kind)
    assert http.HTTPStatus(document["status"]).phrase == document["title"]
    assert document["status"] >= 400
    assert document["code"] == kind.code
    assert document["type"] == f"/docs/errors#{kind.code}"
    assert document["request_id"] == "request-1"
    response = problem_response(make(kind), "request-1")
    assert response.status_code == document["status"]
    assert response.headers["content-type"] == "application/problem+json"


def test_codes_are_unique() -> None:
    codes = [kind.code for kind in KINDS]
    assert len(set(codes)) == len(codes)


@pytest.mark.parametrize("kind", [k for k in KINDS if not issubclass(k, problems.SHOWN)], ids=lambda k: k.__name__)
def test_an_operators_error_tells_the_caller_nothing_of_the_set_up(kind: type[SightlineError]) -> None:
    assert SECRET not in str(problem_of(make(kind, SECRET), "request-1"))


def test_an_unexpected_exception_tells_nothing_at_all() -> None:
    document = problem_of(ValueError(SECRET), "request-1")
    assert (document["status"], document["code"]) == (500, "internal")
    assert SECRET not in str(document)
    assert SECRET not in str(openai_error_of(ValueError(SECRET), "request-1"))


def test_details_are_members_and_never_replace_the_document() -> None:
    document = problem_of(errors.Overloaded("Busy.", retry_after_seconds=7, status="mine"), "request-1")
    assert document["retry_after_seconds"] == 7
    assert document["status"] == 429


def test_refusals_that_pass_say_when_to_come_back() -> None:
    assert problem_response(errors.Overloaded("Busy.", retry_after_seconds=7), "r").headers["retry-after"] == "7"
    assert problem_response(errors.NotReady("Starting."), "r").headers["retry-after"] == "1"
    assert "retry-after" not in problem_response(errors.QueryError("Wrong."), "r").headers


@pytest.mark.parametrize(
    ("error", "kind", "param"),
    [
        (BodyInvalid("'k' is too large.", [{"pointer": "/k", "detail": "…"}]), "invalid_request_error", "k"),
        (errors.TextError("Empty.", input=3), "invalid_request_error", "input[3]"),
        (errors.Overloaded("Busy."), "rate_limit_error", None),
        (errors.EncodingFailed("Failed."), "server_error", None),
    ],
)
def test_openais_shape(error: SightlineError, kind: str, param: str | None) -> None:
    status, document = openai_error_of(error, "request-1")
    assert status == status_of(type(error))
    assert document["error"]["type"] == kind
    assert document["error"]["param"] == param
    assert document["error"]["code"] == error.code
    assert document["error"]["message"] == error.message
