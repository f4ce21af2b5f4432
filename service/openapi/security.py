"""Keys in the OpenAPI document: how to send one, and which operations answer 401 and 403."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from service.edge.intake import PROBE_PATHS
from service.edge.keys import is_for_admins
from service.edge.middleware import OPENAI_PATHS
from service.edge.problems import Forbidden, Problem, Unauthenticated
from service.openapi.documentation import answers, openai_answers

SCHEMES: dict[str, dict[str, str]] = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "`Authorization: Bearer KEY`"},
    "apiKey": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
    "basic": {
        "type": "http",
        "scheme": "basic",
        "description": "Any user name, the key as the password: for browsers.",
    },
}


def with_security(openapi: Callable[[], dict[str, Any]], *, needs_key: bool) -> Callable[[], dict[str, Any]]:
    """The document with keys described, in one pass over all operations, so that no route is forgotten.

    The schemes and the 401 are always there, so that generated clients do not depend on a service's set-up; that a
    key is required is said where it is.
    """

    def secured() -> dict[str, Any]:
        made = openapi()
        if "securitySchemes" not in made["components"]:
            made["components"]["securitySchemes"] = SCHEMES
            for path, operations in made["paths"].items():
                if path not in PROBE_PATHS:
                    for method, operation in operations.items():
                        _secure(path, method, operation, needs_key)
        return made

    return secured


def _secure(path: str, method: str, operation: dict[str, Any], needs_key: bool) -> None:
    kinds = (Unauthenticated, Forbidden) if is_for_admins(path, method.upper()) else (Unauthenticated,)
    refusals = (openai_answers if path in OPENAI_PATHS else answers)(Problem, {}, kinds)
    for status, answer in refusals.items():
        if status != 200:
            described = operation["responses"].setdefault(str(status), {"content": {}})
            described["description"] = "; ".join(filter(None, (described.get("description"), answer["description"])))
            for kind, content in answer["content"].items():
                known = described["content"].setdefault(kind, {**content, "examples": {}})
                known["examples"] = {**known["examples"], **content["examples"]}
    if needs_key:
        operation["security"] = [{name: []} for name in SCHEMES]
