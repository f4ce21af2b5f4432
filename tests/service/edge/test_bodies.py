"""Base64, JSON and validation errors, without a service around them."""

from __future__ import annotations

import base64

import pytest

from service.edge.bodies import decode_base64, explain, parse_json
from service.edge.problems import BodyInvalid, BodyMalformed
from service.openapi.dialects import EmbeddingsBody
from service.openapi.schemas import SearchParameters, TextToImageBody, ZeroShotParameters
from sightline.errors import ImageCorrupt, ImageTooLarge, QueryError, SightlineError

DATA = bytes(range(200))
ENCODED = base64.b64encode(DATA).decode()


@pytest.mark.parametrize(
    "text",
    [
        ENCODED,
        f"data:image/png;base64,{ENCODED}",
        f"DATA:image/png;charset=x;BASE64,{ENCODED}",
        base64.encodebytes(DATA).decode(),
        base64.encodebytes(DATA).decode().replace("\n", "\r\n"),
    ],
)
def test_base64_in_every_form_that_clients_send(text: str) -> None:
    assert decode_base64(text, max_bytes=200) == DATA


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("not base64!", BodyMalformed),
        (ENCODED[:-1], BodyMalformed),
        ("ä" * 8, BodyMalformed),
        ("data:image/png,abc", BodyMalformed),
        ("data:image/png;base64", BodyMalformed),
        ("https://example.org/cat.jpg", BodyMalformed),
        ("", ImageCorrupt),
        ("data:image/png;base64,", ImageCorrupt),
        ("!" * 1000, ImageTooLarge),  # too long: refused before the signs are looked at
    ],
)
def test_what_is_not_base64_of_a_picture(text: str, kind: type[SightlineError]) -> None:
    with pytest.raises(kind):
        decode_base64(text, max_bytes=200)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"  ",
        b"{",
        b"{'a': 1}",
        b'{"a": NaN}',
        b'{"a": -Infinity}',
        b'{"a": "\xff"}',
        b"[" * 100_000,
        b'{"a": 1} x',
    ],
)
def test_what_is_not_json(body: bytes) -> None:
    with pytest.raises(BodyMalformed):
        parse_json(body)


def explained(
    model: type[TextToImageBody] | type[ZeroShotParameters] | type[EmbeddingsBody], values: object
) -> BodyInvalid:
    from pydantic import ValidationError

    with pytest.raises(ValidationError) as caught:
        model.model_validate(values, strict=True)
    return explain(caught.value, model)


@pytest.mark.parametrize(
    ("values", "pointer", "sentence"),
    [
        ({}, "/text", "'text' is missing; add it."),
        ({"text": "a", "k": 0}, "/k", "'k' is too small; the smallest value is 1."),
        ({"text": "a", "k": 1001}, "/k", "'k' is too large; the largest value is 1000."),
        ({"text": "a", "k": "3"}, "/k", "'k' has the wrong type; it must be a whole number."),
        ({"text": "a", "k": True}, "/k", "'k' has the wrong type; it must be a whole number."),
        ({"text": "a", "min_score": 2}, "/min_score", "'min_score' is too large; the largest value is 1.0."),
        ({"text": "a", "filter": []}, "/filter", "'filter' has the wrong type; it must be an object."),
        ({"text": "a", "top": 1}, "/top", "'top' is not known here; the keys are k, filter, min_score, text."),
        ({"text": 3}, "/text", "'text' has the wrong type; it must be a string or a list."),
        ({"text": []}, "/text", "'text' is an empty list; give at least 1."),
        ({"text": ["a"] * 65}, "/text", "'text' has too many entries; the limit is 64."),
        ({"text": ["a", None]}, "/text/1", "An entry of 'text' has the wrong type; it must be a string."),
    ],
)
def test_validation_in_one_sentence(values: object, pointer: str, sentence: str) -> None:
    error = explained(TextToImageBody, values)
    assert error.message == sentence
    assert error.issues == [{"pointer": pointer, "detail": sentence}]


def test_several_issues_are_all_listed() -> None:
    error = explained(TextToImageBody, {"k": 0, "x" * 500: 1})
    assert {issue["pointer"][:3] for issue in error.issues} == {"/te", "/k", "/xx"}
    assert all(len(issue["detail"]) < 200 for issue in error.issues)


def test_lists_of_something_else_are_refused_in_words() -> None:
    error = explained(EmbeddingsBody, {"input": [1.5, 2.5]})
    assert error.message == "An entry of 'input' has the wrong type; it must be a string or an object."


@pytest.mark.parametrize("tokens", [[1, 2], [[1, 2], [3]], [[]]])
def test_token_lists_are_refused_in_words(tokens: object) -> None:
    with pytest.raises(QueryError, match="Token ids are not taken"):
        EmbeddingsBody.model_validate({"input": tokens}, strict=True)


def test_the_query_string_is_converted_where_json_is_not() -> None:
    assert SearchParameters.model_validate({"k": "7", "min_score": "0.5"}).k == 7
